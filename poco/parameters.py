"""What is asked of the numbers of any model: how many are solved for, and where they are."""

from __future__ import annotations

import itertools

import torch
from torch import nn

#: First words of their names: weights that units share or have of their own, and coefficients of each unit.
_SOLVED = ("weight", "coefficients")


def count_solved(model: nn.Module) -> int:
    """How many numbers were solved for in closed form: parameters, though they are kept as buffers.

    Statistics, scales and whatever else is a buffer is not counted.
    """
    found = ((name.rpartition(".")[2].partition("_")[0], buffer) for name, buffer in model.named_buffers())
    return sum(buffer.numel() for word, buffer in found if word in _SOLVED)


def device_of(model: nn.Module) -> torch.device:
    """Where a model is; the CPU for one that holds no tensor."""
    first = next(itertools.chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if first is None else first.device
