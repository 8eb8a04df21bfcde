"""Frame ranges ``(start, stop)`` in order of time: what they hold, and parts of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Segments = tuple[tuple[int, int], ...]


def frames_of(segments: Segments) -> int:
    """How many frames the segments cover."""
    return sum(stop - start for start, stop in segments)


def least_frames(context: int, horizon: int, protocol: str) -> int:
    """Frames of the shortest segment that has a window; the published protocol drops the last one of each."""
    return context + horizon + (protocol == "published")


def window_count(segments: Segments, context: int, horizon: int, protocol: str) -> int:
    """Windows of stride 1 in the segments."""
    least = least_frames(context, horizon, protocol)
    return sum(max(0, stop - start - least + 1) for start, stop in segments)


def within(segments: Segments, first: int, stop: int) -> Segments:
    """What the segments have of the frames from ``first`` to ``stop``."""
    found = ((max(start, first), min(end, stop)) for start, end in segments)
    return tuple((start, end) for start, end in found if start < end)


def between(segments: Segments, first: int, stop: int) -> Segments:
    """The frames from ``first`` to ``stop``, counted along the segments."""
    found: Segments = ()
    before = 0  # covered frames before this segment
    for start, end in segments:
        found += within(((start, end),), start + first - before, start + stop - before)
        before += end - start
    return found


def taken(values: np.ndarray, segments: Sequence[tuple[int, int]]) -> np.ndarray:
    """The frames of the segments, one after another along the last axis; no copy if these are all there are."""
    if list(segments) == [(0, values.shape[-1])]:
        return values
    return np.concatenate([values[..., start:stop] for start, stop in segments], -1)


def joined(segments: Segments) -> Segments:
    """The same frames in order, ranges that touch made one."""
    found: list[tuple[int, int]] = []
    for start, stop in sorted(segments):
        if found and found[-1][1] == start:
            found[-1] = (found[-1][0], stop)
        else:
            found.append((start, stop))
    return tuple(found)
