"""Studies: read from TOML, run cell by cell, each cell a file that is not made twice."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import nn

from poco import cells as cells_of
from poco import models
from poco.baselines.fitted import BASELINE_PATIENCE, fit_baseline
from poco.data.preprocess import butterworth
from poco.data.recording import Recording
from poco.data.simulate import simulate
from poco.data.splits import Split, shorten, split
from poco.errors import ConfigError, MissingExtraError
from poco.files import read_json, write_json
from poco.scores import Scores, SessionScore
from poco.scoring import score_forecasters
from poco.studies import zapbench
from poco.studies.adaptation import Others, animals, curve, learnt_from
from poco.training import TrainConfig, recipe
from poco.training.config import BATCH_SIZE
from poco.training.trainer import Trainer, choose_label

if TYPE_CHECKING:
    from poco.nn import POCO

FOLDER = Path(__file__).parent
#: The published filters: cut-offs in cycles a frame; forwards and backwards, not padded.
FILTERS: Mapping[str, Mapping[str, Any]] = {
    "low": {"high": 0.1, "padded": False},
    "band": {"low": 0.0005, "high": 0.1, "padded": False},
}
#: A POCO is validated at least so many times, however few steps it is trained for.
LEAST_VALIDATIONS = 20
#: Sizes of a study made small, to see that it runs: of its simulation, and of the rest.
REDUCED = {"animals": 2, "units": 8, "frames": 400}
REDUCED_STEPS = 3


@dataclasses.dataclass(frozen=True)
class Study:
    """An experiment.

    Attributes:
        name: its name.
        title: what it asks.
        forecasters: names of baselines, or ``"poco"``, the published POCO.
        training: ``"multi"``, one model of all sessions, ``"dataset"``, one for each data set, and ``"single"``, one
            for each session; where an animal is left out, modes of :func:`poco.adapt`.
        steps: gradient steps of each model; where an animal is left out, of adaptation.
        vary: what is varied: ``"context"``, ``"sessions"`` (how many, the first ones), ``"frames"`` (how many of each
            session are learnt from, see :func:`poco.data.splits.shorten`), ``"animal"`` (which is left out and then
            adapted to), ``"filter"`` (none, low, band), an option of POCO (``"model.latents"``; ``"model"`` for several
            at a time), of its training (``"training.learning_rate"``) or of the simulation
            (``"simulate.individuality"``); empty for nothing.
        values: its values; of ``"animal"`` those of the recordings; of ``"model"`` names of :attr:`options`.
        options: options of POCO by the name of each value, each with its ``name``.
        frames: how many frames of an animal left out are adapted to, each in turn; None for all.
        base_steps: most gradient steps of the model of the other animals.
        sources: which data sets that model learns from, each in turn: that of the animal left out (``"same"``), the
            ``"other"`` ones, or ``"both"``; None for all there are.
        simulate: arguments of :func:`poco.data.simulate.simulate`, for a study of simulated recordings.
        form: ``"zapbench"`` for that benchmark's own cut and error, see :mod:`poco.studies.zapbench`; each value is
            then one of :attr:`options`, with a ``context``.
        epochs: passes over the windows for training, in place of steps, of that form.
    """

    name: str
    title: str
    forecasters: tuple[str, ...]
    training: tuple[str, ...] = ("multi",)
    steps: int = 5000
    vary: str = ""
    values: tuple[Any, ...] = (None,)
    options: tuple[Mapping[str, Any], ...] = ()
    frames: tuple[int | None, ...] = (None,)
    base_steps: int | None = None
    sources: tuple[str | None, ...] = (None,)
    simulate: Mapping[str, Any] | None = None
    form: str = ""
    epochs: int | None = None

    def option(self, name: Any) -> Mapping[str, Any]:
        """The options of POCO by their name."""
        return next(option for option in self.options if option["name"] == name)


Job = tuple[Study, dict[str, Any], Sequence[Recording], Path]


def names() -> tuple[str, ...]:
    """Names of the studies that there are."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.toml")))


def load(name: str) -> Study:
    """A study by name; a ConfigError lists those that there are."""
    if name not in names():
        raise ConfigError(f"there is no study '{name}': the studies are {', '.join(names())}")
    try:
        import tomllib
    except ModuleNotFoundError:
        try:
            import tomli as tomllib  # type: ignore[no-redef]
        except ImportError:
            raise MissingExtraError.of("tomli", "formats", "reading a study on Python 3.10") from None
    found = tomllib.loads((FOLDER / f"{name}.toml").read_text())
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in found.items()}
    return Study(name, **fields)


def run(
    study: Study,
    out: Path,
    recordings: Sequence[Recording] = (),
    *,
    protocol: str = "published",
    seeds: int = 3,
    steps: int | None = None,
    batch: int | None = None,
    simulation: Mapping[str, Any] | None = None,
    label: str | None = None,
    reduced: bool = False,
    processes: int = 1,
    report: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Make the cells of a study that are not in ``out`` yet; returns all of them.

    Args:
        study: the experiment.
        out: folder of the cells.
        recordings: what it runs on; a study of simulated recordings needs none.
        protocol: ``"published"`` or ``"leak-free"``.
        seeds: seeds 0, 1, ...; a simulation has other animals for each.
        steps: gradient steps of each model; default the study's.
        batch: windows of each step; default as published.
        simulation: sizes that replace those of the study's simulation.
        label: of the units, for a POCO that embeds it; default the only one there is.
        reduced: one seed, two values and very few steps: to see that the study runs.
        processes: cells made at a time.
        report: called with a line for each cell.

    Raises:
        ConfigError: if it needs recordings and none are given or too short ones, the windows of a step are not its to
            choose, or cells in ``out``, or models beside them, were made of other recordings or with other settings.
    """
    cells_of.at_least_one(steps=steps, batch=batch, seeds=seeds)
    if batch is not None and (study.form or study.base_steps):
        raise ConfigError(f"the study '{study.name}' has steps of its own: leave out batch (--batch)")
    if study.simulate is not None:
        recordings = ()
    elif not recordings:
        raise ConfigError(f"the study '{study.name}' needs recordings: give some (recordings, --data)")
    if study.vary == "model":
        study = dataclasses.replace(study, values=tuple(option["name"] for option in study.options))
    if study.form == zapbench.PROTOCOL:
        protocol = zapbench.PROTOCOL
        why = {value: zapbench.misfit(recordings, study.option(value)["context"]) for value in study.values}
        for value, reason in why.items():
            if reason:
                report(f"{study.name}, {value}: left out, {reason}")
        study = dataclasses.replace(study, values=tuple(value for value in study.values if not why[value]))
        if not study.values:
            raise ConfigError(f"the study '{study.name}' does not fit these recordings: {next(iter(why.values()))}")
    if study.vary == "animal":
        study = dataclasses.replace(study, values=animals(recordings))
        for animal, source in itertools.product(study.values, study.sources):
            learnt_from(recordings, animal, source)  # or an error, before anything is trained
    if study.simulate is not None and simulation:
        study = dataclasses.replace(study, simulate={**study.simulate, **simulation})
    if reduced:
        small = None if study.simulate is None else {**study.simulate, **REDUCED}
        base_steps = None if study.base_steps is None else REDUCED_STEPS
        study = dataclasses.replace(study, simulate=small, values=study.values[:2], base_steps=base_steps)
        seeds = 1
    study = dataclasses.replace(study, values=_possible(study, recordings))
    if steps is None:
        steps = REDUCED_STEPS if reduced else study.steps if study.epochs is None else None
    out.mkdir(parents=True, exist_ok=True)
    of = cells_of.recordings_of(recordings)
    left = []
    for seed in range(seeds):
        for value in study.values:
            for training in study.training:
                for forecaster, frames, source in itertools.product(study.forecasters, study.frames, study.sources):
                    cell = {
                        "study": study.name,
                        "forecaster": forecaster,
                        "training": training,
                        "value": value,
                        "seed": seed,
                        "steps": steps,
                        "batch": batch,
                        "protocol": protocol,
                        "recordings": of,
                        "simulate": study.simulate,
                        "base_steps": study.base_steps,
                        "frames": frames,
                        "source": source,
                        "label": label,
                    }
                    shown = " ".join(str(what) for what in (training, frames, source) if what is not None)
                    file = cells_of.file_of(out, study.name, value, shown, forecaster, seed)
                    if not file.exists():
                        left.append((study, cell, recordings, file))
                    else:
                        cells_of.check(file, read_json(file, "results"), cell)
    bases = [job for job in _bases(left) if not _is_trained(job)]
    with ExitStack() as stack:
        each: Callable[..., Iterable[str]] = map
        if processes > 1:  # spawned: a fork of a process with threads may hang
            each = stack.enter_context(ProcessPoolExecutor(processes, get_context("spawn"))).map
        for made in each(_base, bases):  # all of them before any cell: a pool takes up what it is given at once
            report(made)
        for made in each(_make, left):
            report(made)
    return [cell for cell in cells(out) if cell["study"] == study.name]


def _possible(study: Study, recordings: Sequence[Recording]) -> tuple[Any, ...]:
    """The values that there are enough recordings for, or frames in one; a ConfigError if there is none."""
    if study.vary not in ("sessions", "frames") or study.simulate is not None:
        return study.values
    longest = max(recordings, key=lambda recording: recording.frames)
    most, there = len(recordings), f"there are {len(recordings)}"
    if study.vary == "frames":
        most, there = longest.frames, f"the longest recording, '{longest.session}', has {longest.frames}"
    found = tuple(value for value in study.values if value <= most)
    if not found:
        least = min(study.values)
        raise ConfigError(
            f"the study '{study.name}' needs {least} {study.vary}, {there}: give more (recordings, --data)"
        )
    return found


def _bases(left: Sequence[Job]) -> list[Job]:
    """A job for each model of the animals that are not left out."""
    return list({_folder(job): job for job in left if job[1]["base_steps"]}.values())


def _folder(job: Job) -> Path:
    """The folder of that model, beside the cells."""
    _, cell, _, file = job
    source = "" if cell["source"] is None else f"-{cell['source']}"
    return file.parent / "models" / f"without-{cells_of.safe(cell['value'])}-{cell['seed']}{source}"


def _others(job: Job) -> Others:
    """What that model learns from, and how."""
    _, cell, recordings, _ = job
    some = learnt_from(recordings, cell["value"], cell["source"])
    return Others(some, cell["seed"], cell["base_steps"], cell["protocol"])


def _is_trained(job: Job) -> bool:
    """Whether it is there; a ConfigError if it learnt from other recordings, or in another way."""
    folder = _folder(job)
    if not folder.exists():
        return False
    _others(job).check(folder)
    return True


def _base(job: Job) -> str:
    """Train and keep that model."""
    folder = _folder(job)
    _others(job).train(folder)
    return f"{folder.name}: trained"


def _left_out(job: Job) -> str:
    """One cell of an animal left out: adapt to each of its recordings."""
    _, cell, recordings, file = job
    options = (cell["training"], cell["seed"], cell["steps"], cell["protocol"], cell["frames"])
    model = cast("POCO", models.load(_folder(job)))
    curves = [curve(model, recording, *options) for recording in recordings if recording.subject == cell["value"]]
    score = sum(c["after"] for c in curves) / len(curves)
    seconds = sum(c["history"][-1][1] for c in curves)
    write_json(file, {**cell, "score": score, "seconds": round(seconds, 2), "curves": curves})
    return f"{file.stem}: {score:.4f}"


def _zapbench(job: Job) -> str:
    """One cell of the benchmark."""
    study, cell, recordings, file = job
    assert study.epochs is not None
    began, option = time.process_time(), study.option(cell["value"])
    found = zapbench.score(cell["forecaster"], recordings, option, cell["seed"], cell["steps"], study.epochs)
    write_json(file, {**cell, **found, "seconds": round(time.process_time() - began, 2)})
    return f"{file.stem}: mean absolute error {sum(found['mae_per_step']) / len(found['mae_per_step']):.4g}"


def _make(job: Job) -> str:
    """One cell: fit, score, write."""
    study, cell, recordings, file = job
    if cell["base_steps"]:
        return _left_out(job)
    if study.form == zapbench.PROTOCOL:
        return _zapbench(job)
    value, seed, vary = cell["value"], cell["seed"], study.vary
    if study.simulate is not None:
        varied = {vary.removeprefix("simulate."): value} if vary.startswith("simulate.") else {}
        recordings = simulate(**{**study.simulate, **varied, "seed": seed})
    if vary == "sessions":
        recordings = recordings[:value]
    if vary == "filter" and value != "none":
        recordings = [butterworth(recording, **FILTERS[value]) for recording in recordings]
    context = value if vary == "context" else 48
    began = time.process_time()
    scores: list[SessionScore] = []
    model: nn.Module
    given = {"seed": seed, "steps": cell["steps"], "batch_size": cell["batch"] or BATCH_SIZE}
    for group in _groups(recordings, cell["training"]):
        data = split(group, protocol=cell["protocol"], context=context)
        if vary == "frames":
            data = shorten(data, value)
        if cell["forecaster"] == "poco":
            settings = recipe("published")[1]
            every = min(settings.val_every, -(-cell["steps"] // LEAST_VALIDATIONS))
            settings = dataclasses.replace(settings, **given, val_every=every)
            model = _poco(study, data, value, settings, cell["label"])
        else:
            settings = TrainConfig(**given, patience=BASELINE_PATIENCE)
            model = fit_baseline(cell["forecaster"], data, config=settings)
        scores += score_forecasters({"": model}, data)[""].sessions
    found = Scores(sum(s.score for s in scores) / len(scores), tuple(scores))
    made = {
        "score": found.score,
        "score_per_step": list(found.score_per_step),
        "score_by_session": {one.session: one.score for one in scores},
    }
    write_json(file, {**cell, "vary": vary, **made, "seconds": round(time.process_time() - began, 2)})
    return f"{file.stem}: {found.score:.4f}"


def _groups(recordings: Sequence[Recording], training: str) -> list[list[Recording]]:
    """The recordings of each model: all, those of each data set, or each alone."""
    if training == "single":
        return [[recording] for recording in recordings]
    if training == "dataset":
        names = dict.fromkeys(recording.dataset for recording in recordings)
        return [[r for r in recordings if r.dataset == name] for name in names]
    return [list(recordings)]


def _poco(study: Study, data: Split, value: Any, settings: TrainConfig, label: str | None) -> nn.Module:
    """The published POCO, with what the study varies."""
    from poco.nn import POCOConfig

    group, _, name = study.vary.partition(".")
    sizes: dict[str, Any] = {"context": data.context}
    if data.context != 48:
        sizes["segment_length"] = max(1, data.context // 3)
    if group == "model":
        sizes |= {name: value} if name else {k: v for k, v in study.option(value).items() if k != "name"}
    if group == "training":
        settings = dataclasses.replace(settings, **{name: value})
    config = POCOConfig(**sizes)
    types = choose_label(data.recordings, label) if config.unit_type_embedding else None
    return Trainer(data, config, unit_types=types).train(settings)[0]


def cells(out: Path) -> list[dict[str, Any]]:
    """All cells of a folder, of any study."""
    return list(cells_of.read(out, 5).values())


def write_csv(cells: Sequence[Mapping[str, Any]], path: Path) -> None:
    """One tidy table, a row for each cell."""
    which = ("study", "value", "training", "forecaster", "frames", "source", "seed")
    cells_of.write_csv(cells, (*which, "score", "seconds", "steps", "batch", "protocol"), path)


def plot(cells: Sequence[Mapping[str, Any]], path: Path, *, per_step: bool = False) -> None:
    """Draw the scores of one study, or those of each step ahead, into an image.

    Raises:
        ConfigError: for results of several studies, or a kind of image that is not known.
        DataError: for scores of each step, if there are none.
        MissingExtraError: if matplotlib is missing.
    """
    from poco.plots.figures import save
    from poco.plots.studies import steps_figure, study_figure

    save((steps_figure if per_step else study_figure)(cells), path)
