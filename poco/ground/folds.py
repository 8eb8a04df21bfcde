"""Contiguous folds in time of the training windows of a session."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Folds:
    """Windows of one session cut into contiguous folds; what is fitted without a fold shares no frame with it.

    Attributes:
        fold: ``[W]`` int64, fold of each window.
        near: ``[K, W]`` bool, windows of other folds that share a frame with a window of the fold.
        first: ``[K]`` int64, first frame of the first window of each fold.
    """

    fold: np.ndarray
    near: np.ndarray
    first: np.ndarray

    @property
    def count(self) -> int:
        """Number of folds ``K``."""
        return len(self.first)


def cut(start: np.ndarray, frames: int, folds: int) -> Folds | None:
    """Cut windows into folds of equal size.

    Args:
        start: ``[W]`` first frames of the windows, rising.
        frames: frames of a window, context and horizon.
        folds: number of folds.

    Returns:
        The folds, or None where the windows are so few that without one fold and its neighbourhood less than a sixth
        would be left.
    """
    windows = len(start)
    if windows < folds:
        return None
    fold = np.arange(windows, dtype=np.int64) * folds // windows
    near = np.empty((folds, windows), dtype=bool)
    first = np.empty(folds, dtype=np.int64)
    for k in range(folds):
        inside = start[fold == k]
        first[k] = inside[0]
        near[k] = (fold != k) & (start > inside[0] - frames) & (start < inside[-1] + frames)
        if windows - len(inside) - int(near[k].sum()) < windows / 6:
            return None
    return Folds(fold, near, first)
