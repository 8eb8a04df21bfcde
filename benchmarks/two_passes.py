"""Our two passes, cut where the published form can be cut: the same parts, the same answers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import poco
from poco.nn.fused import film_parameters, latent_parameters
from poco.ops import film_forecast, latent_pool
from poco.ops.model_reference import Turns, latents_read, latents_write, turns_of
from poco.ops.parameters import LatentParameters


class TwoPasses(nn.Module):
    """A ``poco.POCO`` of one session, with the algebra around each pass as a part of its own."""

    def __init__(self, model: poco.POCO) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Forecasts ``[B, N, H]`` of windows ``[B, N, C]``."""
        return self.model(x)  # type: ignore[no-any-return]

    def encode(self, x: Tensor) -> Tensor:
        """What the latents get from the population, ``[B, Q, d]``, by ``latent_pool``."""
        model, norm = self.model, self.model.encoder.context_norm
        queries = model.latent_queries(model.latents[None])
        token = (model.token.weight, model.token.bias, norm.weight, norm.bias)
        pooled, _ = latent_pool(*_rows(x), model.unit_table([0]), *token, queries, norm.eps)
        return latents_read(pooled.to(x.dtype), self._between(), self._turns(x.dtype))

    def decode(self, x: Tensor, z: Tensor) -> Tensor:
        """Forecasts ``[B, N, H]`` by ``film_forecast`` from latents ``[B, Q, d]``."""
        model, config = self.model, self.model.config
        eps = model.decoder.context_norm.eps
        keys, values = latents_write(z, self._between(), self._turns(z.dtype), eps)
        forecast = film_forecast(*_rows(x), model.unit_table([0]), keys, values, film_parameters(model))
        return forecast.view(*x.shape[:2], config.horizon)

    def _turns(self, dtype: torch.dtype) -> Turns:
        config = self.model.config
        return turns_of(config.latents, config.segments, config.context, self.model.rotary.frequencies, dtype)

    def _between(self) -> LatentParameters:
        return LatentParameters.of(latent_parameters(self.model))

    def gradients(self) -> dict[str, Tensor]:
        """The gradients that there are, by the names of ``poco.POCO``."""
        return {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None}


def _rows(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Windows ``[B, N, C]`` as packed rows, with their units and where each window starts."""
    windows, units = x.shape[:2]
    unit_index = torch.arange(units, dtype=torch.int32, device=x.device).repeat(windows)
    return x.flatten(0, 1), unit_index, torch.arange(windows + 1, dtype=torch.int32, device=x.device) * units
