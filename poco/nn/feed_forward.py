"""The parameters of the gated feed-forward layer."""

from __future__ import annotations

from torch import Tensor, nn

from poco.nn.affine import affine, parts


class FeedForward(nn.Module):
    """LayerNorm, Linear(d, 2F) cut into value and gate, ``value * gelu(gate)``, dropout, Linear(F, d).

    The ops compute it, see :mod:`poco.ops.model_reference`.

    Source: Shazeer, GLU variants improve transformer (2020).

    Args:
        width: ``d``.
        hidden: ``F``.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.input = nn.Linear(width, 2 * hidden)
        self.output = nn.Linear(hidden, width)

    def tensors(self) -> tuple[Tensor, ...]:
        """The parameters in the order in which the ops take them."""
        own = parts(self)
        return (*affine(own["norm"]), *affine(own["input"]), *affine(own["output"]))
