"""In which precision the ops take their inputs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import inference as helper
from helpers import latents
from helpers.passes import differentiable, film_forecast_inputs, latent_pool_inputs
from torch import Tensor

from poco.ops import FilmParameters, film_loss, inference, latent_transformer, use_backend

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
