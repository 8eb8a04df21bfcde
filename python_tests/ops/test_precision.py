"""In which precision the ops take their inputs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import inference as helper
from helpers import latents
from helpers.passes import differentiable, film_forecast_inputs, latent_pool_inputs
from torch import Tensor

from poco.ops import FilmParameters, film_loss, inference, latent_transformer, use_backend
from poco.ops.precision import _Cast, cast

SMALL: dict[str, Any] = {"width": 8, "head_width": 4, "heads": 2, "hidden": 6, "latents": 3}


def outputs(dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """What every op gives for inputs of this type."""
    flat = film_forecast_inputs(dtype=dtype)
    film = (*(t.detach() for t in flat[:6]), FilmParameters(*flat[6:-3]))
    target = torch.zeros(8, 2)
    trained = film[3].clone().requires_grad_()
    return [
        torch.ops.poco.latent_pool(*latent_pool_inputs(dtype=dtype))[0],
        torch.ops.poco.film_forecast(*flat),
        film_loss(*film[:3], trained, *film[4:], target, *flat[-3:]),
        film_loss(*film, target, *flat[-3:]),
        inference(*helper.inputs(**SMALL, dtype=dtype)),
        latent_transformer(*latents.inputs(**SMALL, windows=3, dtype=dtype))[0],
    ]


@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("op", ["latent_pool", "film_forecast"])
def test_a_backward_under_autocast_is_that_outside_of_it(op: str, backend: str | None) -> None:
    make = {"latent_pool": latent_pool_inputs, "film_forecast": film_forecast_inputs}[op]
    inputs = make(dtype=torch.float32)
    leaves = differentiable(inputs)

    def derivatives(autocast: bool) -> tuple[Tensor, ...]:
        with torch.autocast("cpu", torch.bfloat16):
            outputs = getattr(torch.ops.poco, op)(*inputs)
        output = outputs[0] if isinstance(outputs, tuple) else outputs
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            first = torch.autograd.grad(output.float().square().sum(), leaves, create_graph=True)
            second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves)
        return (*first, *second)

    with use_backend(backend):
        for under, outside in zip(derivatives(True), derivatives(False), strict=True):
            assert torch.equal(under, outside)


@pytest.mark.parametrize("backend", [None, "reference"])
def test_autocast_to_any_type_takes_bfloat16(backend: str | None) -> None:
    with use_backend(backend):
        results = []
        for dtype in (torch.float16, torch.bfloat16):
            with torch.autocast("cpu", dtype):
                results.append(outputs())
        for one, other, plain in zip(*results, outputs(), strict=True):
            assert one.dtype == other.dtype != torch.float16
            assert torch.equal(one, other)
            assert not torch.equal(one.float(), plain.float())


def test_autocast_leaves_float64_alone() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        results = outputs(torch.float64)
    for under, outside in zip(results, outputs(torch.float64), strict=True):
        assert under.dtype == torch.float64
        assert torch.equal(under, outside)


def test_casts_at_once_are_casts_one_by_one() -> None:
    """As those on a GPU are made; what a row that is cast by itself has, its gradients of both orders too."""
    made = torch.randn(5, 4).mT, torch.randn(3), torch.randn(0, 2), torch.randn(2, 2, 2)
    wanted = (True, False, True, True)

    def casts(low_of: Callable[..., tuple[Tensor, ...]]) -> tuple[tuple[Tensor, ...], list[Tensor | None], Tensor]:
        leaves = [t.clone().requires_grad_(need) for t, need in zip(made, wanted, strict=True)]
        low = low_of(*leaves)
        # The last one is in no loss, and so has no gradient.
        loss = sum((t.float() ** 3).sum() for t in low[:3])
        trained = [t for t, need in zip(leaves, wanted, strict=True) if need]
        first = torch.autograd.grad(loss, trained, create_graph=True, allow_unused=True)
        (second,) = torch.autograd.grad(first[0].square().sum(), leaves[0])
        return low, [*first], second

    low, first, second = casts(functools.partial(_Cast.apply, torch.bfloat16))
    expected_low, expected_first, expected_second = casts(lambda *leaves: tuple(t.to(torch.bfloat16) for t in leaves))
    for one, other in zip(low, expected_low, strict=True):
        assert one.dtype == torch.bfloat16
        assert one.requires_grad == other.requires_grad
        assert torch.equal(one, other)
    assert first[-1] is None
    assert expected_first[-1] is None
    for found, expected in zip([*first[:-1], second], [*expected_first[:-1], expected_second], strict=True):
        assert found is not None
        assert expected is not None
        assert found.dtype == torch.float32
        assert torch.equal(found, expected)


def test_casts_leave_what_is_so_already() -> None:
    wide, low, index = torch.randn(2), torch.randn(2).bfloat16(), torch.arange(2)
    found = cast([wide, low, index], [torch.float32, torch.bfloat16, torch.int64])
    assert [a is b for a, b in zip(found, (wide, low, index), strict=True)] == [True] * 3
    assert cast([], []) == []
