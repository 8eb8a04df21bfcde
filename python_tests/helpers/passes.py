"""Random inputs of the two ops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from poco.ops import FilmParameters


class Draw:
    """Draws tensors that want gradients."""

    def __init__(self, dtype: torch.dtype, seed: int) -> None:
        self.dtype, self.generator = dtype, torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int) -> torch.Tensor:
        values = torch.randn(shape, generator=self.generator, dtype=torch.float64) * 0.5
        return values.to(self.dtype).requires_grad_()

    def indices(self, counts: Sequence[int], table: int) -> tuple[torch.Tensor, torch.Tensor]:
        """``unit_index`` and ``window_offsets`` of windows with so many rows each."""
        index = torch.randint(table, (sum(counts),), generator=self.generator).int()
        return index, torch.tensor([0, *counts]).cumsum(0).int()


def latent_pool_inputs(
    counts: Sequence[int] = (3, 0, 5),
    *,
    table: int = 7,
    width: int = 8,
    segments: int = 2,
    length: int = 4,
    latents: int = 3,
    shared_queries: bool = False,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> tuple[Any, ...]:
    draw = Draw(dtype, seed)
    return (
        draw(sum(counts), segments * length),
        *draw.indices(counts, table),
        draw(table, width),
        draw(width, length),
        draw(width),
        draw(width),
        draw(width),
        draw(1 if shared_queries else len(counts), segments, latents, width),
        1e-5,
    )


def film_forecast_inputs(
    counts: Sequence[int] = (3, 0, 5),
    *,
    table: int = 7,
    width: int = 8,
    latents: int = 3,
    context: int = 6,
    hidden: int = 5,
    film: int = 4,
    horizon: int = 2,
    dropout: float = 0.3,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> tuple[Any, ...]:
    """The flat arguments of ``torch.ops.poco.film_forecast``."""
    draw = Draw(dtype, seed)
    shapes = FilmParameters(
        attention_bias=(width,),
        query_norm_weight=(width,),
        query_norm_bias=(width,),
        ffn_norm_weight=(width,),
        ffn_norm_bias=(width,),
        ffn_in_weight=(2 * hidden, width),
        ffn_in_bias=(2 * hidden,),
        ffn_out_weight=(width, hidden),
        ffn_out_bias=(width,),
        scale_weight=(film, width),
        scale_bias=(film,),
        shift_weight=(horizon, width),
        shift_bias=(horizon,),
        in_weight=(film, context),
        in_bias=(film,),
        out_weight=(horizon, film),
    )
    return (
        draw(sum(counts), context),
        *draw.indices(counts, table),
        draw(table, width),
        draw(len(counts), latents, width),
        draw(len(counts), latents, width),
        *(draw(*shape) for shape in shapes),
        dropout,
        torch.tensor(7),
        1e-5,
    )


def replaced(inputs: tuple[Any, ...], position: int, value: Any) -> tuple[Any, ...]:
    """The same inputs with one of them replaced."""
    return (*inputs[:position], value, *inputs[position + 1 :])


def differentiable(inputs: tuple[Any, ...]) -> list[torch.Tensor]:
    """The inputs that get a gradient."""
    return [t for t in inputs if isinstance(t, torch.Tensor) and t.requires_grad]
