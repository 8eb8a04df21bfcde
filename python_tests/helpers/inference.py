"""Random inputs of inference by the whole model, and its parity with the reference in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from helpers import relative_error
from helpers.parity import TOLERANCES, on
from poco.nn.rotary import rotary_frequencies
from poco.ops import cpu, model_reference

SHAPES: list[dict[str, Any]] = [
    {},
    {"counts": (300,), "table": 300},
    {"counts": (0,)},
    {"counts": ()},
    {"counts": (), "own": True},
    {"counts": (5, 0, 70), "own": True},
    {"counts": (7,) * 9, "layers": 2},
    {"counts": (37, 1, 7), "own": True, "segments": 2, "latents": 3, "width": 33, "head_width": 4, "heads": 3},
    {"counts": (1,), "latents": 1, "segments": 1, "length": 7, "width": 32, "head_width": 8, "heads": 1, "layers": 0},
    {"counts": (3, 2), "latents": 64, "width": 512, "head_width": 12, "heads": 2, "hidden": 100},
    {"counts": (1, 2) * 35, "own": True, "segments": 5, "latents": 5, "width": 32, "head_width": 36, "heads": 3},
    {"counts": (9, 8), "latents": 17, "width": 101, "head_width": 20, "heads": 3, "hidden": 130, "layers": 3},
    {"counts": (9, 8), "horizon": 19, "film": 67, "length": 5, "hidden": 1},
    {"counts": (9, 8), "horizon": 1, "film": 1, "length": 1},
]


def inputs(
    counts: Sequence[int] = (40, 3),
    *,
    table: int = 50,
    own: bool = False,
    segments: int = 3,
    length: int = 16,
    latents: int = 8,
    width: int = 128,
    head_width: int = 64,
    heads: int = 16,
    hidden: int = 65,
    film: int = 130,
    horizon: int = 16,
    layers: int = 1,
    t_max: float = 100.0,
    dtype: torch.dtype = torch.float32,
) -> tuple[Any, ...]:
    """Arguments of ``inference``; ``own``: every window has latents of its own to begin with."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int, scale: float = 0.5) -> Tensor:
        return (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).to(dtype)

    def matrix(rows: int, columns: int) -> Tensor:
        return draw(rows, columns, scale=columns**-0.5)

    def norm() -> tuple[Tensor, Tensor]:
        return 1 + draw(width), draw(width)

    def ffn() -> tuple[Tensor, ...]:
        return (*norm(), matrix(2 * hidden, width), draw(2 * hidden), matrix(width, hidden), draw(width))

    inner, context = heads * head_width, segments * length
    parameters = [matrix(width, length), draw(width), *norm(), *norm()]
    parameters += [*(matrix(head_width, width) for _ in range(3)), matrix(width, head_width), draw(width), *ffn()]
    for _ in range(layers):
        parameters += [*norm(), matrix(3 * inner, width), matrix(width, inner), draw(width), *ffn()]
    parameters += [*norm(), *(matrix(head_width, width) for _ in range(3)), matrix(width, head_width), draw(width)]
    parameters += [*norm(), *ffn(), matrix(film, width), draw(film), matrix(film, width), draw(film)]
    parameters += [matrix(film, context), draw(film), matrix(horizon, film), draw(horizon)]
    unit_index = torch.randint(table, (sum(counts),), generator=generator).int()
    offsets = torch.tensor([0, *counts]).cumsum(0).int()
    initial = draw(len(counts) if own else 1, latents, width)
    frequencies = rotary_frequencies(head_width, t_max)
    x, unit_table = draw(sum(counts), context), draw(table, width)
    return x, unit_index, offsets, unit_table, initial, frequencies, parameters, heads, 1e-5


def double(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same in float64, but for the frequencies, whose precision is part of what they mean."""
    x, unit_index, offsets, unit_table, initial, frequencies, parameters, *rest = arguments
    wide = [parameter.double() for parameter in parameters]
    return x.double(), unit_index, offsets, unit_table.double(), initial.double(), frequencies, wide, *rest


def check(shape: dict[str, Any], dtype: torch.dtype, by: Any = cpu, device: str = "cpu") -> None:
    """Raises AssertionError unless the kernels agree with the reference."""
    arguments = inputs(**shape, dtype=dtype)
    shift = torch.randn(arguments[3].shape[1], generator=torch.Generator().manual_seed(9)).to(dtype)
    for unit_shift in (None, shift):
        mine = by.inference(*(on(value, device) for value in arguments), on(unit_shift, device)).cpu()
        wide = None if unit_shift is None else unit_shift.double()
        exact = model_reference.inference(*double(arguments), wide)
        assert mine.shape == exact.shape
        assert mine.dtype == dtype
        assert not mine.numel() or relative_error(mine, exact) < TOLERANCES[dtype], (shape, relative_error(mine, exact))


def check_all() -> None:
    for dtype in TOLERANCES:
        for shape in SHAPES:
            check(shape, dtype)
