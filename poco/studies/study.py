"""Studies: run cell by cell, each cell a file that is not made twice."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from torch import nn

from poco import cells as cells_of
from poco import models
from poco.baselines.fitted import BASELINE_PATIENCE, fit_baseline
from poco.data.preprocess import butterworth
from poco.data.recording import Recording
from poco.data.simulate import simulate
from poco.data.splits import Split, same_targets, shorten, split
from poco.errors import ConfigError
from poco.files import write_json
from poco.intervals import block_length, interval, resampled_scores
from poco.scores import Scores
from poco.scoring import score_forecasters
from poco.studies import zapbench
from poco.studies.adaptation import Others, animals, curve, learnt_from
from poco.studies.definition import FILTERS, Study
from poco.studies.processes import in_processes
from poco.training import TrainConfig, recipe
from poco.training.config import BATCH_SIZE
from poco.training.trainer import Trainer, choose_label

if TYPE_CHECKING:
    from poco.nn import POCO

#: A POCO is validated at least so many times, however few steps it is trained for.
LEAST_VALIDATIONS = 20
#: Sizes of a study made small, to see that it runs: of its simulation, and of the rest.
REDUCED = {"animals": 2, "units": 8, "frames": 400}
REDUCED_STEPS = 3

Job = tuple[Study, dict[str, Any], Sequence[Recording], Path]


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
    threads: int | None = None,
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
        threads: of torch in each of several processes; default their share of the processors.
        report: called with a line for each cell.

    Raises:
        ConfigError: if it needs recordings and none are given or too short ones, the windows of a step are not its to
            choose, or cells in ``out``, or models beside them, were made of other recordings or with other settings.
        PocoError: if one of several processes is killed.
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
        if all(why.values()):
            raise ConfigError(f"the study '{study.name}' does not fit these recordings: {next(iter(why.values()))}")
        study = dataclasses.replace(study, values=tuple(value for value in study.values if not why[value]))
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
    study = _possible(study, recordings, protocol, report)
    if steps is None:
        steps = REDUCED_STEPS if reduced else study.steps if study.epochs is None else None
    out.mkdir(parents=True, exist_ok=True)
    of = cells_of.recordings_of(recordings)
    labels = {value: _labels(study, value, recordings, label) for value in study.values}
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
                        "datasets": [recording.dataset for recording in recordings],
                        "subjects": [recording.subject for recording in recordings] if study.base_steps else None,
                        **labels[value],
                        "vary": study.vary,
                        "option": study.sizes(value),
                        "scored_sessions": min(study.values) if study.vary == "sessions" else None,
                        "longest_context": max(study.values) if study.vary == "context" else None,
                        "simulate": study.simulate,
                        "epochs": study.epochs,
                        "base_steps": study.base_steps,
                        "frames": frames,
                        "source": source,
                    }
                    shown = " ".join(str(what) for what in (training, frames, source) if what is not None)
                    file = cells_of.file_of(out, study.name, value, shown, forecaster, seed)
                    if not file.exists():
                        left.append((study, cell, recordings, file))
                    else:
                        cells_of.check(file, cells_of.read_one(file), cell)
    if study.vary == "sessions" and left:
        names = ", ".join(recording.session for recording in recordings[: min(study.values)])
        report(f"{study.name}: scores are of {names or 'the first'}, which all values learn from")
    bases = [job for job in _bases(left) if not _is_trained(job)]
    with in_processes(processes, threads) as each:
        for made in each(_base, bases):  # all of them before any cell: a pool takes up what it is given at once
            report(made)
        for made in each(_make, left):
            report(made)
    return [cell for cell in cells(out) if cell["study"] == study.name]


def _possible(study: Study, recordings: Sequence[Recording], protocol: str, report: Callable[[str], None]) -> Study:
    """The study with what there are enough recordings for, or frames to learn from in each; the rest is told of.

    Raises:
        ConfigError: if nothing is left, or so few frames hold no window.
    """
    if study.vary == "sessions":
        field, what, values = "values", "sessions", study.values
    elif study.vary == "frames" or study.frames != (None,):
        field, what = ("values" if study.vary == "frames" else "frames"), "frames to learn from"
        values = getattr(study, field)
    else:
        return study
    if study.simulate is not None:
        recordings = simulate(**study.simulate)
    most, there = len(recordings), f"there are {len(recordings)}"
    if study.vary != "sessions":
        cut = split(recordings, protocol=protocol)
        most = min(cut.frames_to_learn)
        there = f"session '{recordings[cut.frames_to_learn.index(most)].session}' has {most}"
    found = tuple(value for value in values if value is None or value <= most)
    if not found:
        raise ConfigError(
            f"the study '{study.name}' needs {min(values)} {what}, {there}: give more (recordings, --data)"
        )
    left_out = ", ".join(str(value) for value in values if value not in found)
    if left_out:
        report(f"{study.name}, {left_out} {what}: left out, {there}")
    if study.vary != "sessions" and any(found):
        shorten(cut, min(value for value in found if value is not None))  # or an error, before anything is trained
    return dataclasses.replace(study, frames=found) if field == "frames" else dataclasses.replace(study, values=found)


def _labels(study: Study, value: Any, recordings: Sequence[Recording], label: str | None) -> dict[str, str | None]:
    """The label of the units that a value's POCO embeds, and SHA-256 of all units' labels, where it embeds one."""
    if not study.sizes(value).get("unit_type_embedding"):
        return {"label": None, "labels": None}
    if study.simulate is not None:  # of which the settings are kept
        return {"label": label, "labels": None}
    label = choose_label(recordings, label)
    units = [recording.labels[label] for recording in recordings]
    return {"label": label, "labels": hashlib.sha256(repr(units).encode()).hexdigest()}


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
    compared = [recording.session for recording in recordings[: cell["scored_sessions"]]]
    if vary == "sessions":
        recordings = recordings[:value]
    if vary == "filter" and value != "none":
        recordings = [butterworth(recording, **FILTERS[value]) for recording in recordings]
    context = value if vary == "context" else 48
    began = time.process_time()
    scores: list[Scores] = []
    model: nn.Module
    given = {"seed": seed, "steps": cell["steps"], "batch_size": cell["batch"] or BATCH_SIZE}
    for group in _groups(recordings, cell["training"]):
        data = split(group, protocol=cell["protocol"], context=context)
        if vary == "frames":
            data = shorten(data, value)
        if vary == "context":
            data = same_targets(data, cell["longest_context"])
        if cell["forecaster"] == "poco":
            settings = recipe("published")[1]
            every = min(settings.val_every, -(-cell["steps"] // LEAST_VALIDATIONS))
            settings = dataclasses.replace(settings, **given, val_every=every)
            model = _poco(study, data, value, settings, cell["label"])
        else:
            settings = TrainConfig(**given, patience=BASELINE_PATIENCE)
            model = fit_baseline(cell["forecaster"], data, config=settings)
        scores.append(score_forecasters({"": model}, data)[""])
    made = _result(scores, compared, block_length(context, data.horizon))
    write_json(file, {**cell, **made, "seconds": round(time.process_time() - began, 2)})
    return f"{file.stem}: {made['score']:.4f}"


def _result(scores: Sequence[Scores], compared: Sequence[str], block: int) -> dict[str, Any]:
    """What a cell says of the scores of its models: of the sessions that are compared, and of each."""
    every = [one for found in scores for one in found.sessions]
    some = [one for one in every if one.session in compared]
    kept = np.repeat([one.session in compared for one in every], [one.windows for one in every])
    own, copy = (
        np.concatenate([errors for found in scores if (errors := getattr(found, name)) is not None])[kept]
        for name in ("window_error", "copy_window_error")
    )
    found = Scores(sum(one.score for one in some) / len(some), tuple(some))
    drawn = resampled_scores(own[None], copy, [one.windows for one in some], block)[0]
    return {
        "score": found.score,
        "interval": interval(drawn, most=1.0),
        "score_per_step": list(found.score_per_step),
        "score_by_session": {one.session: one.score for one in every},
    }


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
    sizes |= study.sizes(value)
    if group == "training":
        settings = dataclasses.replace(settings, **{name: value})
    config = POCOConfig(**sizes)
    types = choose_label(data.recordings, label) if config.unit_type_embedding else None
    return Trainer(data, config, unit_types=types).train(settings)[0]


def cells(out: Path) -> list[dict[str, Any]]:
    """All cells of a folder, of any study, in the order of its values where these are numbers, else of their files."""
    return sorted(cells_of.read(out, 5).values(), key=_place)


def _place(cell: Mapping[str, Any]) -> tuple[str, float]:
    value = cell["value"]
    return str(cell["study"]), value if isinstance(value, int | float) else 0.0


def write_csv(cells: Sequence[Mapping[str, Any]], path: Path) -> None:
    """One tidy table, a row for each cell; ``low`` and ``high`` are the ends of its interval over time."""
    which = ("study", "value", "training", "forecaster", "frames", "source", "seed")
    columns = (*which, "score", "low", "high", "seconds", "steps", "batch", "protocol")
    cells_of.write_csv(cells_of.with_ends(cells), columns, path)


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
