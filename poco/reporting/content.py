"""What a report says of one run or adapted model: scores, figures, cost, and how to make it again."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from poco import commands
from poco.adapted import Adapted
from poco.baselines import NAMES, TRAINED
from poco.data.recording import Recording
from poco.data.splits import Split
from poco.errors import CheckpointError, ConfigError, DataError, MissingExtraError
from poco.evaluation import evaluate
from poco.files import ADAPTATION, BASELINES, CONFIG, EVALUATION, read_json, write_json
from poco.installation import info
from poco.models import kind_of, members
from poco.parameters import count_solved, device_of
from poco.plots.style import label as shown_name
from poco.reporting import embeddings, figures
from poco.reporting.figures import Drawn
from poco.reporting.units import UnitResults, examples, unit_results
from poco.run import Run
from poco.scores import Evaluation
from poco.training.callbacks import Callback
from poco.unit_embeddings import Measure, choose, measures, untrained
from poco.unit_embeddings import embeddings as of_units
from poco.wording import counted

if TYPE_CHECKING:
    from poco.models import Forecaster

_MOST_MAPS = 4
_SHUFFLES = 999


@dataclass(frozen=True, eq=False)
class Subject:
    """A trained or adapted model with what it is scored on.

    Attributes:
        name: of its folder.
        folder: where it is; None for a run kept in memory.
        model: the forecaster.
        split: recordings and parts.
        run: where it was trained, or None for an adapted model.
        adapted: what adapting it found, or None for a run.
    """

    name: str
    folder: Path | None
    model: Forecaster
    split: Split
    run: Run | None
    adapted: Adapted | None


@dataclass(frozen=True, eq=False)
class Content:
    """What the page shows of a :class:`Subject`.

    Attributes:
        key: prefix of names, unique in a page.
        subject: what it is about.
        evaluation: its scores on the test part.
        verdict: whether it is ahead of what it is compared with, in words.
        figures: by section.
        cost: sizes and times, lines of (what, value).
        measures: how far embeddings tell regions apart: label, and for trained and untrained ones each measure.
        notes: by section, what could not be shown, and why.
        command: how to make it again.
        settings: all settings, as JSON.
    """

    key: str
    subject: Subject
    evaluation: Evaluation
    verdict: str
    figures: Mapping[str, list[Drawn]]
    cost: list[tuple[str, str]]
    measures: tuple[str, Mapping[str, Mapping[str, Measure]]] | None
    notes: Mapping[str, str]
    command: str
    settings: str


def open_subject(folder: Path | Run, data: Path | None = None) -> Subject:
    """A run, or what ``poco adapt`` wrote, with its recordings.

    Args:
        folder: the folder, or the run itself.
        data: where the recordings are now; default where they were.

    Raises:
        CheckpointError: if the folder holds neither.
        DataError: if the recordings are not there.
    """
    if not isinstance(folder, Run):
        if (folder / ADAPTATION).exists():
            adapted = Adapted.load(folder, data)
            return Subject(folder.resolve().name, folder, adapted.model, adapted.split, None, adapted)
        if not (folder / CONFIG).exists():
            raise CheckpointError(f"{folder} holds neither a run ('poco train') nor an adapted model ('poco adapt')")
        if "config" in read_json(folder / CONFIG, "settings"):
            raise CheckpointError(
                f"{folder} holds a model alone, and a report also shows what it was trained on: give the folder that "
                "'poco train' or 'poco adapt' wrote, which the model lies in"
            )
        folder = Run.load(folder)
    run = folder
    recordings = run.recordings if data is None and run.recordings is not None else run.read(data)
    name = run.folder.resolve().name if run.folder is not None else "run"
    return Subject(name, run.folder, run.model, run.split(recordings), run, None)


def score(subject: Subject, callbacks: Sequence[Callback] = (), *, trained: bool = True) -> Evaluation:
    """Scores of a subject on its test part; those that are not kept in its folder yet are made, and kept there.

    A run that was trained to be compared with some baselines alone, as with ``--no-baselines``, is compared with these.

    Args:
        subject: what to score.
        callbacks: what may watch the training of baselines, where there are no scores yet.
        trained: whether baselines that have to be trained are wanted too.
    """
    known = NAMES if subject.run is None else subject.run.baselines
    names = [name for name in known if trained or name not in TRAINED]
    there = None if subject.folder is None else Evaluation.kept(subject.folder / EVALUATION)
    if there is not None and set(names) <= set(there.baselines):
        return there
    wanted = " and ".join(name for name in names if name in TRAINED)
    for callback in callbacks if wanted else ():
        callback.message(f"scoring it; {wanted} to compare with are trained, this once (--no-baselines)")
    if subject.run is not None:
        return subject.run.evaluate(subject.split.recordings, baselines=names, callbacks=callbacks)
    assert subject.folder is not None
    folder = subject.folder / BASELINES
    evaluation = evaluate(subject.model, subject.split, baselines=names, folder=folder, callbacks=callbacks)
    write_json(subject.folder / EVALUATION, evaluation.to_json())
    return evaluation


def content(subject: Subject, evaluation: Evaluation, key: str, label: str | None = None) -> Content:
    """All that is shown of a run.

    Args:
        subject: what to show.
        evaluation: its scores.
        key: prefix of the names of its figures.
        label: which label of the units says their region; default the only one there is.
    """
    cut, model = subject.split, subject.model
    results = unit_results(model, cut)
    rates = {recording.rate_hz for recording in cut.recordings}
    rate = rates.pop() if len(rates) == 1 else None
    drawn: dict[str, list[Drawn]] = {
        "data": [
            figures.raster(cut.recordings[0], f"{key}activity"),
            figures.split_diagram(cut, f"{key}split"),
        ],
        "scores": [
            figures.scores(evaluation, f"{key}scores"),
            figures.steps(evaluation, rate, f"{key}horizon"),
        ],
        "units": [
            figures.distribution(results, f"{key}units"),
            figures.autocorrelation(results, rate, f"{key}autocorrelation"),
            *_maps(cut, results, key),
        ],
        "examples": [
            figures.example(one, which, f"{key}example-{which}")
            for which, one in examples(model, cut, results[0]).items()
        ],
    }
    learning = []
    if subject.run is not None and subject.run.history:
        learning.append(figures.training(subject.run, f"{key}training"))
    notes = {}
    if subject.adapted is not None:
        if subject.adapted.history[-1].step > 1:
            learning.append(figures.adaptation(subject.adapted, f"{key}adaptation"))
        notes["training"] = " ".join((_adaptation(subject.adapted), *(f"{n}." for n in subject.adapted.notes)))
    elif subject.run is not None and not subject.run.finished:
        notes["training"] = "Training was stopped before its end: this is the best model so far."
    elif not learning:
        notes["training"] = "This model was not trained in steps: there is no curve."
    drawn["training"] = learning
    if all(recording.coordinates is None for recording in cut.recordings):
        notes["units"] = "No map of the units: the recordings do not say where they lie."
    measured = None
    try:
        label = choose(cut.recordings, label)
    except (ConfigError, DataError) as error:
        notes["embeddings"] = f"No regions are compared: {error}."
        label = None
    try:
        measured, drawn["embeddings"] = _embeddings(subject, results, key, label)
    except (ConfigError, MissingExtraError) as error:
        notes["embeddings"] = f"Not shown: {error}."
    return Content(
        key=key,
        subject=subject,
        evaluation=evaluation,
        verdict=_verdict(evaluation),
        figures=drawn,
        cost=_cost(subject),
        measures=measured,
        notes=notes,
        command=_command(subject),
        settings=json.dumps(_settings(subject), indent=2),
    )


def _verdict(evaluation: Evaluation) -> str:
    """Whether the forecaster is ahead of the best of the others, as far as the interval tells."""
    others = evaluation.baselines
    if not others:
        return ""
    best = max(others, key=lambda name: others[name].score)
    ahead, own, other = others[best].ahead, shown_name(evaluation.forecaster), shown_name(best)
    if ahead is None or ahead.interval is None:
        return f"The best of the others is {other}, {others[best].score:.3f}. {evaluation.beside_mean}".rstrip()
    low, high = ahead.interval
    how = "is ahead of" if low > 0 else "is behind" if high < 0 else "cannot be told from"
    line = f"{own} {how} the best of the others, {other}: {ahead.explained}."
    return f"{line} {evaluation.beside_mean}".rstrip()


def _adaptation(adapted: Adapted) -> str:
    """What adapting brought, in words."""
    values = f"{adapted.parameters:,} values fitted in {adapted.seconds:.1f} s"
    scores = f"test score {adapted.before:.3f} before, {adapted.after:.3f} after"
    gain = "" if adapted.gain is None else f", {adapted.gain.explained}"
    return f"Adapted to {adapted.session}, mode {adapted.mode}: {values}, {scores}{gain}."


def _maps(cut: Split, results: list[UnitResults], key: str) -> list[Drawn]:
    placed = [(r, one) for r, one in zip(cut.recordings, results, strict=True) if r.coordinates is not None]
    return [figures.unit_map(r, one, f"{key}map-{k}") for k, (r, one) in enumerate(placed[:_MOST_MAPS], 1)]


def _embeddings(
    subject: Subject, results: list[UnitResults], key: str, label: str | None
) -> tuple[tuple[str, Mapping[str, Mapping[str, Measure]]] | None, list[Drawn]]:
    """Numbers and figures of the embeddings of units."""
    found, cut = of_units(subject.model, subject.split.recordings), subject.split
    score = {one.session: one.score for one in results}
    drawn = embeddings.draw(found, cut.recordings, label, score, key)
    if label is None:
        return None, drawn
    model = subject.model
    first = members(model)[0]
    regions, shares = embeddings.region_attention(first, cut, label)
    text = "Mean over windows of the test part. 1: as much as if every unit got the same."
    text += "" if first is model else " The first seed's: latents of another have no order in common."
    names = [name for entry in found for name in entry.labels.get(label, ())]
    rows, more = embeddings.frequent(regions, names)
    shown = [regions[row] for row in rows]
    drawn.append(figures.attention(shown, shares[:, rows], text + more, f"{key}attention"))
    kinds = {"trained": found, "untrained": untrained(found)}
    return (label, {kind: measures(own, label, shuffles=_SHUFFLES) for kind, own in kinds.items()}), drawn


def _cost(subject: Subject) -> list[tuple[str, str]]:
    """Sizes and times, as measured."""
    model = subject.model
    facts = [("parameters", f"{sum(p.numel() for p in model.parameters()):,}")]
    solved = count_solved(model)
    if solved:
        facts.append(("solved for, in closed form", f"{solved:,}"))
    if subject.run is not None:
        seconds = [float(record.get("seconds", 0)) for record in subject.run.history]
        steps = max((int(record["step"]) for record in subject.run.history), default=0)
        if steps:
            facts.append(("steps of training", f"{steps:,} in {max(seconds):.1f} s a seed{_not_counted(model)}"))
    if subject.adapted is not None:
        facts.append(("adaptation", f"{subject.adapted.seconds:.1f} s"))
    recording = subject.split.recordings[0]
    taken = 1e3 * _latencies(model, recording, subject.split.context)
    threads = torch.get_num_threads()
    middle, least = (f"{ms:.2f}" if ms < 10 else f"{ms:.0f}" for ms in (float(np.median(taken)), taken.min()))
    how = f"{recording.units:,} units, float32, on the CPU, {counted(threads, 'thread')}"
    while_written = "measured while this page was written"
    facts.append(("one forecast", f"{middle} ms, median of {len(taken)} (least {least}), {how}, {while_written}"))
    versions = info()["versions"]
    facts.append(("versions", ", ".join(f"{name} {version}" for name, version in versions.items())))
    return facts


def _not_counted(model: Forecaster) -> str:
    """What training took time for that is no part of its steps."""
    if kind_of(model) != "grounded":
        return ""
    return "; not counted: the solve for the ground before them, and training residuals again to weigh them after them"


@torch.no_grad()
def _latencies(model: Forecaster, recording: Recording, context: int) -> npt.NDArray[np.float64]:
    """Seconds that each of some forecasts took on the CPU."""
    x = torch.zeros(1, recording.units, context)
    if device_of(model) != x.device:
        model = copy.deepcopy(model).cpu()
    taken = []
    for _ in range(35):
        began = time.perf_counter()
        model(x, session=recording.session)
        taken.append(time.perf_counter() - began)
    return np.array(taken[5:])


def _settings(subject: Subject) -> Mapping[str, Any]:
    if subject.run is not None:
        return dict(subject.run.config)
    return {"model": subject.model.config.to_dict(), **subject.model.metadata}


def _command(subject: Subject) -> str:
    """What to type to make it again."""
    out = str(subject.folder or "RUN")
    if subject.adapted is not None:
        return commands.adapt(subject.adapted, out)
    assert subject.run is not None
    return commands.train(subject.run, subject.split, out)
