"""What a report says of one run or adapted model: scores, figures, cost, and how to make it again."""

from __future__ import annotations

import dataclasses
import json
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from poco import models
from poco.data.read import read
from poco.data.recording import Recording
from poco.data.splits import Split, shorten, split
from poco.errors import CheckpointError, ConfigError, DataError, MissingExtraError
from poco.evaluation import Evaluation, evaluate
from poco.files import ADAPTATION, read_json, write_json
from poco.installation import info
from poco.nn import POCO
from poco.nn.files import reading_options
from poco.reporting import embeddings, figures
from poco.reporting.figures import Drawn
from poco.reporting.units import UnitResults, examples, unit_results
from poco.run import CONFIG, EVALUATION, MODEL, Run
from poco.training.callbacks import Callback
from poco.training.config import TrainConfig
from poco.training.recipes import recipe
from poco.unit_embeddings import Measure, choose, measures, untrained
from poco.unit_embeddings import embeddings as of_units

if TYPE_CHECKING:
    from poco.ensemble import Ensemble
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
        evaluation: its scores on the test part.
        run: where it was trained, or None for an adapted model.
        adaptation: what adapting it found, or None for a run.
    """

    name: str
    folder: Path | None
    model: Forecaster
    split: Split
    evaluation: Evaluation
    run: Run | None
    adaptation: Mapping[str, Any] | None


@dataclass(frozen=True, eq=False)
class Content:
    """What the page shows of a :class:`Subject`.

    Attributes:
        key: prefix of names, unique in a page.
        subject: what it is about.
        figures: by section.
        cost: sizes and times, lines of (what, value).
        measures: how far embeddings tell regions apart: label, and for trained and untrained ones each measure.
        notes: by section, what could not be shown, and why.
        commands: how to make it again.
        settings: all settings, as JSON.
    """

    key: str
    subject: Subject
    figures: Mapping[str, list[Drawn]]
    cost: list[tuple[str, str]]
    measures: tuple[str, Mapping[str, Mapping[str, Measure]]] | None
    notes: Mapping[str, str]
    commands: list[str]
    settings: str


def open_subject(folder: Path | Run, data: Path | None = None, callbacks: Sequence[Callback] = ()) -> Subject:
    """A run, or what ``poco adapt`` wrote, with its recordings; a run that has no scores yet is scored and keeps them.

    Args:
        folder: the folder, or the run itself.
        data: where the recordings are now; default where they were.
        callbacks: what may watch the training of baselines, where there are no scores yet.

    Raises:
        CheckpointError: if the folder holds neither.
        DataError: if the recordings are not there.
    """
    if isinstance(folder, Run):
        return _of_run(folder, data, callbacks)
    if (folder / ADAPTATION).exists():
        return _adapted(folder, data, callbacks)
    if not (folder / CONFIG).exists():
        raise CheckpointError(f"{folder} holds neither a run ('poco train') nor an adapted model ('poco adapt')")
    return _of_run(Run.load(folder), data, callbacks)


def _of_run(run: Run, data: Path | None, callbacks: Sequence[Callback]) -> Subject:
    recordings = run.recordings if data is None and run.recordings is not None else run.read(data)
    evaluation = run.evaluation or run.evaluate(recordings, callbacks=callbacks)
    name = run.folder.resolve().name if run.folder is not None else "run"
    return Subject(name, run.folder, run.model, run.split(recordings), evaluation, run, None)


def _adapted(folder: Path, data: Path | None, callbacks: Sequence[Callback]) -> Subject:
    found = read_json(folder / ADAPTATION, "results of an adaptation")
    model = models.load(folder / MODEL)
    place = data if data is not None else found.get("recording")
    if place is None:
        raise DataError(f"{folder} does not say where the recording is that it was adapted to: give it (--data PATH)")
    own = [r for r in read(place, **reading_options(model)) if r.session == found["session"]]
    if not own:
        raise DataError(f"{place} has no session '{found['session']}', which the model was adapted to")
    sizes = model.config
    cut = split(own, protocol=found["protocol"], context=sizes.context, horizon=sizes.horizon)
    if found.get("frames") is not None:
        cut = shorten(cut, found["frames"])
    kept = folder / EVALUATION
    if kept.exists():
        evaluation = Evaluation.from_json(read_json(kept, "scores"))
    else:
        for callback in callbacks:
            callback.message("scoring it beside simple forecasters, two of which are trained: this once")
        evaluation = evaluate(model, cut, callbacks=callbacks)
        write_json(kept, evaluation.to_json())
    return Subject(folder.resolve().name, folder, model, cut, evaluation, None, found)


def content(subject: Subject, key: str, label: str | None = None) -> Content:
    """All that is shown of a run.

    Args:
        subject: what to show.
        key: prefix of the names of its figures.
        label: which label of the units says their region; default the only one there is.
    """
    cut, evaluation, model = subject.split, subject.evaluation, subject.model
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
    if subject.adaptation is not None and len(subject.adaptation["history"]) > 1:
        learning.append(figures.adaptation(subject.adaptation, f"{key}adaptation"))
    drawn["training"] = learning
    notes = {} if learning else {"training": "This model was not trained in steps: there is no curve."}
    measured = None
    try:
        label = choose(cut.recordings, label)
    except ConfigError as error:
        notes["embeddings"] = f"No regions are compared: {error}."
        label = None
    try:
        measured, drawn["embeddings"] = _embeddings(subject, results, key, label)
    except (ConfigError, MissingExtraError) as error:
        notes["embeddings"] = f"Not shown: {error}."
    return Content(
        key=key,
        subject=subject,
        figures=drawn,
        cost=_cost(subject),
        measures=measured,
        notes=notes,
        commands=_commands(subject),
        settings=json.dumps(_settings(subject), indent=2),
    )


def _maps(cut: Split, results: list[UnitResults], key: str) -> list[Drawn]:
    placed = [(r, one) for r, one in zip(cut.recordings, results, strict=True) if r.coordinates is not None]
    return [figures.unit_map(r, one, f"{key}map-{k}") for k, (r, one) in enumerate(placed[:_MOST_MAPS], 1)]


def _embeddings(
    subject: Subject, results: list[UnitResults], key: str, label: str | None
) -> tuple[tuple[str, Mapping[str, Mapping[str, Measure]]] | None, list[Drawn]]:
    """Numbers and figures of the embeddings of units."""
    found, cut = of_units(subject.model, subject.split.recordings), subject.split
    score = {one.session: one.score for one in results}
    drawn = embeddings.draw(found, cut, label, score, key)
    if label is None:
        return None, drawn
    model = subject.model
    first = model if isinstance(model, POCO) else cast("POCO", next(iter(cast("Ensemble", model))))
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
    if subject.run is not None:
        seconds = [float(record.get("seconds", 0)) for record in subject.run.history]
        steps = max((int(record["step"]) for record in subject.run.history), default=0)
        if steps:
            facts.append(("training", f"{steps:,} steps in {max(seconds):.1f} s a seed"))
    if subject.adaptation is not None:
        facts.append(("adaptation", f"{subject.adaptation['seconds']:.1f} s"))
    recording = subject.split.recordings[0]
    middle = _latency(model, recording, subject.split.context)
    threads = torch.get_num_threads()
    facts.append(
        (
            "one forecast",
            f"{middle * 1e3:.2f} ms, median of 30, {recording.units:,} units, float32, on the CPU, {threads} thread"
            + "s" * (threads > 1),
        )
    )
    versions = info()["versions"]
    facts.append(("versions", ", ".join(f"{name} {version}" for name, version in versions.items())))
    return facts


@torch.no_grad()
def _latency(model: Forecaster, recording: Recording, context: int) -> float:
    x = torch.zeros(1, recording.units, context, device=next(iter(model.parameters())).device)
    taken = []
    for _ in range(35):
        began = time.perf_counter()
        model(x, session=recording.session)
        taken.append(time.perf_counter() - began)
    return float(np.median(taken[5:]))


def _settings(subject: Subject) -> Mapping[str, Any]:
    if subject.run is not None:
        return dict(subject.run.config)
    return {"model": subject.model.config.to_dict(), **subject.model.metadata}


def _commands(subject: Subject) -> list[str]:
    """What to type to make it again; settings that no option has are in the settings."""
    if subject.run is None:
        adaptation = subject.adaptation or {}
        given = [
            str(adaptation.get("run", "RUN")),
            str(adaptation.get("recording", "RECORDING")),
            "--mode",
            str(adaptation.get("mode")),
        ]
        return [shlex.join(["poco", "adapt", *given, "--out", str(subject.folder)])]
    run, folder = subject.run, str(subject.folder or "RUN")
    place = run.source[0]
    paths = [place] if isinstance(place, str) else list(place or ["DATA"])
    usual = recipe(run.config["recipe"])[1]
    given = ["--recipe", run.config["recipe"], "--protocol", run.protocol, "--seed", str(run.config["seed"])]
    if run.config.get("seeds", 1) > 1:
        given += ["--seeds", str(run.config["seeds"])]
    options = {"steps": "steps", "batch_size": "batch-size", "learning_rate": "lr", "val_every": "val-every"}
    options |= {name: name for name in ("warmup", "schedule", "ema", "patience", "precision")}
    for field in dataclasses.fields(TrainConfig):
        value = getattr(run.train_config, field.name)
        if field.name in options and value != getattr(usual, field.name) and value is not None:
            given += [f"--{options[field.name]}", str(value)]
    train = ["poco", "train", *paths, *given, "--out", folder]
    return [shlex.join(train), shlex.join(["poco", "report", folder])]
