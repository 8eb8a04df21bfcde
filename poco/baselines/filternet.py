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
    """A filter made by a small complex network from the spectrum along the units of their embedded contexts.

    After Yi et al., "FilterNet", NeurIPS 2024, and its code. Sessions with any number of units share all parameters;
    windows are normalised without parameters of units.

    Args:
        context: frames of the context.
        horizon: frames that are forecast.
        width: width of the embedding.
        hidden: hidden units of the read-out.
        dropout: dropout of what is read out.
        shrink: threshold under which a filter's values are zero.
    """

    def __init__(
        self,
        context: int,
        horizon: int,
        width: int = 128,
        hidden: int = 512,
        dropout: float = 0.3,
        shrink: float = 0.01,
    ) -> None:
        super().__init__()
        self.context, self.horizon, self.shrink = context, horizon, shrink
        self.embedding, self.norm = nn.Linear(context, width), nn.LayerNorm(width)
        self.weights = nn.Parameter(0.02 * torch.randn(2, 2, width))
        self.biases = nn.Parameter(0.02 * torch.randn(2, 2, width))
        self.read_out = nn.Sequential(
            nn.LayerNorm(width),
            nn.Dropout(dropout),
            nn.Linear(width, hidden),
            nn.LeakyReLU(),
            nn.Linear(hidden, width),
            nn.Linear(width, horizon),
        )

    def filter_of(self, spectrum: Tensor) -> Tensor:
        """The filter ``[B, bins, width]`` that two complex layers make of a spectrum; both act on each column alone."""
        weight, bias = torch.complex(*self.weights.unbind(1)), torch.complex(*self.biases.unbind(1))
        first = spectrum * weight[0] + bias[0]
        second = torch.complex(F.relu(first.real), F.relu(first.imag)) * weight[1] + bias[1]
        return torch.complex(F.softshrink(second.real, self.shrink), F.softshrink(second.imag, self.shrink))

    def forward_packed(self, batch: PackedBatch) -> Tensor:
        """``[R, C]`` -> ``[R, H]``."""
        return instance_normalised(batch.x, lambda x: self.read_out(self._filtered(x, batch)))

    def _filtered(self, x: Tensor, batch: PackedBatch) -> Tensor:
        """Embeddings ``[R, width]`` of normalised contexts, those of each window filtered together."""
        embedded = self.norm(self.embedding(x)).float()
        filtered = torch.empty_like(embedded)
        for _, _, rows in batch.by_session():
            spectrum = torch.fft.rfft(embedded[rows], dim=1, norm="ortho")
            found = torch.fft.irfft(spectrum * self.filter_of(spectrum), n=rows.shape[1], dim=1, norm="ortho")
            filtered[rows.flatten()] = found.flatten(0, 1)
        return filtered
