"""One session from its file or files: activity, time, labels, channels, and which units and stretches to use."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from poco.data import activity as activities
from poco.data import sources
from poco.data.description import Activity, Description
from poco.data.readers import Contents
from poco.data.readers.base import FRAMES_FIRST
from poco.data.recording import Recording
from poco.errors import DataError
from poco.words import counted

#: Frames a second below and above which a mistake is likelier than such a recording.
_USUAL_HZ = (0.1, 1000.0)


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


@dataclass(frozen=True)
class Loaded:
    """A session as read, with facts about the file that the recording itself no longer shows.

    Attributes:
        recording: the recording to use.
        source_units, source_frames: size in the file, before any unit was dropped.
        nan_values, infinite_values: counts in the file.
        nan_units, constant_units: indices in the file, from 0.
        times: ``[T]`` seconds, where the file has time stamps.
    """

    recording: Recording
    source_units: int
    source_frames: int
    nan_values: int
    infinite_values: int
    nan_units: tuple[int, ...]
    constant_units: tuple[int, ...]
    times: np.ndarray | None


def load(plan: Plan, description: Description, opener: sources.Opener) -> Loaded:
    """Read one session.

    Raises:
        DataError: if a file cannot be read, or leaves something open that the description does not say.
    """
    own = opener.recording(plan.parts[0].path, plan.parts[0].key)
    taken = activities.take(plan, description, opener)
    activity, times = taken.activity, taken.clock.times
    units, frames = activity.shape
    name = plan.name or own.title or plan.parts[0].path.stem
    warnings = [*description.warnings, *own.warnings, *taken.warnings]
    if not description.neural and own.neural:
        warnings.insert(0, "not neural activity: a control, by its description; never count its scores")
    warnings += _left_aside(description.activity, own, times)
    rate = _rate(description, own, times, warnings)
    labels, coordinates, channels = _extras(plan, description, own, opener, units, frames, warnings)
    stretches = _stretches(description, own.stretches or ((0, frames),), taken.clock, frames, warnings)

    nan_units, constant = _bad_units(activity)
    ids = _unit_ids(plan, description, own, units, taken.orientation)
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
    keep = _keep(description, own, name, ids, activity, nan_units, constant, provenance, warnings)
    _check_rounding(activity, ids, taken.rounded[keep[taken.rounded]], name)
    if description.activity.nan in ("cut", "cut-drop"):
        missing = _missing(activity[keep])
        stretches = _cut(stretches, missing, name, description.activity.nan, warnings)
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
    return _loaded(recording, activity, nan_units, constant, times)


def as_loaded(recording: Recording) -> Loaded:
    """A recording that another reader read, with the same facts about it."""
    return _loaded(recording, recording.activity, *_bad_units(recording.activity), None)


def _loaded(
    recording: Recording, activity: np.ndarray, nan_units: np.ndarray, constant: np.ndarray, times: np.ndarray | None
) -> Loaded:
    return Loaded(
        recording=recording,
        source_units=activity.shape[0],
        source_frames=activity.shape[1],
        nan_values=int(np.isnan(activity).sum()),
        infinite_values=int(np.isinf(activity).sum()),
        nan_units=tuple(map(int, nan_units)),
        constant_units=tuple(map(int, constant)),
        times=times,
    )


def _bad_units(activity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the units with NaN or infinite values, and of those that never change."""
    finite = np.isfinite(activity)
    with np.errstate(invalid="ignore"):
        low = np.where(finite, activity, np.inf).min(axis=1)
        high = np.where(finite, activity, -np.inf).max(axis=1)
    return np.flatnonzero(~finite.all(axis=1)), np.flatnonzero(finite.any(axis=1) & (low == high))


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


def _rate(description: Description, own: Contents, times: np.ndarray | None, warnings: list[str]) -> float | None:
    how = description.activity
    measured = None
    if times is not None and len(times) > 1:
        measured = float(f"{1.0 / float(np.median(np.diff(times))):.6g}")
    rate = how.rate_hz
    if rate is None and how.rate_key is not None:
        value = own.get(how.rate_key)
        try:
            rate = float(np.asarray(value).reshape(-1)[0])
        except (TypeError, ValueError, IndexError):
            raise DataError(f"{own.path}: '{how.rate_key}' should be the rate, got {str(value)[:40]!r}") from None
    if rate is None:
        rate = own.rate_hz
    elif own.rate_hz is not None and _apart(rate, own.rate_hz):
        warnings.append(f"the rate is given as {rate:g} Hz, the file itself says {own.rate_hz:g} Hz")
    if rate is not None and measured is not None and _apart(rate, measured):
        warnings.append(f"the rate is given as {rate:g} Hz, the time stamps say {measured:g} Hz")
    if measured is not None and own.imaging_hz is not None and _apart(own.imaging_hz, measured):
        warnings.append(f"the time stamps say {measured:g} Hz, the file's imaging plane {own.imaging_hz:g} Hz")
    if rate is None:
        rate = measured
    if rate is None:
        warnings.append("no rate is stated: times are in frames (say --rate, or rate_hz = ...)")
    if measured is not None and not _USUAL_HZ[0] <= measured <= _USUAL_HZ[1]:
        other = "s" if how.time_unit == "ms" else "ms"
        warnings.append(
            f"time stamps taken to be in {how.time_unit} say {measured:g} Hz, an unusual rate: if they are in {other}, "
            f'say --time-unit {other}, or time_unit = "{other}"'
        )
    elif rate is not None and not _USUAL_HZ[0] <= rate <= _USUAL_HZ[1]:
        warnings.append(f"{rate:g} Hz is an unusual rate for a recording: is it right?")
    return rate


def _apart(one: float, other: float) -> bool:
    """Whether two rates differ by more than rounding and dropped frames explain."""
    return abs(one / other - 1) > 0.02


def _extras(
    plan: Plan,
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
            labels[name] = sources.labels(source, found, units, f"session '{plan.name}': label '{name}'")
    if description.coordinates is not None:
        found = find(description.coordinates, "coordinates", "table")
        if found is not None:
            coordinates = sources.coordinates(found, units, f"session '{plan.name}': coordinates")
    for name, source in description.channels.items():
        where = f"session '{plan.name}': channel '{name}'"
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


def gaps_in_time(
    times: np.ndarray, longest: float | None, warnings: list[str], *, what: str = "time stamps", unit: str = "s"
) -> list[int]:
    """The frames that come after a gap.

    Args:
        times: ``[T]`` seconds.
        longest: interval that is no gap; None: one and a half of the usual one.
        warnings: is told of them.
        what: what they are called there.
        unit: what they are in.
    """
    if times.size <= 2:
        return []
    steps = np.diff(times)
    usual = float(np.median(steps))
    limit = longest or 1.5 * usual
    gaps = np.flatnonzero(steps > limit)
    if gaps.size:
        many = f"{gaps.size} gaps" if gaps.size > 1 else "a gap"
        warnings.append(
            f"irregular {what}: {many} longer than {limit:.3g} {unit} (usual interval {usual:.3g} {unit}, "
            f"longest {steps.max():.3g} {unit}); stretches end there"
        )
    return [int(gap) + 1 for gap in gaps]


def _stretches(
    description: Description,
    known: tuple[tuple[int, int], ...],
    clock: activities.Clock,
    frames: int,
    warnings: list[str],
) -> tuple[tuple[int, int], ...]:
    """Contiguous ranges: those known, cut at gaps in time and, if the description says so, at trial borders."""
    borders: set[int] = set()
    if clock.times is not None:
        borders.update(gaps_in_time(clock.times, description.activity.gap, warnings))
    elif clock.counts is not None:
        borders.update(gaps_in_time(clock.counts, None, warnings, what="numbers of frames", unit="frames"))
    trial = description.trials
    if trial.frames:
        if trial.cut:
            borders.update(range(0, frames, trial.frames))
        else:
            warnings.append(
                f"the record is {trial.frames}-frame trials one after another; windows cross their borders "
                "(--cut-trials, or cut = true in dataset.toml under [trials], ends stretches there)"
            )
    found: list[tuple[int, int]] = []
    for start, stop in known:
        found += itertools.pairwise(sorted({start, stop} | {border for border in borders if start < border < stop}))
    return tuple(found)


def _missing(activity: np.ndarray) -> np.ndarray:
    """Which frames hold no value of any unit. ``[T]`` bool."""
    return ~np.isfinite(activity).any(axis=0)


def _cut(
    stretches: tuple[tuple[int, int], ...], missing: np.ndarray, name: str, choice: str, warnings: list[str]
) -> tuple[tuple[int, int], ...]:
    """The stretches without the frames ``[T]`` that are missing."""
    if not missing.any():
        return stretches
    found: list[tuple[int, int]] = []
    for start, stop in stretches:
        edges = np.flatnonzero(np.diff(np.r_[True, missing[start:stop], True])) + start
        found += [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    if not found:
        raise DataError(f"session '{name}': no frame holds a value of any unit")
    many = counted(missing.sum(), "frame", " is", " are")
    warnings.append(f'{many} missing in all units: stretches end there, because nan = "{choice}"')
    return tuple(found)


def _unit_ids(plan: Plan, description: Description, own: Contents, units: int, orientation: str) -> tuple[str, ...]:
    if plan.parts[0].unit is not None:
        return tuple(part.unit or "" for part in plan.parts)
    if len(own.unit_ids) == units:
        return own.unit_ids
    columns = [name for i, name in enumerate(own.columns) if i != description.activity.time_column]
    if len(columns) == units and orientation == FRAMES_FIRST:
        return tuple(columns)
    return tuple(map(str, range(units)))


def _keep(
    description: Description,
    own: Contents,
    name: str,
    ids: tuple[str, ...],
    activity: np.ndarray,
    nan_units: np.ndarray,
    constant: np.ndarray,
    provenance: dict[str, str],
    warnings: list[str],
) -> np.ndarray:
    """``[N]`` bool, the units to use; what is dropped is said in warnings and provenance."""
    units, nan = len(activity), description.activity.nan
    keep = np.ones(units, dtype=bool)
    if own.keep is not None and len(own.keep) == units:
        keep &= own.keep
        if not own.keep.all():
            left = int((~own.keep).sum())
            warnings.append(f'{left} of {units} units {own.keep_reason}: left out (rois = "all" takes them)')
    _leave_out(description.activity.leave_out, name, ids, keep, warnings)
    if nan == "cut-drop":
        nan_units = nan_units[keep[nan_units]]
        there = ~_missing(activity[keep])
        nan_units = nan_units[~np.isfinite(activity[nan_units][:, there]).all(axis=1)]
    choices: Mapping[str, tuple[np.ndarray, str, str]] = {
        "nan": (nan_units, nan, "with NaN or infinite values"),
        "constant": (constant, description.activity.constant, "without any change"),
    }
    for option, (found, choice, what) in choices.items():
        here = found[keep[found]]
        shown = ", ".join(ids[i] for i in here[:8]) + (", ..." if len(here) > 8 else "")
        if choice == "error" and len(here):
            raise DataError(
                f"session '{name}': {counted(len(here), 'unit')} {what} ({shown}); "
                f'{option} = "drop" (--{option} drop) leaves them out, "keep" keeps them'
            )
        if choice in ("drop", "cut-drop") and len(here):
            keep[here] = False
            warnings.append(f'{counted(len(here), "unit")} {what} dropped ({shown}), because {option} = "{choice}"')
    if not keep.any():
        hint = "see leave_out, rois, nan and constant"
        missing = _missing(activity)
        if nan == "drop" and missing.any() and not missing.all():
            frames = counted(missing.sum(), "frame", " is", " are")
            hint = (
                f'{frames} missing in all units: nan = "cut" (--nan cut) ends stretches there and keeps the units, '
                '"cut-drop" drops those that lack values of other frames'
            )
        raise DataError(f"session '{name}': no unit of {units} is left; {hint}")
    dropped = np.flatnonzero(~keep)
    if len(dropped):
        provenance["dropped_units"] = ", ".join(ids[i] for i in dropped)
    return keep


def _check_rounding(activity: np.ndarray, ids: tuple[str, ...], rounded: np.ndarray, name: str) -> None:
    """Refuse units whose values lie so far from 0 that float32 cannot tell them apart."""
    if len(rounded):
        shown = ", ".join(ids[i] for i in rounded[:8]) + (", ..." if len(rounded) > 8 else "")
        level = float(np.nanmean(activity[rounded[0]], dtype=np.float64))
        raise DataError(
            f"session '{name}': {counted(len(rounded), 'unit')} ({shown}) lie so far from 0, at about {level:.3g}, "
            "that float32 cannot hold how they change (its steps are above 1% of their deviation): subtract the "
            "offset of each unit"
        )


def _leave_out(wanted: tuple[str, ...], name: str, ids: tuple[str, ...], keep: np.ndarray, warnings: list[str]) -> None:
    """Clear ``keep`` for the units that are named."""
    places = {unit: i for i, unit in enumerate(ids)}
    for entry in wanted:
        own = entry.startswith(f"{name}/")
        unit = entry.removeprefix(f"{name}/")
        if unit in places:
            keep[places[unit]] = False
        elif own:
            shown = ", ".join(ids[:8]) + (", ..." if len(ids) > 8 else "")
            raise DataError(f"leave_out names '{entry}', but session '{name}' has no unit '{unit}'; it has {shown}")
        elif "/" not in entry:
            warnings.append(f"leave_out names unit '{entry}', which is not in this session")
