"""Activity as float32, and what is lost by that."""

from __future__ import annotations

from typing import Any

import numpy as np

from poco.errors import DataError
from poco.wording import begun, counted

#: Rounding to float32 may be this part of a unit's deviation, root mean square: a step of 1% of it.
_ROUNDING = 0.01 / 12**0.5
_CHUNK = 1 << 19  # values


def real_numbers(found: Any, where: str) -> np.ndarray:
    """What was found as float32 numbers, of any shape.

    Raises:
        DataError: if it is not numbers, or complex ones.
    """
    try:
        if not np.iscomplexobj(found):
            return np.asarray(found, dtype=np.float32)
    except (TypeError, ValueError):
        pass
    raise DataError(f"{where} must be real numbers")


def as_float32(block: np.ndarray, where: str) -> tuple[np.ndarray, np.ndarray]:
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


def check_rounding(activity: np.ndarray, ids: tuple[str, ...], rounded: np.ndarray, name: str) -> None:
    """Refuse units whose values lie so far from 0 that float32 cannot tell them apart."""
    if len(rounded):
        what = f"{counted(len(rounded), 'unit')} ({begun([ids[i] for i in rounded], 8)})"
        level = float(np.nanmean(activity[rounded[0]], dtype=np.float64))
        raise DataError(
            f"session '{name}': {what} lie so far from 0, at about {level:.3g}, that float32 cannot hold how they "
            "change (its steps are above 1% of their deviation): subtract the offset of each unit"
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
