"""Random inputs of the ops for the latents, and their parity with the reference in float64."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from helpers import relative_error
from poco.nn.rotary import rotary_frequencies
from poco.ops import cpu, latent_reference, reference

TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
SHAPES: list[dict[str, Any]] = [
    {},
    {"windows": 2, "own": True},
    {"windows": 9, "layers": 2},
    {"windows": 0},
    {"windows": 0, "own": True},
    {"windows": 3, "own": True, "segments": 2, "latents": 3, "width": 33, "head_width": 4, "heads": 3, "hidden": 7},
    {"latents": 1, "segments": 1, "width": 32, "head_width": 8, "heads": 1, "hidden": 1, "layers": 0, "context": 7},
    {"windows": 5, "latents": 64, "width": 512, "head_width": 12, "heads": 2, "hidden": 100},
    {"windows": 70, "own": True, "segments": 5, "latents": 5, "width": 32, "head_width": 36, "heads": 3, "hidden": 65},
    {"windows": 2, "latents": 17, "width": 101, "head_width": 20, "heads": 3, "hidden": 130, "layers": 3},
]


def latent_inputs(
    *,
    windows: int = 1,
    own: bool = False,
    segments: int = 3,
    latents: int = 8,
    width: int = 128,
    head_width: int = 64,
    heads: int = 16,
    hidden: int = 512,
    layers: int = 1,
    context: int | None = None,
    t_max: float = 100.0,
    dtype: torch.dtype = torch.float32,
) -> tuple[Any, ...]:
    """Arguments of ``latent_transformer``; ``own``: every window has latents of its own to begin with."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        values = torch.randn(shape, generator=generator, dtype=torch.float64)
        return (values * (shape[-1] ** -0.5 if len(shape) == 2 else 0.5)).to(dtype)

    def norm() -> tuple[Tensor, Tensor]:
        return 1 + draw(width), draw(width)

    def ffn() -> tuple[Tensor, ...]:
        return (*norm(), draw(2 * hidden, width), draw(2 * hidden), draw(width, hidden), draw(width))

    inner = heads * head_width
    parameters = [draw(head_width, width), draw(width, head_width), draw(width), *ffn()]
    for _ in range(layers):
        parameters += [*norm(), draw(3 * inner, width), draw(width, inner), draw(width), *ffn()]
    parameters += [*norm(), *(draw(head_width, width) for _ in range(3)), draw(width, head_width)]
    pooled = draw(windows, segments, latents, width).to(torch.float64 if dtype == torch.float64 else torch.float32)
    initial = draw(windows if own else 1, latents, width)
    frequencies = rotary_frequencies(head_width, t_max)
    return pooled, initial, parameters, frequencies, heads, context or 16 * segments, 1e-5


def query_inputs(**shape: Any) -> tuple[Any, ...]:
    """Arguments of ``latent_queries``."""
    pooled, initial, parameters, frequencies, _, context, eps = latent_inputs(**shape)
    norm_weight, norm_bias, query_weight, key_weight = parameters[-6:-2]
    return initial, norm_weight, norm_bias, query_weight, key_weight, frequencies, pooled.shape[1], context, eps


def double(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same in float64, but for the frequencies, whose precision is part of what they mean."""

    def wide(value: Any) -> Any:
        if isinstance(value, list):
            return [t.double() for t in value]
        return value.double() if isinstance(value, Tensor) else value

    frequencies = inputs[3] if isinstance(inputs[2], list) else inputs[5]
    return tuple(value if value is frequencies else wide(value) for value in inputs)


def check_latents(shape: dict[str, Any], dtype: torch.dtype) -> None:
    """Raises AssertionError unless the kernels agree with the reference."""
    inputs, queries = latent_inputs(**shape, dtype=dtype), query_inputs(**shape, dtype=dtype)
    mine = [*cpu.latent_transformer(*inputs), cpu.latent_queries(*queries)]
    exact = [*latent_reference.latent_transformer(*double(inputs)), latent_reference.latent_queries(*double(queries))]
    for one, other in zip(mine, exact, strict=True):
        assert one.shape == other.shape
        assert one.dtype == dtype
        assert not one.numel() or relative_error(one, other) < TOLERANCES[dtype]


def check_all() -> None:
    for dtype in TOLERANCES:
        for shape in SHAPES:
            check_latents(shape, dtype)


def shift_inputs(horizon: int, film: int, width: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Arguments of ``film_shift``."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((horizon, film), (horizon,), (film, width), (film,))
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes)


def check_shift(horizon: int, film: int, width: int, dtype: torch.dtype) -> None:
    """Raises AssertionError unless the kernel agrees with the reference."""
    inputs = shift_inputs(horizon, film, width, dtype)
    for mine, other in zip(cpu.film_shift(*inputs), reference.film_shift(*(t.double() for t in inputs)), strict=True):
        assert mine.dtype == dtype
        assert relative_error(mine, other) < TOLERANCES[dtype]
