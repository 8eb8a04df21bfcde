"""The whole zebrafish brain of ZAPBench: traces in a zarr array, ``240930_traces``, 7,879 frames of 71,721 neurons."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from poco.data.recording import Recording
from poco.errors import ConfigError, DataError, optional

PATTERN = "*traces*"
#: Seconds from frame to frame.
INTERVAL = 0.914
CONDITIONS = ("gain", "dots", "flash", "taxis", "turning", "position", "open loop", "rotation", "dark")
#: First frame of each condition, and the end.
BORDERS = (0, 649, 2422, 3078, 3735, 5047, 5638, 6623, 7279, 7879)
#: The condition that is never trained on.
HELD_OUT = "taxis"
HORIZON = 32
LONGEST_CONTEXT = 256


def sessions(path: Path) -> list[Recording]:
    """The recording, a stretch for each condition (no window crosses from one to another), its number as a channel."""
    with optional("zarr", "formats", "reading zarr arrays"):
        import zarr
    try:
        traces = zarr.open_array(str(path), mode="r")
    except Exception as error:
        raise DataError(f"{path} cannot be read as a zarr array: {str(error).splitlines()[0]}") from error
    if traces.ndim != 2 or traces.shape[0] != BORDERS[-1]:
        raise DataError(f"{path} has shape {traces.shape}, not {BORDERS[-1]:,} frames x neurons")
    stretches = tuple(itertools.pairwise(BORDERS))
    condition = np.repeat(np.arange(len(CONDITIONS)), np.diff(BORDERS)).astype(np.float32)
    return [
        Recording(
            np.asarray(traces[:]).T,
            "zapbench",
            rate_hz=1 / INTERVAL,
            dataset="zapbench",
            stretches=stretches,
            channels={"condition": condition},
            provenance={"file": str(path), "reader": "zapbench", "conditions": ", ".join(CONDITIONS)},
        )
    ]


def parts(condition: str, context: int, horizon: int = HORIZON) -> dict[str, tuple[int, int]]:
    """Frames of a condition that the benchmark trains, validates and tests on.

    The first and the last frame of a condition are left out. Of the others the last 20% are forecast in test and the
    10% before them in validation (both rounded down), and the rest is trained on. Windows of validation and test begin
    a context earlier, so that the first frame of their part is forecast: their contexts may reach into the part before,
    what they forecast never does. All of the held-out condition is for test, and what is forecast there begins at the
    same frame, :data:`LONGEST_CONTEXT` from its first, for every context.

    Args:
        condition: one of :data:`CONDITIONS`.
        context: frames a forecast is made from, 4 or 256 in the benchmark.
        horizon: frames that are forecast.

    Returns:
        Frame ranges ``(start, stop)`` by part, of whole windows.

    Raises:
        DataError: if there is no such condition.
        ConfigError: if the context is not between 1 and :data:`LONGEST_CONTEXT`, or no window fits.
    """
    if condition not in CONDITIONS:
        raise DataError(f"there is no condition '{condition}': there are {', '.join(CONDITIONS)}")
    place = CONDITIONS.index(condition)
    return cut(BORDERS[place], BORDERS[place + 1], context, horizon, condition, held_out=condition == HELD_OUT)


def cut(
    start: int, stop: int, context: int, horizon: int, name: str, *, held_out: bool = False
) -> dict[str, tuple[int, int]]:
    """What :func:`parts` says of any condition: the frames ``start`` to ``stop``, called ``name``.

    Raises:
        ConfigError: if the context is not between 1 and :data:`LONGEST_CONTEXT`, or no window fits.
    """
    if not 1 <= context <= LONGEST_CONTEXT:
        raise ConfigError(f"the context must be 1 to {LONGEST_CONTEXT} frames, got {context}")
    start, stop = start + 1, stop - 1
    if held_out:
        found = {"test": (start + LONGEST_CONTEXT - context, stop)}
    else:
        length = stop - start
        test = stop - int(0.2 * length)
        val = test - int(0.1 * length)
        found = {"train": (start, val), "val": (val - context, test), "test": (test - context, stop)}
    for part, (first, last) in found.items():
        if first < start or last - first < context + horizon:
            raise ConfigError(
                f"'{name}' has no window of {context} + {horizon} frames for {part}: take a shorter context or horizon"
            )
    return found


def mean_errors(by_condition: Mapping[str, Sequence[float]]) -> list[float]:
    """The benchmark's average of mean absolute errors by step ahead: over conditions, without the held-out one."""
    kept = [np.asarray(errors, dtype=float) for name, errors in by_condition.items() if name != HELD_OUT]
    return list(np.mean(kept, axis=0))
