"""The small networks that all units share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from poco.nn.exact import ExactBuffers

#: Added to a window's variance before it divides: a window in which nothing happens is not blown up.
LEAST_VARIANCE = 0.05


class Residual(ExactBuffers):
    """``W2 (h * (1 + A e)) + b2 + B e`` with ``h = relu(W1 x + b1 + S e)``, exactly zero at the start.

    The condition ``e`` is what the ground says of the unit and of the population; nothing in the network belongs to one
    unit, so it cannot learn a unit's drift.

    Args:
        context: frames of the context ``C``.
        horizon: frames that are forecast ``H``.
        width: hidden units.
        clip: conditions are clipped at so many times their root mean square.
    """

    condition_scale: Tensor

    def __init__(self, context: int, horizon: int, width: int, clip: float) -> None:
        super().__init__()
        conditions = 2 * horizon
        self.clip = clip
        self.input = nn.Linear(context, width)
        self.shift = nn.Linear(conditions, width, bias=False)
        self.scale = nn.Linear(conditions, width, bias=False)
        self.output = nn.Linear(width, horizon)
        self.skip = nn.Linear(conditions, horizon, bias=False)
        self.register_buffer("condition_scale", torch.ones(conditions))
        for parameter in (*self.output.parameters(), *self.skip.parameters()):
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Contexts ``[..., C]`` and conditions ``[..., 2 H]`` -> ``[..., H]``."""
        e = (condition / self.condition_scale.to(condition.dtype)).clamp(-self.clip, self.clip)
        hidden = functional.relu(self.input(x) + self.shift(e))
        out: Tensor = self.output(hidden * (1 + self.scale(e))) + self.skip(e)
        return out


class ShapeResidual(Residual):
    """The same, of a window's shape alone.

    The window's mean is taken off, and its size divides what goes in (conditions before they are clipped) and
    multiplies what comes out: it sees neither the level of the activity nor its scale, and cannot be misled by the
    drift of either.
    """

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Contexts ``[..., C]`` and conditions ``[..., 2 H]`` -> ``[..., H]``."""
        x = x - x.mean(-1, keepdim=True)
        size = (x.square().mean(-1, keepdim=True) + LEAST_VARIANCE).sqrt()
        return super().forward(x / size, condition / size) * size
