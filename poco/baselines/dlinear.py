"""DLinear: one linear map of the trend, one of the rest."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from poco.data.packed import PackedBatch


class DLinear(nn.Module):
    """A moving average (ends repeated) is the trend; trend and remainder have a linear map ``C -> H`` each.

    After Zeng et al., "Are Transformers effective for time series forecasting?", AAAI 2023; the window of the average
    is ``C // 4 * 2 + 1`` frames.

    Args:
        context: frames of the context.
        horizon: frames that are forecast.
    """

    def __init__(self, context: int, horizon: int) -> None:
        super().__init__()
        self.context, self.horizon = context, horizon
        self.reach = context // 4
        self.trend, self.rest = nn.Linear(context, horizon), nn.Linear(context, horizon)

    def forward_packed(self, batch: PackedBatch) -> torch.Tensor:
        """``[R, C]`` -> ``[R, H]``."""
        padded = F.pad(batch.x[:, None], (self.reach, self.reach), mode="replicate")
        trend = F.avg_pool1d(padded, 2 * self.reach + 1, stride=1)[:, 0]
        out: torch.Tensor = self.trend(trend) + self.rest(batch.x - trend)
        return out
