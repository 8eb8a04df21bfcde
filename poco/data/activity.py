"""The activity of one session as one array: found in its files, turned to units x frames, and as float32."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from poco.data import sources
from poco.data.description import Description
from poco.data.readers import Contents
from poco.data.readers.base import FRAMES_FIRST, UNITS_FIRST
from poco.errors import DataError

if TYPE_CHECKING:
    from poco.data.session import Plan

#: Names of a table's columns that count frames, or hold time stamps: if the values rise, they are no unit's.
_COUNTER = re.compile(r"(index|idx|frames?|unnamed: \d+)?([\W_].*)?", re.IGNORECASE)
_CLOCK = re.compile(r"(time|times|t|timestamps?|seconds)([\W_].*)?", re.IGNORECASE)
#: Rounding to float32 may be this part of a unit's deviation, root mean square: a step of 1% of it.
_ROUNDING = 0.01 / 12**0.5
_CHUNK = 1 << 19  # values


@dataclass(frozen=True)
class Taken:
    """What was taken from the files of a session.

    Attributes:
        activity: ``[N, T]`` float32.
        times: ``[T]`` seconds, where there are time stamps.
        key: key of the array.
        orientation: which axis of the array is time, ``"units x frames"`` or ``"frames x units"``.
        rounded: units whose values float32 cannot tell apart, indices from 0.
        warnings: what a person should know, one line each.
    """

    activity: np.ndarray
    times: np.ndarray | None
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
    times, key, orientation = None, "", ""
    for part in plan.parts:
        contents = opener.recording(part.path, part.key)
        key = part.key or contents.key or _only_key(contents, stacked=part.unit is not None)
        value = _array(contents, key)
        if part.unit is not None:
            block, found = _vector(contents, key, value), None
        else:
            orientation = _orientation(contents, key, value, description, warnings)
            block, found = _split_times(contents, key, value, orientation, description, warnings)
        found = _times(contents, key, block, found, description)
        times = found if times is None else times
        if blocks and block.shape[1] != blocks[0].shape[1]:
            raise DataError(
                f"{part.path}: {block.shape[1]} frames where {plan.parts[0].path.name} has {blocks[0].shape[1]}; "
                f"the units of session '{plan.name}' must have equal length"
            )
        taken, lost = _float32(block, f"{part.path}: '{key}'")
        rounded.append(lost + sum(map(len, blocks)))
        blocks.append(taken)
    activity = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    if 0 in activity.shape:
        raise DataError(f"{plan.parts[0].path}: no activity in it, '{key}' has shape {activity.shape}")
    together = np.concatenate(rounded)
    return Taken(np.ascontiguousarray(activity), times, key, orientation, together, tuple(dict.fromkeys(warnings)))


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
    if said is None:
        a, b = value.shape
        raise DataError(
            f"{where} has shape {a} x {b} and nothing says which axis is time: say "
            f'--orientation "units x frames" ({a} units, {b} frames) or "frames x units" ({b} units, {a} frames), '
            "or orientation = ... in dataset.toml under [activity]"
        )
    return said


def _split_times(
    contents: Contents,
    key: str,
    value: np.ndarray,
    orientation: str,
    description: Description,
    warnings: list[str],
) -> tuple[np.ndarray, np.ndarray | None]:
    """``[N, T]``, and the row or column that holds time stamps ``[T]``, if any, which a format of units has not."""
    how, where = description.activity, f"{contents.path}: '{key}'"
    rows = value if orientation == UNITS_FIRST else value.T
    if contents.orientation is not None:
        return rows, None
    index = how.time_row if orientation == UNITS_FIRST else how.time_column
    wrong = how.time_column if orientation == UNITS_FIRST else how.time_row
    if wrong is not None:
        other = ("time_row", "time_column") if orientation == UNITS_FIRST else ("time_column", "time_row")
        raise DataError(f'{where}: orientation "{orientation}" goes with {other[0]}, not {other[1]}')
    names = contents.columns if orientation == FRAMES_FIRST and len(contents.columns) == len(rows) else ()
    if index is None:
        _check_clocks(rows, names, orientation, description, where, warnings)
        return rows, None
    if index >= len(rows):
        raise DataError(f"{where}: shape {value.shape} has no row or column {index} for the time stamps")
    times = np.asarray(rows[index], dtype=np.float64)
    rows = np.delete(rows, index, axis=0)
    if names and _COUNTER.fullmatch(names[index]):  # it counts frames
        a_second = 1000.0 if how.time_unit == "ms" else 1.0
        return rows, None if how.rate_hz is None else times / how.rate_hz * a_second
    return rows, times


def _check_clocks(
    rows: np.ndarray,
    names: tuple[str, ...],
    orientation: str,
    description: Description,
    where: str,
    warnings: list[str],
) -> None:
    """Refuse a row or column that is named as time or an index and rises; warn of a first one that looks like it."""
    left_out = {name.rpartition("/")[2] for name in description.activity.leave_out}
    for index, name in enumerate(names):
        if (_CLOCK.fullmatch(name) or _COUNTER.fullmatch(name)) and name not in left_out:
            steps = np.diff(rows[index].astype(np.float64))
            if len(steps) > 1 and (steps > 0).all():
                raise DataError(
                    f"{where}: column {index}, named '{name}', rises from frame to frame: it is time or an index, no "
                    f"unit: say --time-column {index}, or time_column = {index} in dataset.toml under [activity]"
                )
    if len(rows) and not names and rows.shape[1] > 2:
        steps = np.diff(rows[0].astype(np.float64))
        with np.errstate(invalid="ignore"):
            even = (steps > 0).all() and np.ptp(steps) <= 0.01 * np.median(steps)
        if even and "0" not in left_out:
            option = "time_row = 0 in dataset.toml" if orientation == UNITS_FIRST else "--time-column 0"
            warnings.append(f"the first unit rises in equal steps, as time stamps do: if it is no unit, say {option}")


def _times(
    contents: Contents, key: str, rows: np.ndarray, times: np.ndarray | None, description: Description
) -> np.ndarray | None:
    """``[T]`` seconds: those of the array itself, those under the key described, or those of the format."""
    how, where = description.activity, f"{contents.path}: '{key}'"
    if times is None and how.time_key is not None:
        sources.numbers(contents.get(how.time_key), f"{contents.path}: '{how.time_key}'")
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
    return times


def _float32(block: np.ndarray, where: str) -> tuple[np.ndarray, np.ndarray]:
    """``[N, T]`` as float32, and the units whose values it cannot tell apart."""
    with np.errstate(over="ignore"):
        taken = np.asarray(block, dtype=np.float32)
    if np.can_cast(block.dtype, np.float32) or not block.size:
        return taken, np.empty(0, dtype=np.int64)
    if block.dtype.itemsize > 4 and (np.isinf(taken) & np.isfinite(block)).any():
        largest = np.abs(block[np.isfinite(block)]).max()
        raise DataError(f"{where} holds {float(largest):.3g}, which does not fit float32: scale or repair it")
    doubtful = np.flatnonzero(~_surely_held(block, taken))
    units = max(1, _CHUNK // block.shape[1])
    some = (doubtful[i : i + units] for i in range(0, len(doubtful), units))
    return taken, np.concatenate(
        [np.empty(0, dtype=np.int64), *(rows[_rounded(block[rows], taken[rows])] for rows in some)]
    )


def _surely_held(exact: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Whether a few frames are enough to see that rounding is small against a unit's deviation. ``[N]`` bool."""
    frames = exact.shape[1]
    few = exact[:, :: -(-frames // 256)].astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        deviation = few.std(axis=1) * (few.shape[1] / frames) ** 0.5  # that of all frames is at least this
        most = np.maximum(taken.max(axis=1), -taken.min(axis=1)).astype(np.float64)
        return most * 2.0**-24 < _ROUNDING * deviation


def _rounded(exact: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Whether rounding is not small against the deviation of a unit; not of one that never changes. ``[N]`` bool."""
    values = np.array(exact, dtype=np.float64)
    finite = np.isfinite(values)
    values[~finite] = 0.0
    count = np.maximum(finite.sum(axis=1), 1)
    error = np.where(finite, values - np.where(finite, taken, 0.0), 0.0)
    mean = values.sum(axis=1) / count
    values -= mean[:, None]
    values[~finite] = 0.0
    with np.errstate(over="ignore", under="ignore"):
        deviation = np.sqrt((values**2).sum(axis=1) / count)
        rounding = np.sqrt((error**2).sum(axis=1) / count)
    return (deviation > 1e-13 * np.abs(mean)) & (rounding > _ROUNDING * deviation)
