"""The MLP of a unit, modulated by the unit's state (FiLM)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from poco.nn.affine import affine, parts
from poco.nn.config import POCOConfig


class Film(nn.Module):
    """``output(mlp(x) * scale(e) + shift(e))``; without a width ``output(e)``.

    Scale and shift start at zero, weight and bias, as published: the first forecast is a constant.

    Source: Perez et al., FiLM: visual reasoning with a general conditioning layer (2018).

    Args:
        config: sizes of the model.
    """

    def __init__(self, config: POCOConfig) -> None:
        super().__init__()
        self.film_width = config.film_width
        self.output = nn.Linear(config.film_width or config.width, config.horizon)
        if not config.film_width:
            return
        self.input = nn.Linear(config.seen, config.film_width)
        self.deeper = nn.ModuleList(
            nn.Linear(config.film_width, config.film_width) for _ in range(config.film_depth - 1)
        )
        self.scale = nn.Linear(config.width, config.film_width)
        self.shift = nn.Linear(config.width, config.film_width)
        for parameter in (*self.scale.parameters(), *self.shift.parameters()):
            nn.init.zeros_(parameter)

    def folded(self, seen: int) -> tuple[Tensor, ...]:
        """Scale, shift, input and output of pass 2, the shift folded through the output to ``[H, d]``.

        Args:
            seen: frames of a row that the model looks at, ``C``.
        """
        weight, bias = self.output.weight, self.output.bias
        if not self.film_width:
            width = weight.shape[1]
            none = (weight.new_empty(0, width), weight.new_empty(0))
            return (*none, weight, bias, weight.new_empty(0, seen), weight.new_empty(0), weight.new_empty(len(bias), 0))
        shift_weight, shift_bias = weight @ self.shift.weight, weight @ self.shift.bias + bias
        return (
            self.scale.weight,
            self.scale.bias,
            shift_weight,
            shift_bias,
            self.input.weight,
            self.input.bias,
            weight,
        )

    def tensors(self) -> tuple[Tensor, ...]:
        """Scale, shift, input and output as they are."""
        own = parts(self)
        return (*affine(own["scale"]), *affine(own["shift"]), *affine(own["input"]), *affine(own["output"]))

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        """Forecasts ``[R, H]`` of rows ``x [R, C]`` in ``state [R, d]``, unfused: for an MLP of any depth."""
        if not self.film_width:
            return self.output(state)  # type: ignore[no-any-return]
        hidden = F.relu(self.input(x))
        for layer in self.deeper:
            hidden = torch.relu(layer(hidden))
        return self.output(hidden * self.scale(state) + self.shift(state))  # type: ignore[no-any-return]
