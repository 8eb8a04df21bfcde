"""The activity of one session as one array: found in its files, turned to units x frames, and as float32."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from poco.data import sources
from poco.data.description import Activity, Description
from poco.data.readers import Contents
from poco.data.readers.base import FRAMES_FIRST, UNITS_FIRST
from poco.data.rounding import as_float32, real_numbers
from poco.errors import DataError
from poco.wording import typed

if TYPE_CHECKING:
    from poco.data.session import Plan

#: Names of a table's columns that hold time stamps, or count frames: if the values rise, they are no unit's.
_CLOCK = re.compile(r"time|stamp|(?<![a-z])(t|s|ms|m?secs?|seconds?|milliseconds?)(?![a-z])", re.IGNORECASE)
_COUNTER = re.compile(r"|unnamed: \d+|(index|idx|frames?)([\W_\d].*)?", re.IGNORECASE)
#: Fewer frames may rise by chance.
_FEWEST_RISING = 10


@dataclass(frozen=True)
class Clock:
    """When the frames of a session were taken, as far as its files say.

    Attributes:
        times: ``[T]`` seconds, where there are time stamps, or numbers of frames and a rate.
        counts: ``[T]`` numbers of frames, where there is no rate to make times of them.
        source: what they were taken from.
    """

    times: np.ndarray | None = None
    counts: np.ndarray | None = None
    source: str = ""


@dataclass(frozen=True)
class Taken:
    """What was taken from the files of a session.

    Attributes:
        activity: ``[N, T]`` float32.
        clock: when its frames were taken.
        key: key of the array.
        orientation: which axis of the array is time, ``"units x frames"`` or ``"frames x units"``.
        rounded: units whose values float32 cannot tell apart, indices from 0.
        warnings: what a person should know, one line each.
    """

    activity: np.ndarray
    clock: Clock
    key: str
    orientation: str
    rounded: np.ndarray
    warnings: tuple[str, ...]


def take(plan: Plan, description: Description, opener: sources.Opener) -> Taken:
    """The activity of all files of a session.

    Raises:
        DataError: if it is not there, is no two axes of real numbers, or leaves something open.
    """
    blocks: list[np.ndarray] = []
    rounded: list[np.ndarray] = []
    warnings: list[str] = []
    clock: Clock | None = None
    key = orientation = ""
    for part in plan.parts:
        contents = opener.recording(part.path, part.key)
        key = part.key or contents.key or _only_key(contents, stacked=part.unit is not None)
        value = _array(contents, key)
        if part.unit is not None:
            block, found = _vector(contents, key, value), None
        else:
            orientation = _orientation(contents, key, value, description, warnings)
            block, found = _split_times(contents, key, value, orientation, description, warnings)
        found = _clock(contents, key, block.shape[1], found, description)
        clock = clock or found
        if blocks and block.shape[1] != blocks[0].shape[1]:
            raise DataError(
                f"{part.path}: {block.shape[1]} frames where {plan.parts[0].path.name} has {blocks[0].shape[1]}; "
                f"the units of session '{plan.name}' must have equal length"
            )
        taken, lost = as_float32(block, f"{part.path}: '{key}'")
        rounded.append(lost + sum(map(len, blocks)))
        blocks.append(taken)
    activity = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    if 0 in activity.shape:
        raise DataError(f"{plan.parts[0].path}: no activity in it, '{key}' has shape {activity.shape}")
    together = np.concatenate(rounded)
    told = tuple(dict.fromkeys(warnings))
    return Taken(np.ascontiguousarray(activity), clock or Clock(), key, orientation, together, told)


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


def _vector(contents: Contents, key: str, value: np.ndarray) -> np.ndarray:
    """``[1, T]``, the only unit of a file."""
    if value.ndim == 0 or max(value.shape, default=0) != value.size:
        raise DataError(f"{contents.path}: '{key}' has shape {value.shape}; one file per unit needs a vector")
    return value.reshape(1, -1)


def _orientation(contents: Contents, key: str, value: np.ndarray, description: Description, warnings: list[str]) -> str:
    """Which axis is time: as the file says itself, otherwise as it is described."""
    where, said = f"{contents.path}: '{key}'", description.activity.orientation
    if value.ndim == 1:
        raise DataError(
            f"{where} has one axis, shape {value.shape}; activity has two, units and frames "
            "(for one file per unit say unit = ... under [sessions])"
        )
    if value.ndim != 2:
        raise DataError(f"{where} has shape {value.shape}; activity has two axes, units and frames")
    if contents.orientation is not None:
        if said is not None and said != contents.orientation:
            warnings.append(f'its format ({contents.format}) says which axis is time: orientation "{said}" left aside')
        return contents.orientation
    said = said or _of_times(description)
    if said is None:
        a, b = value.shape
        raise DataError(
            f"{where} has shape {a} x {b} and nothing says which axis is time: say "
            f'--orientation "units x frames" ({a} units, {b} frames) or "frames x units" ({b} units, {a} frames), '
            "or orientation = ... in dataset.toml under [activity]"
        )
    return said


def _of_times(description: Description) -> str | None:
    """The orientation that a column or a row of time stamps alone implies: a column of them has a line a frame."""
    how = description.activity
    if (how.time_column is None) == (how.time_row is None):
        return None
    return FRAMES_FIRST if how.time_row is None else UNITS_FIRST


def _split_times(
    contents: Contents,
    key: str,
    value: np.ndarray,
    orientation: str,
    description: Description,
    warnings: list[str],
) -> tuple[np.ndarray, Clock | None]:
    """``[N, T]``, and what the row or column of time stamps says, if any, which a format of units has not."""
    how, where = description.activity, f"{contents.path}: '{key}'"
    rows = value if orientation == UNITS_FIRST else value.T
    if contents.orientation is not None:
        return rows, None
    index = how.time_row if orientation == UNITS_FIRST else how.time_column
    wrong = how.time_column if orientation == UNITS_FIRST else how.time_row
    if wrong is not None:
        other = ("time_row", "time_column") if orientation == UNITS_FIRST else ("time_column", "time_row")
        raise DataError(f'{where}: orientation "{orientation}" goes with {other[0]}, not {other[1]}')
    if index is not None and index >= len(rows):
        raise DataError(f"{where}: shape {value.shape} has no row or column {index} for the time stamps")
    names = contents.columns if orientation == FRAMES_FIRST and len(contents.columns) == len(rows) else ()
    _check_clocks(rows, names, index, orientation, description, where, warnings)
    if index is None:
        return rows, None
    stamps = np.asarray(rows[index], dtype=np.float64)
    rows = np.delete(rows, index, axis=0)
    source = f"{'row' if orientation == UNITS_FIRST else 'column'} {index}"
    source += f" ('{names[index]}')" if names and names[index] else ""
    if not names or not _counts(names[index], stamps):
        return rows, Clock(_seconds(stamps, how), source=f"{source}: time stamps in {how.time_unit}")
    source += ": numbers of frames"
    if how.rate_hz is not None:
        return rows, Clock(stamps / how.rate_hz, source=source)
    warnings.append(
        f"{source}, which without a rate give no times: stretches end where they jump (say --rate, or rate_hz = ...)"
    )
    return rows, Clock(counts=stamps, source=source)


def _counts(name: str, values: np.ndarray) -> bool:
    """Whether a column numbers the frames, by its name, if its values are whole."""
    with np.errstate(invalid="ignore"):
        whole = bool((values == np.rint(values)).all())
    return whole and bool(_COUNTER.fullmatch(name)) and not _CLOCK.search(name)


def _seconds(times: np.ndarray, how: Activity) -> np.ndarray:
    """Time stamps in seconds."""
    return times / 1000.0 if how.time_unit == "ms" else times


def _check_clocks(
    rows: np.ndarray,
    names: tuple[str, ...],
    taken: int | None,
    orientation: str,
    description: Description,
    where: str,
    warnings: list[str],
) -> None:
    """Refuse a row or column that is named as time or an index and rises; warn of others that rise.

    ``rows`` are ``[N, T]`` with that of the time stamps, number ``taken``; ``names`` has one for each, or none.
    """
    left_out = {name.rpartition("/")[2] for name in description.activity.leave_out}
    places = [place for place in range(len(rows)) if place != taken]
    units = [(place, names[place] if names else str(number)) for number, place in enumerate(places)]
    units = [(place, name) for place, name in units if name not in left_out]
    for place, name in units if names else []:
        if (_CLOCK.search(name) or _COUNTER.fullmatch(name)) and _rises(rows[place], fewest=3):
            way = f"say --time-column {place}, or time_column = {place} in dataset.toml under [activity]"
            if taken is not None:
                way = f"leave it out: --leave-out {typed(name)}"
                way += f', or leave_out = ["{name}"] in dataset.toml under [activity]'
            raise DataError(
                f"{where}: column {place}, named '{name}', rises from frame to frame: it is time or an index, no "
                f"unit: {way}"
            )
    start = np.asarray(rows[:, :_FEWEST_RISING], dtype=np.float64)
    with np.errstate(invalid="ignore"):
        likely = set(np.flatnonzero((np.diff(start) > 0).all(axis=1)).tolist())
    for place, name in units:
        if place in likely and _rises(rows[place], fewest=_FEWEST_RISING):
            option = f"time_row = {place} in dataset.toml" if orientation == UNITS_FIRST else f"--time-column {place}"
            way = option if taken is None else f"--leave-out {typed(name)}"
            warnings.append(
                f"unit '{name}' rises from each frame to the next, as time does: if it is no unit, say {way}"
            )


def _rises(values: np.ndarray, *, fewest: int) -> bool:
    """Whether every frame's value is above that before it, of at least so many frames."""
    with np.errstate(invalid="ignore"):
        return len(values) >= fewest and bool((np.diff(values.astype(np.float64)) > 0).all())


def _clock(contents: Contents, key: str, frames: int, found: Clock | None, description: Description) -> Clock | None:
    """What the array itself says, or the key described, or the format."""
    how, where = description.activity, f"{contents.path}: '{key}'"
    if found is None and how.time_key is not None:
        value = contents.get(how.time_key)
        real_numbers(value, f"{contents.path}: '{how.time_key}'")  # or an error
        stamps = np.asarray(value, dtype=np.float64).reshape(-1)
        found = Clock(_seconds(stamps, how), source=f"'{how.time_key}': time stamps in {how.time_unit}")
    if found is None and contents.times is not None:
        found = Clock(_seconds(contents.times, how), source=f"time stamps of the format, in {how.time_unit}")
    if found is None:
        return None
    times = found.counts if found.times is None else found.times
    if times is None or times.shape != (frames,):
        raise DataError(f"{where} has {frames} frames but {0 if times is None else times.size} time stamps")
    if not np.isfinite(times).all():
        bad = int(np.argmin(np.isfinite(times)))
        raise DataError(
            f"{where}: frame {bad} has no time ({times[bad]:g} in {found.source}): give it one in the file, between "
            "those of the frames beside it"
        )
    if (np.diff(times) <= 0).any():
        bad = int(np.argmax(np.diff(times) <= 0)) + 1
        raise DataError(
            f"{where}: time stamps must rise from frame to frame; frame {bad} does not ({times[bad]:g} after "
            f"{times[bad - 1]:g}): repair them, or part the file there"
        )
    return found
