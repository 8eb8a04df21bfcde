"""ModernTCN: large depthwise convolutions along time, then a feed-forward layer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from poco.baselines.windows import instance_normalised
from poco.data.packed import PackedBatch


class ModernTCN(nn.Module):
    """Patches by a strided convolution; residual blocks of a large depthwise convolution and a feed-forward layer.

    After Luo and Wang, "ModernTCN: a modern pure convolution structure", ICLR 2024. Units share all weights and the
    feed-forward layer across units is left out, since sessions differ in their units; layers are
    normalised within a window, not over the batch, so that the best weights are all that there is to keep.

    Args:
        context: frames of the context.
        horizon: frames that are forecast.
        width: features.
        kernel: length of the large convolution, in patches.
        blocks: number of blocks.
    """

    def __init__(self, context: int, horizon: int, width: int = 64, kernel: int = 13, blocks: int = 2) -> None:
        super().__init__()
        self.context, self.horizon = context, horizon
        self.patch = min(8, context)
        self.stride = max(1, self.patch // 2)
        self.stem = nn.Conv1d(1, width, self.patch, self.stride)
        self.large = nn.ModuleList(nn.Conv1d(width, width, kernel, padding="same", groups=width) for _ in range(blocks))
        self.norms = nn.ModuleList(nn.GroupNorm(1, width) for _ in range(blocks))
        self.mix = nn.ModuleList(
            nn.Sequential(nn.Conv1d(width, 2 * width, 1), nn.GELU(), nn.Conv1d(2 * width, width, 1))
            for _ in range(blocks)
        )
        self.read_out = nn.Linear(width * ((context + self.stride - self.patch) // self.stride + 1), horizon)

    def forward_packed(self, batch: PackedBatch) -> Tensor:
        """``[R, C]`` -> ``[R, H]``."""
        return instance_normalised(batch.x, self._forecast)

    def _forecast(self, x: Tensor) -> Tensor:
        features = self.stem(F.pad(x[:, None], (0, self.stride), mode="replicate"))
        for large, norm, mix in zip(self.large, self.norms, self.mix, strict=True):
            features = features + mix(norm(along_time(large, features)))  # type: ignore[arg-type]
        out: Tensor = self.read_out(features.flatten(1))
        return out


def along_time(large: nn.Conv1d, x: Tensor) -> Tensor:
    """A depthwise convolution that keeps the length of ``x [R, width, T]``, as a matrix ``T x T`` for each feature.

    ``T`` is small here, and so it is several times faster than the convolution.
    """
    length, kernel = x.shape[-1], large.kernel_size[0]
    time = torch.arange(length, device=x.device)
    tap = time[:, None] - time + (kernel - 1) // 2
    padded = F.pad(large.weight[:, 0], (1, 1))  # taps outside the kernel are zero
    assert large.bias is not None
    return torch.einsum("rct,cts->rcs", x, padded[:, (tap + 1).clamp(0, kernel + 1)]) + large.bias[:, None]
