"""Rotary positions in time: interleaved pairs of the first half of a head rotate, the second half does not."""

from __future__ import annotations

import torch
from torch import Tensor

from poco.nn.exact import ExactBuffers


def rotary_frequencies(head_width: int, t_max: float) -> Tensor:
    """``[head_width // 4]`` float32 angular frequencies, periods from ``t_max / 1000`` to just under ``t_max`` frames.

    Computed in float32 as in the published model, whose phases (up to 3,000 rad) feel the rounding.

    Args:
        head_width: width of a head, a multiple of 4.
        t_max: longest period in frames.
    """
    t_min = t_max / 1000
    exponent = torch.arange(0, head_width // 2, 2).float() / (head_width // 2)
    return 2 * torch.pi / (t_min * (t_max / t_min) ** exponent)


class Rotary(ExactBuffers):
    """How fast head vectors rotate with time. The frequencies keep their precision when the module is cast.

    Source: Su et al., RoFormer: enhanced transformer with rotary position embedding (2021).

    Args:
        head_width: width of a head, a multiple of 4.
        t_max: longest period in frames.
    """

    frequencies: Tensor

    def __init__(self, head_width: int, t_max: float) -> None:
        super().__init__()
        self.register_buffer("frequencies", rotary_frequencies(head_width, t_max))
