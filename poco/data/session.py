"""One session from its file or files: activity, time, labels, channels, and which units and stretches to use."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from poco.data import activity as activities
from poco.data import sources
from poco.data.description import Activity, Description
from poco.data.readers import Contents
from poco.data.recording import Recording
from poco.data.rounding import check_rounding
from poco.data.timing import missing_frames, rate_of, stretches_of, without
from poco.data.unit_choice import bad_units, choose, unit_ids
from poco.errors import DataError


@dataclass(frozen=True)
class Part:
    """One file of a session, or one array in it.

    Attributes:
        path: the file.
        key: key of the activity, None for the format's own or the only one.
        unit: name of the unit, where each file is one unit.
    """

    path: Path
    key: str | None = None
    unit: str | None = None


@dataclass
class Plan:
    """What makes up one session.

    Attributes:
        name: the session's name, "" to take the format's own or the file's.
        subject: the animal's name, "" if not said.
        groups: what templates can use.
        parts: the session's files.
    """

    name: str
    subject: str
    groups: dict[str, str]
    parts: list[Part] = field(default_factory=list)

    @property
    def label(self) -> str:
        """The session's name or, before the format is asked for its own, the file's."""
        return self.name or self.parts[0].path.stem


@dataclass(frozen=True)
class Loaded:
    """A session as read, with what the recording itself no longer shows.

    Attributes:
        recording: the recording to use.
        activity: ``[N, T]``, as in the file, before any unit was dropped.
        times: ``[T]`` seconds, where the file has time stamps.
    """

    recording: Recording
    activity: np.ndarray
    times: np.ndarray | None = None


def load(plan: Plan, description: Description, opener: sources.Opener) -> Loaded:
    """Read one session.

    Raises:
        DataError: if a file cannot be read, or leaves something open that the description does not say.
    """
    own = opener.recording(plan.parts[0].path, plan.parts[0].key)
    taken = activities.take(plan, description, opener)
    activity, times = taken.activity, taken.clock.times
    units, frames = activity.shape
    name = plan.name or own.title or plan.label
    warnings = [*description.warnings, *own.warnings, *taken.warnings]
    if not description.neural and own.neural:
        warnings.insert(0, "not neural activity: a control, by its description; never count its scores")
    warnings += _left_aside(description.activity, own, times)
    rate = rate_of(description, own, times, warnings)
    labels, coordinates, channels = _extras(plan, name, description, own, opener, units, frames, warnings)
    stretches = stretches_of(description, own.stretches or ((0, frames),), taken.clock, frames, warnings)

    nan_units, constant = bad_units(activity)
    ids = unit_ids(plan, description, own, units, taken.orientation)
    provenance = {
        "file": str(plan.parts[0].path if len(plan.parts) == 1 else plan.parts[0].path.parent),
        "format": own.format,
        "key": taken.key,
        "source_shape": f"{units} x {frames}",
        **own.provenance,
        **description.facts,
        "neural": "yes" if description.neural and own.neural else "no",
    }
    if taken.clock.source:
        provenance["times"] = taken.clock.source
    if description.origin:
        provenance["description"] = description.origin
    keep = choose(description, own, name, ids, activity, nan_units, constant, provenance, warnings)
    check_rounding(activity, ids, taken.rounded[keep[taken.rounded]], name)
    if description.activity.nan in ("cut", "cut-drop"):
        missing = missing_frames(activity[keep])
        stretches = without(stretches, missing, name, description.activity.nan, warnings)
    index = np.flatnonzero(keep)
    recording = Recording(
        activity=activity if keep.all() else activity[index],
        session=name,
        rate_hz=rate,
        unit_ids=tuple(ids[i] for i in index),
        subject=plan.subject or own.subject,
        dataset=description.name or own.dataset or "default",
        labels={label: tuple(values[i] for i in index) for label, values in labels.items()},
        coordinates=None if coordinates is None else coordinates[index],
        channels=channels,
        stretches=stretches,
        provenance=provenance,
        warnings=tuple(dict.fromkeys(warnings)),
    )
    return Loaded(recording, activity, times)


def _left_aside(how: Activity, own: Contents, times: np.ndarray | None) -> list[str]:
    """What to say of settings that have nothing to act on in this session."""
    theirs = {
        f"neuropil = {how.neuropil:g}": how.neuropil and own.format != "suite2p",
        'rois = "all"': how.rois == "all" and own.format not in ("suite2p", "caiman", "nwb"),
        "header = true": how.header and own.format != "csv",
        f"time_row = {how.time_row}": how.time_row is not None and own.orientation is not None,
        f"time_column = {how.time_column}": how.time_column is not None and own.orientation is not None,
    }
    ours = {f'time_unit = "{how.time_unit}"': how.time_unit != "s", f"gap = {how.gap or 0:g}": how.gap is not None}
    out = [f"its format ({own.format}) has no use for {what}: left aside" for what, given in theirs.items() if given]
    if times is None:
        out += [f"there are no times of frames: {what} left aside" for what, given in ours.items() if given]
    return out


def _extras(
    plan: Plan,
    session: str,
    description: Description,
    own: Contents,
    opener: sources.Opener,
    units: int,
    frames: int,
    warnings: list[str],
) -> tuple[dict[str, tuple[str, ...]], np.ndarray | None, dict[str, np.ndarray]]:
    """Labels, coordinates and channels: the format's own, then those of the description."""

    def find(source: Any, what: str, table: str, contents: Contents = own) -> Any:
        return sources.value(source, what, description, contents, plan.groups, opener, table)

    labels = dict(own.labels)
    coordinates = own.coordinates
    sizes = {f"label '{label}'": len(values) for label, values in labels.items()}
    sizes |= {} if coordinates is None else {"coordinates": len(coordinates)}
    sizes |= {} if own.keep is None else {"a list of accepted cells": len(own.keep)}
    wrong = next((what for what, size in sizes.items() if size != units), None)
    if wrong is not None:
        raise DataError(f"{own.path}: {units} units, but {wrong} of {sizes[wrong]}: is the right array read?")
    channels = dict(own.channels)
    for name, source in description.labels.items():
        found = find(source, f"label '{name}'", "text")
        if found is not None:
            labels[name] = sources.labels(source, found, units, f"session '{session}': label '{name}'")
    if description.coordinates is not None:
        found = find(description.coordinates, "coordinates", "table")
        if found is not None:
            coordinates = sources.coordinates(found, units, f"session '{session}': coordinates")
    for name, source in description.channels.items():
        where = f"session '{session}': channel '{name}'"
        found = find(source, f"channel '{name}'", "table")
        if found is None:
            continue
        channels[name] = sources.channel(source, found, frames, where)
    for part in plan.parts[1:]:
        contents = opener.recording(part.path, part.key)
        for name, source in description.channels.items():
            if source.file is not None or name not in channels:
                continue
            again = find(source, f"channel '{name}'", "table", contents)
            where = f"{part.path}: channel '{name}'"
            if again is None or np.array_equal(channels[name], sources.channel(source, again, frames, where)):
                continue
            warnings.append(f"channel '{name}' differs between the files of a session; the first file's is used")
    for name in [name for name, values in channels.items() if np.isnan(values).all()]:
        del channels[name]
        warnings.append(f"channel '{name}' holds NaN only: left out")
    return labels, coordinates, channels
