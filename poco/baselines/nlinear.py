"""NLinear: one linear map of the context after its last value is taken off."""

from __future__ import annotations

import torch
from torch import nn

from poco.data.packed import PackedBatch


class NLinear(nn.Module):
    """Subtract the last value, map ``C -> H`` with one linear layer shared by all units, add the last value back.

    After Zeng et al., "Are Transformers effective for time series forecasting?", AAAI 2023.

    Args:
        context: frames of the context.
        horizon: frames that are forecast.
    """

    def __init__(self, context: int, horizon: int) -> None:
        super().__init__()
        self.context, self.horizon = context, horizon
        self.linear = nn.Linear(context, horizon)

    def forward_packed(self, batch: PackedBatch) -> torch.Tensor:
        """``[R, C]`` -> ``[R, H]``."""
        last = batch.x[:, -1:]
        out: torch.Tensor = self.linear(batch.x - last) + last
        return out
