"""A multilayer perceptron on each unit's own context."""

from __future__ import annotations

import torch
from torch import nn

from poco.data.packed import PackedBatch


class MLP(nn.Module):
    """``C -> width -> H`` with a ReLU, shared by all units; POCO's head without the population.

    The univariate baseline that published POCO is compared with (width 1024).

    Args:
        context: frames of the context.
        horizon: frames that are forecast.
        width: hidden units.
    """

    def __init__(self, context: int, horizon: int, width: int = 1024) -> None:
        super().__init__()
        self.context, self.horizon = context, horizon
        self.layers = nn.Sequential(nn.Linear(context, width), nn.ReLU(), nn.Linear(width, horizon))

    def forward_packed(self, batch: PackedBatch) -> torch.Tensor:
        """``[R, C]`` -> ``[R, H]``."""
        out: torch.Tensor = self.layers(batch.x)
        return out
