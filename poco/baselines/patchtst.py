"""PatchTST: a Transformer over patches of each unit's own context."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from poco.baselines.windows import instance_normalised
from poco.data.packed import PackedBatch


class PatchTST(nn.Module):
    """Overlapping patches are tokens; the encoder's output, laid out flat, is mapped to the horizon.

    After Nie et al., "A time series is worth 64 words", ICLR 2023: units are independent, the last value is repeated
    for one more patch, windows are normalised. Layers are normalised as in ``nn.TransformerEncoder``, not over the
    batch.

    Args:
        context: frames of the context.
        horizon: frames that are forecast.
        patch: frames of a patch; the stride is half of it.
        width: width of the tokens.
        layers: number of layers.
    """

    def __init__(self, context: int, horizon: int, patch: int = 8, width: int = 64, layers: int = 2) -> None:
        super().__init__()
        self.context, self.horizon = context, horizon
        self.patch = min(patch, context)
        self.stride = max(1, self.patch // 2)
        tokens = (context - self.patch) // self.stride + 2
        self.embedding = nn.Linear(self.patch, width)
        self.position = nn.Parameter(0.02 * torch.randn(tokens, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, 0.2, F.gelu, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.read_out = nn.Linear(tokens * width, horizon)

    def patches(self, x: Tensor) -> Tensor:
        """``[R, C]`` -> ``[R, tokens, patch]``."""
        return F.pad(x[:, None], (0, self.stride), mode="replicate")[:, 0].unfold(-1, self.patch, self.stride)

    def forward_packed(self, batch: PackedBatch) -> Tensor:
        """``[R, C]`` -> ``[R, H]``."""
        return instance_normalised(batch.x, self._forecast)

    def _forecast(self, x: Tensor) -> Tensor:
        out: Tensor = self.read_out(self.layers(self.embedding(self.patches(x)) + self.position).flatten(1))
        return out
