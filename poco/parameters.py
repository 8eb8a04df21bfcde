"""Numbers of a model that are solved for in closed form: its parameters, though they are kept as buffers."""

from __future__ import annotations

from torch import nn

#: First words of their names: weights that units share or have of their own, and coefficients of each unit.
_SOLVED = ("weight", "coefficients")


def count_solved(model: nn.Module) -> int:
    """How many there are; statistics, scales and whatever else is a buffer is not counted."""
    found = ((name.rpartition(".")[2].partition("_")[0], buffer) for name, buffer in model.named_buffers())
    return sum(buffer.numel() for word, buffer in found if word in _SOLVED)
