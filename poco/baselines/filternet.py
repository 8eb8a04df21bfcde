"""FilterNet: learnt filters in the frequency domain, fixed (PaiFilter) or made from the window (TexFilter)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from poco.baselines.windows import instance_normalised
from poco.data.packed import PackedBatch


class PaiFilter(nn.Module):
    """A filter common to all windows: circular convolution of the normalised context, then ``C -> width -> H``.

    After Yi et al., "FilterNet: harnessing frequency filters for time series forecasting", NeurIPS 2024.

    Args:
        context: frames of the context.
        horizon: frames that are forecast.
        width: hidden units of the read-out.
    """

    def __init__(self, context: int, horizon: int, width: int = 256) -> None:
        super().__init__()
        self.context, self.horizon = context, horizon
        self.filter = nn.Parameter(0.02 * torch.randn(context))
        self.read_out = nn.Sequential(nn.Linear(context, width), nn.LeakyReLU(), nn.Linear(width, horizon))

    def filtered(self, x: Tensor) -> Tensor:
        """Circular convolution of ``[R, C]`` with the filter, by its Fourier transform."""
        spectrum = torch.fft.rfft(x, norm="ortho") * torch.fft.rfft(self.filter, norm="ortho")
        return torch.fft.irfft(spectrum, n=self.context, norm="ortho")

    def forward_packed(self, batch: PackedBatch) -> Tensor:
        """``[R, C]`` -> ``[R, H]``."""
        return instance_normalised(batch.x, lambda x: self.read_out(self.filtered(x)))


class TexFilter(nn.Module):
    """A filter made from the window's own spectrum by a small complex network, after a linear embedding.

    After Yi et al., "FilterNet", NeurIPS 2024. The spectrum is taken along the embedded context of each unit, so that
    units are independent; published code takes it along the units.

    Args:
        context: frames of the context.
        horizon: frames that are forecast.
        width: width of the embedding.
        shrink: threshold under which a filter's values are zero.
    """

    def __init__(self, context: int, horizon: int, width: int = 128, shrink: float = 0.01) -> None:
        super().__init__()
        self.context, self.horizon, self.width, self.shrink = context, horizon, width, shrink
        bins = width // 2 + 1
        self.embedding, self.norm = nn.Linear(context, width), nn.LayerNorm(width)
        self.weights = nn.Parameter(0.02 * torch.randn(2, 2, bins))
        self.biases = nn.Parameter(0.02 * torch.randn(2, 2, bins))
        self.read_out = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 256), nn.LeakyReLU(), nn.Linear(256, horizon)
        )

    def filter_of(self, spectrum: Tensor) -> Tensor:
        """The filter ``[R, bins]`` that two complex layers make of a spectrum; both act on each bin alone."""
        weight, bias = torch.complex(*self.weights.unbind(1)), torch.complex(*self.biases.unbind(1))
        first = spectrum * weight[0] + bias[0]
        second = torch.complex(F.relu(first.real), F.relu(first.imag)) * weight[1] + bias[1]
        return torch.complex(F.softshrink(second.real, self.shrink), F.softshrink(second.imag, self.shrink))

    def forward_packed(self, batch: PackedBatch) -> Tensor:
        """``[R, C]`` -> ``[R, H]``."""
        return instance_normalised(batch.x, self._forecast)

    def _forecast(self, x: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(self.norm(self.embedding(x)), norm="ortho")
        out: Tensor = self.read_out(torch.fft.irfft(spectrum * self.filter_of(spectrum), n=self.width, norm="ortho"))
        return out
