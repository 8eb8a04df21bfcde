"""What a study comes to on given recordings: the values that they allow, and the cells of these."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from poco import cells as cells_of
from poco.data.recording import Recording
from poco.data.simulate import simulate
from poco.data.splits import shorten, split
from poco.errors import ConfigError
from poco.sizes import CONTEXT
from poco.studies import zapbench
from poco.studies.adaptation import animals, learnt_from
from poco.studies.definition import Study
from poco.training.config import TrainConfig
from poco.training.trainer import choose_label


class Job(NamedTuple):
    """A cell that is there or to be made.

    Attributes:
        study: what it is of.
        cell: what it says of itself: its value, seed, settings and recordings.
        recordings: what it is made of.
        file: its file.
    """

    study: Study
    cell: dict[str, Any]
    recordings: Sequence[Recording]
    file: Path


def on_recordings(
    study: Study, recordings: Sequence[Recording], label: str | None, report: Callable[[str], None]
) -> Study:
    """The study with the values that these recordings have or allow; what they do not allow is told of.

    Raises:
        ConfigError: if it has values of its own where options or recordings say which, nothing is left, an animal left
            out leaves none to learn from, it is not clear which label of the units is to be embedded, or one is named
            and none is embedded.
        DataError: if the label asked for is not there.
    """
    if study.vary in ("animal", "model") and study.values != (None,):
        every = "animal of the recordings" if study.vary == "animal" else "one of its options"
        raise ConfigError(f"the study '{study.name}' varies over every {every}: leave out values")
    if study.vary == "model":
        study = dataclasses.replace(study, values=tuple(option["name"] for option in study.options))
    if study.form == zapbench.PROTOCOL:
        misfits = {value: zapbench.misfit(recordings, study.option(value)["context"]) for value in study.values}
        study = _fitting(study, misfits, report)
    if label is not None and not any(study.sizes(value).get("unit_type_embedding") for value in study.values):
        raise ConfigError(f"the study '{study.name}' embeds no label of the units: leave out label (--label)")
    if recordings and label is None and not set.intersection(*(set(recording.labels) for recording in recordings)):
        embed = {value: study.sizes(value).get("unit_type_embedding") for value in study.values}
        reason = "the units have no label that all sessions know"
        study = _fitting(study, {value: reason if embed[value] else "" for value in study.values}, report)
    for value in study.values:
        _labels(study, value, recordings, label)  # or an error, before anything is trained
    if study.vary == "animal":
        study = dataclasses.replace(study, values=animals(recordings))
        for animal, source in itertools.product(study.values, study.sources):
            learnt_from(recordings, animal, source)  # or an error, before anything is trained
    return study


def _fitting(study: Study, why: Mapping[Any, str], report: Callable[[str], None]) -> Study:
    """The study without the values for which there is a reason why the recordings do not fit them."""
    for value, reason in why.items():
        if reason:
            report(f"{study.name}, {value}: left out, {reason}")
    if all(why.values()):
        raise ConfigError(f"the study '{study.name}' does not fit these recordings: {next(iter(why.values()))}")
    return dataclasses.replace(study, values=tuple(value for value in study.values if not why[value]))


def long_enough(study: Study, recordings: Sequence[Recording], protocol: str, report: Callable[[str], None]) -> Study:
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


def check_cells(study: Study, recordings: Sequence[Recording], protocol: str) -> None:
    """Check what else cells need, before anything is trained.

    Raises:
        ConfigError: if a device to train on is not here.
        DataError: if a recording that the study takes or simulates has no window in a part.
    """
    if study.vary == "training.device":
        for device in study.values:
            TrainConfig(device=device).torch_device()
    if study.form:  # of which contexts that do not fit are left out
        return
    if study.simulate is not None:
        usual = study.simulate.get("frames", signature(simulate).parameters["frames"].default)
        lengths = study.values if study.vary == "simulate.frames" else (usual,)
        recordings = [Recording(np.arange(frames)[None], "animal-1") for frames in lengths]  # which takes no time
    context = max(study.values) if study.vary == "context" else CONTEXT
    for recording in recordings[: max(study.values)] if study.vary == "sessions" else recordings:
        split(recording, protocol=protocol, context=context)


def jobs(
    study: Study,
    out: Path,
    recordings: Sequence[Recording],
    *,
    protocol: str,
    seeds: int,
    steps: int | None,
    batch: int | None,
    label: str | None,
) -> Iterator[Job]:
    """All cells of a study, in the order in which they are made; arguments as of :func:`poco.studies.run`."""
    same = {
        "steps": steps,
        "batch": batch,
        "protocol": protocol,
        "recordings": cells_of.recordings_of(recordings),
        "datasets": [recording.dataset for recording in recordings],
        "subjects": [recording.subject for recording in recordings] if study.base_steps else None,
        "vary": study.vary,
        "scored_sessions": min(study.values) if study.vary == "sessions" else None,
        "longest_context": max(study.values) if study.vary == "context" else None,
        "simulate": study.simulate,
        "epochs": study.epochs,
        "base_steps": study.base_steps,
    }
    of_value = {
        value: {**_labels(study, value, recordings, label), "option": study.sizes(value)} for value in study.values
    }
    own = (study.training, study.forecasters, study.frames, study.sources)
    for seed, value, training, forecaster, frames, source in itertools.product(range(seeds), study.values, *own):
        if training not in study.of(forecaster):
            continue
        which = {"study": study.name, "forecaster": forecaster, "training": training, "value": value, "seed": seed}
        cell = {**which, "frames": frames, "source": source, **same, **of_value[value]}
        shown = " ".join(str(what) for what in (training, frames, source) if what is not None)
        yield Job(study, cell, recordings, cells_of.file_of(out, study.name, value, shown, forecaster, seed))


def _labels(study: Study, value: Any, recordings: Sequence[Recording], label: str | None) -> dict[str, str | None]:
    """The label of the units that a value's POCO embeds, and SHA-256 of all units' labels, where it embeds one."""
    if not study.sizes(value).get("unit_type_embedding"):
        return {"label": None, "labels": None}
    if study.simulate is not None:  # of which the settings are kept
        return {"label": label, "labels": None}
    label = choose_label(recordings, label, "label=LABEL, --label LABEL")
    units = [recording.labels[label] for recording in recordings]
    return {"label": label, "labels": hashlib.sha256(repr(units).encode()).hexdigest()}
