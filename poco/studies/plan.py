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
    recordings = _stand_ins(study, recordings)
    if study.vary == "sessions":
        why = f"there are {len(recordings)}"
        study = dataclasses.replace(study, values=_up_to(len(recordings), study.values, "sessions", why, study, report))
    asked = study.values if study.vary == "frames" else study.frames
    if asked != (None,):
        cut = split(recordings, protocol=protocol)
        most = min(cut.frames_to_learn)
        why = f"session '{recordings[cut.frames_to_learn.index(most)].session}' has {most}"
        found = _up_to(most, asked, "frames to learn from", why, study, report)
        varied = study.vary == "frames"
        study = dataclasses.replace(study, values=found) if varied else dataclasses.replace(study, frames=found)
        if any(found):
            shorten(cut, min(frames for frames in found if frames is not None))  # or an error, before any training
    return study


def _up_to(
    most: int, asked: tuple[Any, ...], what: str, why: str, study: Study, report: Callable[[str], None]
) -> tuple[Any, ...]:
    """The numbers asked for that are not larger than there are."""
    found = tuple(number for number in asked if number is None or number <= most)
    if not found:
        raise ConfigError(f"the study '{study.name}' needs {min(asked)} {what}, {why}: give more (recordings, --data)")
    left_out = ", ".join(str(number) for number in asked if number not in found)
    if left_out:
        report(f"{study.name}, {left_out} {what}: left out, {why}")
    return found


def _stand_ins(study: Study, recordings: Sequence[Recording]) -> Sequence[Recording]:
    """The recordings, or, where a study simulates its own, as many of one unit, as long as the shortest: at no cost."""
    if study.simulate is None:
        return recordings
    usual = {name: signature(simulate).parameters[name].default for name in ("animals", "frames")}
    sizes = {**usual, **study.simulate}
    frames = min(study.values) if study.vary == "simulate.frames" else sizes["frames"]
    return [Recording(np.arange(frames)[None], f"animal-{i + 1}") for i in range(sizes["animals"])]


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
    recordings = _stand_ins(study, recordings)
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
        among = (training, frames, source) if study.base_steps else (training,)
        shown = " ".join(str(what) for what in among if what is not None)
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
