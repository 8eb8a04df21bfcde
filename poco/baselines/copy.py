"""Repeat the last frame."""

from __future__ import annotations

import torch
from torch import nn

from poco.data.packed import PackedBatch


class Copy(nn.Module):
    """Every forecast frame is the last frame of the context: the forecaster that scores 0 by definition.

    Args:
        context: frames of the context (not used).
        horizon: frames that are forecast.
    """

    def __init__(self, context: int, horizon: int) -> None:
        super().__init__()
        self.context, self.horizon = context, horizon

    def forward_packed(self, batch: PackedBatch) -> torch.Tensor:
        """``[R, C]`` -> ``[R, H]``."""
        return batch.x[:, -1:].expand(-1, self.horizon)
