"""Stretches of time that follow what a forecaster is fitted to, inside the training part and after it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from poco.data.segments import between, frames_of, window_count
from poco.data.splits import Split
from poco.data.statistics import statistics

#: Shares of the training part: fitted up to the first, judged from the second to the third.
CHAIN: tuple[tuple[float, float, float], ...] = (
    (1 / 3, 1 / 3, 2 / 3),
    (1 / 3, 2 / 3, 1.0),
    (1 / 2, 1 / 2, 3 / 4),
    (1 / 2, 3 / 4, 1.0),
    (3 / 4, 3 / 4, 1.0),
)
_LEAST_WINDOWS = 8  # of a session in either part
#: Leak-free, windows that have room side by side in what is fitted: mean and deviation of less scatter as if by drift.
_LEAST_APART = 1.5
_LEAST_STD = 0.1  # of the whole training part's: a unit that is still for a while must not be blown up


def forward_chained(
    split: Split, chain: Sequence[tuple[float, float, float]] = CHAIN
) -> Iterator[tuple[tuple[float, float, float], Split]]:
    """Splits whose training part is a first share of the given one's, and whose validation part follows it.

    Some follow at once and some later, as a test part does. In the leak-free protocol the statistics that normalise are
    those of the shorter training part, so that drift shows as it will in the test part; in the published protocol they
    are those of the whole recording, as they will be then. A session that has hardly a window in one of the parts is
    left out, one whose statistics would be of less than one and a half windows side by side, and a split without any
    session.

    Args:
        split: recordings and parts; its validation and test parts are not looked at.
        chain: the shares.

    Yields:
        The shares, and the split.
    """
    for shares in chain:
        kept, parts = [], []
        for index, segments in enumerate(split.segments["train"]):
            frames = frames_of(segments)
            fitted = between(segments, 0, int(shares[0] * frames))
            judged = between(segments, int(shares[1] * frames), int(shares[2] * frames))
            known = frames_of(fitted) >= _LEAST_APART * (split.context + split.horizon)
            windows = (window_count(own, split.context, split.horizon, split.protocol) for own in (fitted, judged))
            enough = min(windows) >= _LEAST_WINDOWS
            if enough and (known or split.protocol == "published"):
                kept.append(index)
                parts.append((fitted, judged))
        if not kept:
            continue
        mean, std = [split.mean[i] for i in kept], [split.std[i] for i in kept]
        if split.protocol != "published":
            found = [statistics(split.recordings[i], part[0]) for i, part in zip(kept, parts, strict=True)]
            mean = [values.astype(np.float32) for values, _ in found]
            std = [np.maximum(d, _LEAST_STD * s).astype(np.float32) for (_, d), s in zip(found, std, strict=True)]
        judged_parts = tuple(part[1] for part in parts)
        yield (
            shares,
            dataclasses.replace(
                split,
                recordings=tuple(split.recordings[i] for i in kept),
                mean=tuple(mean),
                std=tuple(std),
                segments={"train": tuple(part[0] for part in parts), "val": judged_parts, "test": judged_parts},
            ),
        )
