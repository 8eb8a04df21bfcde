"""The gated feed-forward layer."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from poco.nn.affine import affine, parts


class FeedForward(nn.Module):
    """LayerNorm, Linear(d, 2F) cut into value and gate, ``value * gelu(gate)``, dropout, Linear(F, d).

    Args:
        width: ``d``.
        hidden: ``F``.
        dropout: dropout of the gated activation.
    """

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.input = nn.Linear(width, 2 * hidden)
        self.output = nn.Linear(hidden, width)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """The branch (without the residual) for ``x [..., d]``."""
        value, gate = self.input(self.norm(x)).chunk(2, -1)
        return self.output(F.dropout(value * F.gelu(gate), self.dropout, self.training))

    def tensors(self) -> tuple[Tensor, ...]:
        """The parameters in the order in which the ops take them."""
        own = parts(self)
        return (*affine(own["norm"]), *affine(own["input"]), *affine(own["output"]))
