"""MLP-L: a larger multilayer perceptron on each unit's own context."""

from __future__ import annotations

import torch
from torch import nn

from poco.data.packed import PackedBatch


class MLPLarge(nn.Module):
    """``C -> 2048 -> 2048 -> H`` with ReLUs, shared by all units: the larger MLP of the POCO paper (2025).

    Args:
        context: frames of the context.
        horizon: frames that are forecast.
        width: units of both hidden layers.
    """

    def __init__(self, context: int, horizon: int, width: int = 2048) -> None:
        super().__init__()
        self.context, self.horizon = context, horizon
        self.layers = nn.Sequential(
            nn.Linear(context, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, horizon)
        )

    def forward_packed(self, batch: PackedBatch) -> torch.Tensor:
        """``[R, C]`` -> ``[R, H]``."""
        out: torch.Tensor = self.layers(batch.x)
        return out
