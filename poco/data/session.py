"""One session from its file or files: activity, time, labels, channels, and which units and stretches to use."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from poco.data import sources
from poco.data.description import Description
from poco.data.readers import Contents
from poco.data.readers.base import FRAMES_FIRST, UNITS_FIRST
from poco.data.recording import Recording
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
    activity, times, key = _activity(plan, description, opener)
    units, frames = activity.shape
    name = plan.name or own.title or plan.parts[0].path.stem
    warnings = list(description.warnings) + list(own.warnings)
    if not description.neural and own.neural:
        warnings.insert(0, "not neural activity: a control, by its description; never count its scores")
    rate = _rate(description, own, times, warnings)
    labels, coordinates, channels = _extras(plan, description, own, opener, units, frames, warnings)
    stretches = _stretches(description, own.stretches or ((0, frames),), times, frames, warnings)

    nan_units, constant = _bad_units(activity)
    ids = _unit_ids(plan, description, own, units)
    provenance = {
        "file": str(plan.parts[0].path if len(plan.parts) == 1 else plan.parts[0].path.parent),
        "format": own.format,
        "key": key,
        "source_shape": f"{units} x {frames}",
        **own.provenance,
        **description.facts,
        "neural": "yes" if description.neural and own.neural else "no",
    }
    if description.origin:
        provenance["description"] = description.origin
    keep = _keep(description, own, name, ids, nan_units, constant, provenance, warnings, units)
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


def _activity(
    plan: Plan, description: Description, opener: sources.Opener
) -> tuple[np.ndarray, np.ndarray | None, str]:
    """``[N, T]`` float32, times ``[T]`` and the key used."""
    blocks: list[np.ndarray] = []
    times, key = None, ""
    for part in plan.parts:
        contents = opener.recording(part.path, part.key)
        key = part.key or contents.key or _only_key(contents, stacked=part.unit is not None)
        value = _array(contents, key)
        block, found = _oriented(contents, key, value, description, stacked=part.unit is not None)
        times = found if times is None else times
        if blocks and block.shape[1] != blocks[0].shape[1]:
            raise DataError(
                f"{part.path}: {block.shape[1]} frames where {plan.parts[0].path.name} has {blocks[0].shape[1]}; "
                f"the units of session '{plan.name}' must have equal length"
            )
        with np.errstate(over="ignore"):
            taken = np.asarray(block, dtype=np.float32)
        if block.dtype.itemsize > 4 and (np.isinf(taken) & np.isfinite(block)).any():
            largest = np.abs(block[np.isfinite(block)]).max()
            raise DataError(
                f"{part.path}: '{key}' holds {float(largest):.3g}, which does not fit float32: scale or repair it"
            )
        blocks.append(taken)
    activity = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    if 0 in activity.shape:
        raise DataError(f"{plan.parts[0].path}: no activity in it, '{key}' has shape {activity.shape}")
    return np.ascontiguousarray(activity), times, key


def _only_key(contents: Contents, *, stacked: bool) -> str:
    axes = (1, 2) if stacked else (2,)
    found = [name for name, entry in contents.entries.items() if entry.numeric and len(entry.shape or ()) in axes]
    if len(found) == 1:
        return found[0]
    if len(contents.entries) == 1:
        return next(iter(contents.entries))
    if not found:
        raise DataError(f"{contents.path}: no array of numbers with two axes in it; it has {contents.keys_text()}")
    raise DataError(
        f"{contents.path}: say which array is the activity: --key with one of {contents.keys_text(found)} "
        "(or key = ... in dataset.toml under [activity])"
    )


def _array(contents: Contents, key: str) -> np.ndarray:
    where = f"{contents.path}: '{key}'"
    value = contents.get(key)
    try:
        value = np.asarray(value)
    except ValueError:
        raise DataError(f"{where} holds rows of different lengths") from None
    if value.dtype.kind == "c":
        raise DataError(f"{where} holds complex numbers; activity must be real")
    if value.dtype.kind == "O":
        raise DataError(f"{where} holds Python objects (dtype object); save it as plain numbers")
    if value.dtype.kind not in "fiub":
        raise DataError(f"{where} holds {value.dtype}, not numbers; it has {contents.keys_text()}")
    return value


def _oriented(
    contents: Contents, key: str, value: np.ndarray, description: Description, *, stacked: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """``[N, T]`` and the time stamps ``[T]``, if any."""
    how, where = description.activity, f"{contents.path}: '{key}'"
    if stacked:
        vector = value.reshape(-1) if max(value.shape, default=0) == value.size else None
        if vector is None or value.ndim == 0:
            raise DataError(f"{where} has shape {value.shape}; one file per unit needs a vector")
        rows, times = vector[None, :], None
    else:
        if value.ndim == 1:
            raise DataError(
                f"{where} has one axis, shape {value.shape}; activity has two, units and frames "
                "(for one file per unit say unit = ... under [sessions])"
            )
        if value.ndim != 2:
            raise DataError(f"{where} has shape {value.shape}; activity has two axes, units and frames")
        orientation = how.orientation or contents.orientation
        if orientation is None:
            a, b = value.shape
            raise DataError(
                f"{where} has shape {a} x {b} and nothing says which axis is time: say "
                f'--orientation "units x frames" ({a} units, {b} frames) or "frames x units" ({b} units, {a} frames), '
                "or orientation = ... in dataset.toml under [activity]"
            )
        rows, times = _take_times(value, orientation, description, where)
    if times is None and how.time_key is not None:
        times = np.asarray(sources.numbers(contents.get(how.time_key), f"{contents.path}: '{how.time_key}'"))
        times = np.asarray(contents.get(how.time_key), dtype=np.float64).reshape(-1)
    if times is None and contents.times is not None:
        times = contents.times
    elif times is not None and how.time_unit == "ms":
        times = times / 1000.0
    if times is not None:
        if times.shape != (rows.shape[1],):
            raise DataError(f"{where} has {rows.shape[1]} frames but {times.size} time stamps")
        if not np.isfinite(times).all() or (np.diff(times) <= 0).any():
            bad = int(np.argmax(~np.isfinite(times) | np.r_[False, ~(np.diff(times) > 0)]))
            raise DataError(f"{where}: time stamps must rise from frame to frame; frame {bad} does not")
    return rows, times


def _take_times(
    value: np.ndarray, orientation: str, description: Description, where: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """Turn to units x frames; take out the row or column that holds time stamps."""
    how = description.activity
    index = how.time_row if orientation == UNITS_FIRST else how.time_column
    wrong = how.time_column if orientation == UNITS_FIRST else how.time_row
    rows = value if orientation == UNITS_FIRST else value.T
    if wrong is not None:
        other = ("time_row", "time_column") if orientation == UNITS_FIRST else ("time_column", "time_row")
        raise DataError(f'{where}: orientation "{orientation}" goes with {other[0]}, not {other[1]}')
    if index is None:
        return rows, None
    if index >= len(rows):
        raise DataError(f"{where}: shape {value.shape} has no row or column {index} for the time stamps")
    return np.delete(rows, index, axis=0), np.asarray(rows[index], dtype=np.float64)


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
    if rate is not None and measured is not None and abs(rate / measured - 1) > 0.02:
        warnings.append(f"the rate is given as {rate:g} Hz, the time stamps say {measured:g} Hz")
    if rate is None:
        rate = measured
    if rate is None:
        warnings.append("no rate is stated: times are in frames (say --rate, or rate_hz = ...)")
    return rate


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


def _stretches(
    description: Description,
    known: tuple[tuple[int, int], ...],
    times: np.ndarray | None,
    frames: int,
    warnings: list[str],
) -> tuple[tuple[int, int], ...]:
    """Contiguous ranges: those known, cut at gaps in time and, if the description says so, at trial borders."""
    borders: set[int] = set()
    if times is not None and frames > 2:
        steps = np.diff(times)
        usual = float(np.median(steps))
        limit = description.activity.gap or 1.5 * usual
        gaps = np.flatnonzero(steps > limit)
        borders.update(int(g) + 1 for g in gaps)
        if len(gaps):
            many = f"{len(gaps)} gaps" if len(gaps) > 1 else "a gap"
            warnings.append(
                f"irregular time stamps: {many} longer than {limit:.3g} s (usual interval {usual:.3g} s, "
                f"longest {steps.max():.3g} s); stretches end there"
            )
    trial = description.trials
    if trial.frames:
        if trial.cut:
            borders.update(range(0, frames, trial.frames))
        else:
            warnings.append(
                f"the record is {trial.frames}-frame trials one after another; windows cross their borders "
                "(--cut-trials, or cut_trials = true, ends stretches there)"
            )
    found: list[tuple[int, int]] = []
    for start, stop in known:
        found += itertools.pairwise(sorted({start, stop} | {border for border in borders if start < border < stop}))
    return tuple(found)


def _unit_ids(plan: Plan, description: Description, own: Contents, units: int) -> tuple[str, ...]:
    if plan.parts[0].unit is not None:
        return tuple(part.unit or "" for part in plan.parts)
    if len(own.unit_ids) == units:
        return own.unit_ids
    columns = [name for i, name in enumerate(own.columns) if i != description.activity.time_column]
    if len(columns) == units and (description.activity.orientation or own.orientation) == FRAMES_FIRST:
        return tuple(columns)
    return tuple(map(str, range(units)))


def _keep(
    description: Description,
    own: Contents,
    name: str,
    ids: tuple[str, ...],
    nan_units: np.ndarray,
    constant: np.ndarray,
    provenance: dict[str, str],
    warnings: list[str],
    units: int,
) -> np.ndarray:
    """``[N]`` bool, the units to use; what is dropped is said in warnings and provenance."""
    keep = np.ones(units, dtype=bool)
    if own.keep is not None and len(own.keep) == units:
        keep &= own.keep
        if not own.keep.all():
            left = int((~own.keep).sum())
            warnings.append(f'{left} of {units} units {own.keep_reason}: left out (rois = "all" takes them)')
    _leave_out(description.activity.leave_out, name, ids, keep, warnings)
    choices: Mapping[str, tuple[np.ndarray, str, str]] = {
        "nan": (nan_units, description.activity.nan, "with NaN or infinite values"),
        "constant": (constant, description.activity.constant, "without any change"),
    }
    for option, (found, choice, what) in choices.items():
        here = found[keep[found]]
        shown = ", ".join(ids[i] for i in here[:8]) + (", ..." if len(here) > 8 else "")
        if choice == "error" and len(here):
            raise DataError(
                f"session '{name}': {_units(len(here))} {what} ({shown}); "
                f'{option} = "drop" (--{option} drop) leaves them out, "keep" keeps them'
            )
        if choice == "drop" and len(here):
            keep[here] = False
            warnings.append(f'{_units(len(here))} {what} dropped ({shown}), because {option} = "drop"')
    if not keep.any():
        raise DataError(f"session '{name}': no unit of {units} is left; see leave_out, rois, nan and constant")
    dropped = np.flatnonzero(~keep)
    if len(dropped):
        provenance["dropped_units"] = ", ".join(ids[i] for i in dropped)
    return keep


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


def _units(count: int) -> str:
    return "1 unit" if count == 1 else f"{count} units"
