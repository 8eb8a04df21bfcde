"""The cross-attentions of both passes; their projections are absorbed: they act on the latents, not the population."""

from __future__ import annotations

from torch import nn

from poco.nn.config import POCOConfig


class CrossAttention(nn.Module):
    """Parameters of one single-head cross-attention; queries and context are normalised apart.

    The latents (queries) attend to the tokens of the population (context) in pass 1, the units to the latents in
    pass 2; :mod:`poco.ops.model_reference` writes out what is done with them.

    Source: Jaegle et al., Perceiver IO: a general architecture for structured inputs and outputs (2021).

    Args:
        config: sizes of the model.
    """

    def __init__(self, config: POCOConfig) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(config.width)
        self.context_norm = nn.LayerNorm(config.width)
        self.query = nn.Linear(config.width, config.head_width, bias=False)
        self.key = nn.Linear(config.width, config.head_width, bias=False)
        self.value = nn.Linear(config.width, config.head_width, bias=False)
        self.output = nn.Linear(config.head_width, config.width)
