"""Making one cell of a study, and before that the model of the other animals that cells of one left out begin with."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from poco import cells as cells_of
from poco.baselines.fitted import BASELINE_PATIENCE, fit_baseline
from poco.data.preprocess import butterworth
from poco.data.recording import Recording
from poco.data.simulate import simulate
from poco.data.splits import Split, same_targets, shorten, split
from poco.files import write_json
from poco.intervals import block_length
from poco.scores import Scores
from poco.scoring import score_forecasters, score_interval
from poco.sizes import CONTEXT, longest_segment
from poco.studies import zapbench
from poco.studies.adaptation import Others, curve, learnt_from
from poco.studies.definition import FILTERS, Study
from poco.studies.plan import Job
from poco.training import DivergedError, TrainConfig, recipe
from poco.training.config import BATCH_SIZE
from poco.training.trainer import Trainer, choose_label

#: A POCO is validated at least so many times, however few steps it is trained for.
LEAST_VALIDATIONS = 20


def bases(left: Sequence[Job]) -> list[Job]:
    """A job for each model of the animals that are not left out."""
    return list({_folder(job): job for job in left if job.cell["base_steps"]}.values())


def _folder(job: Job) -> Path:
    """The folder of that model, beside the cells."""
    cell = job.cell
    source = "" if cell["source"] is None else f"-{cell['source']}"
    whose = "" if cell["forecaster"] == "poco" else f"-{cell['forecaster']}"
    return job.file.parent / "models" / f"without-{cells_of.safe(cell['value'])}-{cell['seed']}{source}{whose}"


def _others(job: Job) -> Others:
    """What that model learns from, and how."""
    cell = job.cell
    some = learnt_from(job.recordings, cell["value"], cell["source"])
    return Others(cell["forecaster"], some, cell["seed"], cell["base_steps"], cell["protocol"])


def begins(job: Job) -> bool:
    """Whether what a cell begins with is there."""
    return not job.cell["base_steps"] or _folder(job).exists()


def is_trained(job: Job) -> bool:
    """Whether it is there; a ConfigError if it learnt from other recordings, or in another way."""
    folder = _folder(job)
    if not folder.exists():
        return False
    _others(job).check(folder)
    return True


def train_base(job: Job) -> str | DivergedError:
    """Train and keep that model."""
    folder = _folder(job)
    try:
        _others(job).train(folder)
    except DivergedError as error:
        return DivergedError(f"{folder.name}: {error}")
    return f"{folder.name}: trained"


def make(job: Job) -> str | DivergedError:
    """One cell: fit, score, write."""
    try:
        if job.cell["base_steps"]:
            return _left_out(job)
        return _zapbench(job) if job.study.form == zapbench.PROTOCOL else _usual(job)
    except DivergedError as error:
        return DivergedError(f"{job.file.stem}: {error}")


def _usual(job: Job) -> str:
    """One cell of models that are trained on all there is, or on sessions or data sets alone."""
    study, cell, recordings, file = job
    value, seed, vary = cell["value"], cell["seed"], study.vary
    if study.simulate is not None:
        varied = {vary.removeprefix("simulate."): value} if vary.startswith("simulate.") else {}
        recordings = simulate(**{**study.simulate, **varied, "seed": seed})
    compared = [recording.session for recording in recordings[: cell["scored_sessions"]]]
    if vary == "sessions":
        recordings = recordings[:value]
    if vary == "filter" and value != "none":
        recordings = [butterworth(recording, **FILTERS[value]) for recording in recordings]
    context = value if vary == "context" else CONTEXT
    frames = value if vary == "frames" else cell["frames"]
    began = time.process_time()
    scores: list[Scores] = []
    model: nn.Module
    given = {"seed": seed, "steps": cell["steps"], "batch_size": cell["batch"] or BATCH_SIZE}
    for group in _groups(recordings, cell["training"]):
        data = split(group, protocol=cell["protocol"], context=context)
        if frames is not None:
            data = shorten(data, frames)
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


def _left_out(job: Job) -> str:
    """One cell of an animal left out: adapt to each of its recordings."""
    _, cell, recordings, file = job
    options = (cell["training"], cell["seed"], cell["steps"], cell["protocol"], cell["frames"])
    model = _others(job).load(_folder(job))
    curves = [curve(cell["forecaster"], model, r, *options) for r in recordings if r.subject == cell["value"]]
    score = sum(c["after"] for c in curves) / len(curves)
    seconds = sum(c["history"][-1][1] for c in curves)
    write_json(file, {**cell, "score": score, "seconds": round(seconds, 2), "curves": curves})
    return f"{file.stem}: {score:.4f}"


def _zapbench(job: Job) -> str:
    """One cell of the benchmark."""
    study, cell, recordings, file = job
    assert study.epochs is not None
    began, sizes = time.process_time(), study.sizes(cell["value"])
    found = zapbench.score(cell["forecaster"], recordings, sizes, cell["seed"], cell["steps"], study.epochs)
    write_json(file, {**cell, **found, "seconds": round(time.process_time() - began, 2)})
    return f"{file.stem}: mean absolute error {sum(found['mae_per_step']) / len(found['mae_per_step']):.4g}"


def _result(scores: Sequence[Scores], compared: Sequence[str], block: int) -> dict[str, Any]:
    """What a cell says of the scores of its models: of the sessions that are compared, and of each."""
    every = [one for found in scores for one in found.sessions]
    some = [one for one in every if one.session in compared]
    kept = np.repeat([one.session in compared for one in every], [one.windows for one in every])
    own, copy = (
        np.concatenate([errors for found in scores if (errors := getattr(found, name)) is not None])[kept]
        for name in ("window_error", "copy_window_error")
    )
    score = sum(one.score for one in some) / len(some)
    found = Scores(score, tuple(some), window_error=own, copy_window_error=copy)
    interval, blocks = score_interval(found, block)
    return {
        "score": found.score,
        "interval": interval,
        "blocks": blocks,
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
    """The published POCO, with what the study varies; any context is cut into three segments, as published, or more."""
    from poco.nn import POCOConfig

    group, _, name = study.vary.partition(".")
    segment = longest_segment(data.context, max(1, data.context // 3))
    sizes: dict[str, Any] = {"context": data.context, "segment_length": segment, **study.sizes(value)}
    if group == "training":
        settings = dataclasses.replace(settings, **{name: value})
    config = POCOConfig(**sizes)
    types = choose_label(data.recordings, label) if config.unit_type_embedding else None
    return Trainer(data, config, unit_types=types).train(settings)[0]
