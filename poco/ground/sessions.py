"""What fitting the ground needs of a session: its training windows in groups, and its latents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from poco.data.splits import Split
from poco.ground.folds import Folds, cut
from poco.ground.latents import loadings, project

#: Folds of the training windows of a session.
FOLDS = 4


@dataclass(frozen=True, eq=False)
class Session:
    """The training windows of a session in groups: the windows of each fold, then those near each fold."""

    index: int
    start: np.ndarray
    folds: Folds | None
    loadings: Tensor
    latents: Tensor

    @property
    def groups(self) -> np.ndarray:
        """``[2 K, W]`` bool, or ``[1, W]`` without folds."""
        if self.folds is None:
            return np.ones((1, self.start.size), dtype=bool)
        inside = self.folds.fold == np.arange(self.folds.count)[:, None]
        return np.concatenate([inside, self.folds.near])

    @property
    def fits(self) -> Tensor:
        """``[1 + K, G]``: how groups add up to all windows, and to those that a fit without each fold may see."""
        if self.folds is None:
            return torch.ones(1, 1)
        count = self.folds.count
        one = torch.eye(count)
        everything = torch.cat([torch.ones(1, count), torch.zeros(1, count)], 1)
        return torch.cat([everything, torch.cat([1 - one, -one], 1)])


def prepare(split: Split, index: int, latents: int, folds: bool) -> Session:
    """A session of a split with so many latents, its windows cut into folds or not."""
    windows = split.windows("train")
    start = windows.start[windows.session == index]
    weights = loadings(split, index, latents)
    found = cut(start, split.context + split.horizon, FOLDS) if folds else None
    return Session(index, start, found, weights, project(split, index, weights))
