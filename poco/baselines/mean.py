"""Forecast each unit's mean."""

from __future__ import annotations

import torch
from torch import nn

from poco.data.packed import PackedBatch


class Mean(nn.Module):
    """Every forecast frame is the unit's mean, as used to normalise it; in normalised units that is zero.

    With the leak-free protocol this is the mean over the training part; with the published protocol it is the mean over
    the whole session, which knows a little of the future.

    Args:
        context: frames of the context (not used).
        horizon: frames that are forecast.
    """

    def __init__(self, context: int, horizon: int) -> None:
        super().__init__()
        self.context, self.horizon = context, horizon

    def forward_packed(self, batch: PackedBatch) -> torch.Tensor:
        """``[R, C]`` -> ``[R, H]``."""
        return batch.x.new_zeros(batch.x.shape[0], self.horizon)
