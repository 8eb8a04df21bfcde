"""The cross-attentions of both passes, absorbed: their projections act on the latents, never on the population."""

from __future__ import annotations

from torch import Tensor, nn

from poco.nn.config import POCOConfig
from poco.nn.rotary import Rotary


class CrossAttention(nn.Module):
    """Parameters of one single-head cross-attention; queries and context are normalised apart."""

    def __init__(self, config: POCOConfig) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(config.width)
        self.context_norm = nn.LayerNorm(config.width)
        self.query = nn.Linear(config.width, config.head_width, bias=False)
        self.key = nn.Linear(config.width, config.head_width, bias=False)
        self.value = nn.Linear(config.width, config.head_width, bias=False)
        self.output = nn.Linear(config.head_width, config.width)
        self.scale = config.head_width**-0.5


class LatentEncoder(CrossAttention):
    """The latents (queries) attend to the tokens of the population (context): the maths around pass 1."""

    def absorbed_queries(self, z: Tensor, rotary: Rotary, latent_time: Tensor, segment_time: Tensor) -> Tensor:
        """Queries ``[..., S, Q, d]`` for normalised tokens, of latents ``z [..., Q, d]``."""
        query = self.query(self.query_norm(z))[..., None, :, :]
        turned = rotary(query, latent_time - segment_time[:, None])  # [..., S, Q, head width]
        return (turned @ self.key.weight) * self.scale

    def read(self, pooled: Tensor, rotary: Rotary, latent_time: Tensor, segment_time: Tensor) -> Tensor:
        """The branch ``[W, Q, d]`` (without the residual) that the latents get from ``pooled [W, S, Q, d]``."""
        turned = rotary(self.value(pooled), segment_time[:, None] - latent_time)
        return self.output(turned.sum(1))  # type: ignore[no-any-return]


class UnitDecoder(CrossAttention):
    """The units (queries) attend to the latents (context): the maths around pass 2."""

    def absorbed_keys(self, z: Tensor, rotary: Rotary, latent_time: Tensor, query_time: Tensor) -> Tensor:
        """Keys ``[W, Q, d]`` for normalised units that ask at ``query_time``, of latents ``z [W, Q, d]``."""
        turned = rotary(self.key(self.context_norm(z)), latent_time - query_time)
        return (turned @ self.query.weight) * self.scale

    def absorbed_values(self, z: Tensor) -> Tensor:
        """Values ``[W, Q, d]``, already through the output projection (without its bias)."""
        return self.value(self.context_norm(z)) @ self.output.weight.T  # type: ignore[no-any-return]
