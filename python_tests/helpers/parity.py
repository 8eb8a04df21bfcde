"""Kernels against the reference in float64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from helpers import relative_error
from helpers.passes import film_forecast_inputs, latent_pool_inputs
from poco.ops import FilmParameters, cpu, reference

TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2e-2}  # of the relative error against float64
TINY = 1e-12  # gradients below this are exactly zero in theory: no relative error

POOL_SHAPES: list[dict[str, Any]] = [
    {"shared_queries": True},
    {"counts": (1,), "segments": 1, "latents": 1, "length": 1},
    {"counts": (37, 1, 7), "width": 33, "segments": 3, "length": 5, "latents": 17, "table": 40},
    {"counts": (7,), "width": 100, "segments": 1, "length": 7, "latents": 64, "shared_queries": True},
    {"counts": (0, 2, 0)},
    {"counts": (0, 0)},
    {"counts": (1, 2) * 80, "width": 32, "table": 300, "shared_queries": True},
    *({"counts": (37, 1, 7, 0, 300), "width": d, "segments": 3, "length": 16, "latents": 8} for d in (8, 128, 512)),
    {"counts": (3000, 5, 0, 700), "width": 32, "segments": 3, "length": 16, "latents": 8, "table": 3200},
    {"counts": (3000, 5, 700), "width": 32, "segments": 2, "latents": 8, "table": 50, "shared_queries": True},
]
FILM_SHAPES: list[dict[str, Any]] = [
    {},
    {"counts": (1,), "latents": 1, "hidden": 1, "horizon": 1, "context": 1, "film": 1},
    {"counts": (7,), "latents": 1, "film": 0, "hidden": 3, "horizon": 1},
    {"counts": (37, 1, 7), "width": 33, "latents": 17, "context": 5, "hidden": 130, "film": 67, "horizon": 19},
    {"counts": (0, 0)},
    {"counts": (1, 2) * 80, "width": 32, "table": 300, "latents": 64, "hidden": 65},
    *(
        {
            "counts": (37, 1, 7, 0, 300),
            "width": d,
            "latents": 8,
            "context": 48,
            "hidden": 2 * d,
            "film": 70,
            "horizon": h,
        }
        for d, h in ((8, 16), (128, 5), (512, 16))
    ),
    {"counts": (512,) * 3, "width": 128, "latents": 8, "context": 48, "hidden": 512, "film": 1024, "horizon": 16},
    {"counts": (2000, 3, 500), "width": 32, "latents": 4, "table": 2100, "dropout": 0.0},
    {"counts": (37, 100), "width": 512, "latents": 64, "context": 48, "hidden": 16, "film": 16, "horizon": 17},
]


def _plain(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Without gradients, and matrices of such size that their products stay near 1."""

    def plain(value: Any, scaled: bool) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        return value.detach() * (2 * max(1, value.shape[-1]) ** -0.5 if scaled and value.ndim > 1 else 1)

    # The first is x, the fourth the unit table.
    return tuple(plain(value, i not in (0, 3)) for i, value in enumerate(inputs))


def _double(value: Any) -> Any:
    return _rounded(value, torch.float64)


def pool_inputs(**shape: Any) -> tuple[Any, ...]:
    return _plain(latent_pool_inputs(dtype=torch.float32, **shape))


def film_inputs(**shape: Any) -> tuple[Any, ...]:
    """As the backends take them, the parameters in one piece."""
    flat = _plain(film_forecast_inputs(dtype=torch.float32, **shape))
    return (*flat[:6], FilmParameters(*flat[6:-3]), *flat[-3:])


def _draws(like: Sequence[Tensor]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(t.shape, generator=generator) for t in like]


def pool_results(inputs: tuple[Any, ...], needs: Sequence[bool] = (True,) * 7, by: Any = cpu) -> list[Tensor | None]:
    """Outputs and gradients of pass 1."""
    outputs = by.latent_pool(*inputs)
    grads = [g.to(outputs[0]) for g in _draws(outputs)]
    return [*outputs, *by.latent_pool_backward(*grads, *outputs, *inputs, needs)]


def film_results(inputs: tuple[Any, ...], needs: Sequence[bool] = (True,) * 20, by: Any = cpu) -> list[Tensor | None]:
    """Output and gradients of pass 2."""
    output = by.film_forecast(*inputs)
    (grad,) = _draws([output])
    return [output, *by.film_forecast_backward(grad.to(output), *inputs, needs)]


def check(mine: Sequence[Tensor | None], exact: Sequence[Tensor | None], tolerance: float) -> None:
    """Raises AssertionError unless all of ``mine`` that is there equals ``exact``."""
    assert len(mine) == len(exact)
    for i, (one, other) in enumerate(zip(mine, exact, strict=True)):
        if one is None or other is None:
            continue
        assert one.shape == other.shape, i
        finite = torch.isfinite(other)
        assert torch.equal(one[~finite].double(), other[~finite]), i
        one, other = one[finite], other[finite]
        if other.numel() and other.abs().max() > TINY:
            assert relative_error(one, other) < tolerance, (i, relative_error(one, other))
        else:
            assert not one.numel() or one.abs().max() < 1e-6, i


def _rounded(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, FilmParameters):
        return FilmParameters(*(t.to(dtype) for t in value))
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def on(value: Any, device: str) -> Any:
    """Inputs, or results, on a device."""
    if isinstance(value, FilmParameters):
        return FilmParameters(*(t.to(device) for t in value))
    if isinstance(value, tuple | list):
        return type(value)(on(each, device) for each in value)
    return value.to(device) if isinstance(value, Tensor) else value


def check_pool(shape: dict[str, Any], dtype: torch.dtype = torch.float32, by: Any = cpu, device: str = "cpu") -> None:
    inputs = tuple(_rounded(value, dtype) for value in pool_inputs(**shape))
    exact = pool_results(tuple(map(_double, inputs)), by=reference)
    check(on(pool_results(on(inputs, device), by=by), "cpu"), exact, TOLERANCES[dtype])


def check_film(shape: dict[str, Any], dtype: torch.dtype = torch.float32, by: Any = cpu, device: str = "cpu") -> None:
    inputs = tuple(_rounded(value, dtype) for value in film_inputs(**shape))
    exact = film_results(tuple(map(_double, inputs)), by=reference)
    check(on(film_results(on(inputs, device), by=by), "cpu"), exact, TOLERANCES[dtype])


def check_loss(shape: dict[str, Any], dtype: torch.dtype = torch.float32) -> None:
    """The loss and its gradients by the kernels against the composition of the reference."""
    inputs = tuple(_rounded(value, dtype) for value in film_inputs(**shape))
    target = _draws([inputs[0].new_empty(len(inputs[0]), len(inputs[6].shift_bias))])[0]
    found, gradients = cpu.film_loss(target, *inputs, (True,) * 20)
    exact = tuple(map(_double, inputs))
    error = reference.film_forecast(*exact) - target
    elements = max(1, error.numel())
    expected = reference.film_forecast_backward(2 / elements * error, *exact, (True,) * 20)
    check([found, *gradients], [error.square().sum() / elements, *expected], TOLERANCES[dtype])


def check_all() -> None:
    for dtype in TOLERANCES:
        for shape in POOL_SHAPES:
            check_pool(shape, dtype)
        for shape in FILM_SHAPES:
            check_film(shape, dtype)
            check_loss(shape, dtype)
