"""The parameters of what happens between the two passes: a few latents attend to each other."""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from poco.nn.affine import affine, parts, weight
from poco.nn.config import POCOConfig
from poco.nn.feed_forward import FeedForward


class LatentAttention(nn.Module):
    """Rotary self-attention of the latents: queries, keys and values rotate, and the result rotates back.

    Args:
        config: sizes of the model.
    """

    def __init__(self, config: POCOConfig) -> None:
        super().__init__()
        inner = config.heads * config.head_width
        self.norm = nn.LayerNorm(config.width)
        self.query_key_value = nn.Linear(config.width, 3 * inner, bias=False)
        self.output = nn.Linear(inner, config.width)


class LatentLayer(nn.Module):
    """Self-attention and feed-forward, each residual, dropout on both branches.

    :func:`poco.ops.latent_transformer` computes it.

    Args:
        config: sizes of the model.
    """

    def __init__(self, config: POCOConfig) -> None:
        super().__init__()
        self.attention = LatentAttention(config)
        self.ffn = FeedForward(config.width, config.hidden)

    def tensors(self) -> tuple[Tensor, ...]:
        """The parameters in the order in which the op takes them."""
        own = parts(self)
        attention, ffn = parts(own["attention"]), cast("FeedForward", own["ffn"])
        projection = weight(attention["query_key_value"])
        return (*affine(attention["norm"]), projection, *affine(attention["output"]), *ffn.tensors())
