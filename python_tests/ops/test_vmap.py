"""The ops, and a model, under torch.vmap."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers.models import randomise
from helpers.passes import film_forecast_inputs, latent_pool_inputs, replaced
from torch import Tensor

import poco
from poco.errors import ShapeError
from poco.ops import use_backend


def _model() -> poco.POCO:
    config = poco.POCOConfig(
        context=12, horizon=2, segment_length=4, latents=3, width=8, layers=1, heads=2, head_width=8, film_width=5
    )
    return randomise(poco.POCO(config, [poco.SessionSpec("a", 7)])).float().eval()


def _check(call: Callable[[Any], Any], each: Tensor, dim: int = 0) -> None:
    found = torch.vmap(call, in_dims=dim)(each)
    expected = [call(one) for one in each.unbind(dim)]
    if isinstance(found, Tensor):
        assert torch.equal(found, torch.stack(expected))
    else:
        for mine, other in zip(found, zip(*expected, strict=True), strict=True):
            assert torch.equal(mine, torch.stack(other))


@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("position", [0, 1, 3, 8])
def test_latent_pool(position: int, backend: str | None) -> None:
    inputs = latent_pool_inputs(dtype=torch.float32)
    one = inputs[position].detach()
    each = torch.stack([one, one.flip(0)], 1)
    with use_backend(backend):
        _check(lambda value: torch.ops.poco.latent_pool(*replaced(inputs, position, value)), each, 1)


@pytest.mark.parametrize("position", [0, 4, 9, 23])
def test_film_forecast(position: int) -> None:
    inputs = film_forecast_inputs(dtype=torch.float32)
    one = inputs[position].detach()
    each = torch.stack([one, one + 1])
    _check(lambda value: torch.ops.poco.film_forecast(*replaced(inputs, position, value)), each)


def test_gradients_of_stacked_models() -> None:
    models = [_model() for _ in range(2)]
    base, x = copy.deepcopy(models[0]), torch.randn(1, 7, 12)
    parameters, buffers = torch.func.stack_module_state(models)
    made = torch.vmap(lambda p, b: torch.func.functional_call(base, (p, b), (x,)))(parameters, buffers)
    made.square().sum().backward()
    for i, model in enumerate(models):
        model(x).square().sum().backward()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameters[name].grad[i], parameter.grad)


def test_gradients_of_what_was_mapped() -> None:
    inputs = film_forecast_inputs(dropout=0.0)
    each, table = torch.randn(2, 8, 6, dtype=torch.float64), inputs[3]

    def loss(x: Tensor) -> Tensor:
        return torch.ops.poco.film_forecast(*replaced(inputs, 0, x)).square().sum()

    (found,) = torch.autograd.grad(torch.vmap(loss)(each).sum(), table)
    (expected,) = torch.autograd.grad(loss(each[0]) + loss(each[1]), table)
    torch.testing.assert_close(found, expected)


def test_indices_are_looked_at() -> None:
    inputs = latent_pool_inputs()
    with pytest.raises(ShapeError, match=r"unit_index must be in 0\.\.6"):
        torch.vmap(lambda index: torch.ops.poco.latent_pool(*replaced(inputs, 1, index)))(
            torch.full((2, 8), 10**8, dtype=torch.int32)
        )


def test_over_nothing() -> None:
    inputs = latent_pool_inputs()
    with pytest.raises(NotImplementedError, match="poco::latent_pool takes no vmap over nothing"):
        torch.vmap(lambda x: torch.ops.poco.latent_pool(*replaced(inputs, 0, x)))(torch.ones(0, 8, 8))


@pytest.mark.parametrize("gradients", [False, True])
def test_a_model(gradients: bool) -> None:
    model = _model()
    with torch.set_grad_enabled(gradients):
        x = torch.randn(3, 2, 7, 12)
        found = torch.vmap(lambda windows: model(windows, session="a"))(x)
        torch.testing.assert_close(found, model(x.flatten(0, 1), session="a").unflatten(0, (3, 2)))


def test_several_models_at_once() -> None:
    models = [_model(), _model()]
    with torch.no_grad():
        for parameter in models[1].parameters():
            parameter.mul_(1.5)
    parameters, buffers = torch.func.stack_module_state(list(models))
    shell, x = copy.deepcopy(models[0]).to("meta"), torch.randn(2, 7, 12)

    def call(*state: Any) -> Tensor:
        return torch.func.functional_call(shell, state, (x,), {"session": "a"})  # type: ignore[no-any-return]

    with torch.no_grad():
        found = torch.vmap(call)(parameters, buffers)
        for mine, model in zip(found, models, strict=True):
            torch.testing.assert_close(mine, model(x, session="a"))
