"""What happens between the two passes: a few latents attend to each other."""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from poco.nn.affine import affine, parts, weight
from poco.nn.config import POCOConfig
from poco.nn.feed_forward import FeedForward
from poco.nn.rotary import Rotary


class LatentAttention(nn.Module):
    """Rotary self-attention of the latents: queries, keys and values rotate, and the result rotates back."""

    def __init__(self, config: POCOConfig) -> None:
        super().__init__()
        inner = config.heads * config.head_width
        self.heads, self.head_width = config.heads, config.head_width
        self.dropout = config.attention_dropout
        self.norm = nn.LayerNorm(config.width)
        self.query_key_value = nn.Linear(config.width, 3 * inner, bias=False)
        self.output = nn.Linear(inner, config.width)

    def forward(self, z: Tensor, rotary: Rotary, time: Tensor) -> Tensor:
        """The branch (without the residual) for latents ``z [W, Q, d]`` at ``time [Q]``."""
        heads = self.query_key_value(self.norm(z)).unflatten(-1, (3, self.heads, self.head_width))
        query, key, value = rotary(heads.permute(2, 0, 3, 1, 4), time)  # each [W, heads, Q, head width]
        attended = F.scaled_dot_product_attention(query, key, value, dropout_p=self.dropout if self.training else 0.0)
        return self.output(rotary(attended, -time).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class LatentLayer(nn.Module):
    """Self-attention and feed-forward, each residual, dropout on both branches."""

    def __init__(self, config: POCOConfig) -> None:
        super().__init__()
        self.attention = LatentAttention(config)
        self.ffn = FeedForward(config.width, config.hidden, config.ffn_dropout)
        self.dropout = config.latent_dropout

    def forward(self, z: Tensor, rotary: Rotary, time: Tensor) -> Tensor:
        """Latents ``z [W, Q, d]`` after the layer."""
        z = z + F.dropout(self.attention(z, rotary, time), self.dropout, self.training)
        return z + F.dropout(self.ffn(z), self.dropout, self.training)

    def tensors(self) -> tuple[Tensor, ...]:
        """The parameters in the order in which the op takes them."""
        own = parts(self)
        attention, ffn = parts(own["attention"]), cast("FeedForward", own["ffn"])
        projection = weight(attention["query_key_value"])
        return (*affine(attention["norm"]), projection, *affine(attention["output"]), *ffn.tensors())
