"""Derivatives that no kernel computes: the second by the reference, those in forward mode refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import inference as model_helper
from helpers import latents, relative_error
from helpers.passes import differentiable, film_forecast_inputs, latent_pool_inputs
from torch import Tensor
from torch.autograd import forward_ad

import poco
from poco.errors import ShapeError
from poco.nn.model import POCO
from poco.ops import FilmParameters, film_forecast, film_loss, inference, latent_pool, latent_transformer, use_backend
from poco.ops.backends import choose

SMALL: dict[str, Any] = {"windows": 3, "width": 8, "head_width": 4, "heads": 2, "hidden": 5, "latents": 3}


def film(x: Tensor, *rest: Any) -> Tensor:
    return film_forecast(x, *rest[:5], FilmParameters(*rest[5:-3]), *rest[-3:])


def calls(dtype: torch.dtype) -> dict[str, tuple[Callable[[Tensor], Any], Tensor, list[Tensor]]]:
    """Each op as a function of its first input, that input, and a parameter to look at."""
    pool = [t.detach() if torch.is_tensor(t) else t for t in latent_pool_inputs(dtype=dtype)]
    forecast = [t.detach() if torch.is_tensor(t) else t for t in film_forecast_inputs(dtype=dtype)]
    pooled, initial, parameters, *rest = latents.inputs(**SMALL)
    initial, parameters = initial.to(dtype), [p.to(dtype) for p in parameters]
    for t in (pool[4], forecast[9], parameters[3]):
        t.requires_grad_()
    return {
        "latent_pool": (lambda x: latent_pool(x, *pool[1:])[0], pool[0], [pool[4]]),
        "film_forecast": (lambda x: film(x, *forecast[1:]), forecast[0], [forecast[9]]),
        "latent_transformer": (
            lambda x: torch.cat(latent_transformer(x, initial, parameters, *rest)),
            pooled.to(dtype),
            [parameters[3]],
        ),
    }


def derivatives(dtype: torch.dtype, name: str) -> list[Tensor]:
    """The second and the third derivative of an op, along themselves."""
    call, x, parameters = calls(dtype)[name]
    x = x.requires_grad_()
    (first,) = torch.autograd.grad(call(x).square().sum(), x, create_graph=True)
    second = torch.autograd.grad(first.square().sum(), [x, *parameters], create_graph=True)
    third = torch.autograd.grad(sum(t.square().sum() for t in second), [x, *parameters])
    return [first, *second, *third]


@pytest.mark.parametrize("name", ["latent_pool", "film_forecast", "latent_transformer"])
def test_second_and_third_are_those_of_the_reference(name: str) -> None:
    for one, other in zip(derivatives(torch.float32, name), derivatives(torch.float64, name), strict=True):
        assert other.abs().max() > 1e-4
        assert relative_error(one, other) < 1e-3


@pytest.mark.parametrize("counts", [(0, 0), ()])
@pytest.mark.parametrize(("call", "make"), [(latent_pool, latent_pool_inputs), (film, film_forecast_inputs)])
def test_without_rows_they_are_nothing(call: Callable[..., Any], make: Callable[..., Any], counts: tuple[int]) -> None:
    inputs = make(counts)
    output = call(*inputs)
    total = output.sum() if isinstance(output, Tensor) else output[0].sum()
    first = torch.autograd.grad(total, differentiable(inputs), create_graph=True)
    second = torch.autograd.grad(
        sum(g.square().sum() for g in first), differentiable(inputs), allow_unused=True, materialize_grads=True
    )
    assert all((g == 0).all() for g in second)


def model() -> tuple[POCO, Tensor]:
    config = poco.POCOConfig(
        context=12, horizon=4, segment_length=4, latents=3, width=16, heads=2, head_width=8, film_width=20
    )
    torch.manual_seed(0)
    model = POCO(config, [poco.SessionSpec("fish", tuple("abcde"))]).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    return model, torch.randn(1, 5, 12, generator=torch.Generator().manual_seed(2))


def test_hessian_of_a_model() -> None:
    narrow, x = model()
    wide = model()[0].double()

    def hessian(model: POCO, x: Tensor) -> Tensor:
        return torch.autograd.functional.hessian(lambda x: model(x).square().sum(), x)  # type: ignore[no-any-return]

    expected = hessian(wide, x.double())
    assert expected.abs().max() > 1e-3
    assert relative_error(hessian(narrow, x), expected) < 1e-3


def test_a_gradient_penalty_in_training_counts_or_is_refused() -> None:
    narrow, x = model()
    wide = model()[0].double()

    def penalty(model: POCO, x: Tensor) -> list[Tensor]:
        parameters = list(model.parameters())
        first = torch.autograd.grad(model(x).sum(), parameters, create_graph=True, materialize_grads=True)
        penalty = sum(t.square().sum() for t in first)
        return list(torch.autograd.grad(penalty, parameters, materialize_grads=True))

    expected = penalty(wide, x.double())
    assert sum(t.abs().sum() for t in expected) > 1e-3
    with use_backend("reference"):
        for one, other in zip(penalty(narrow, x), expected, strict=True):
            assert (one - other).norm() < 1e-3 * max(other.norm(), 1e-3)
    if choose(torch.device("cpu")).name == "cpu":
        with pytest.raises(NotImplementedError, match=r"a model in training .* create_graph=True"):
            penalty(narrow, x)


@pytest.mark.parametrize("name", ["latent_pool", "film_forecast", "latent_transformer"])
def test_forward_mode_is_refused(name: str) -> None:
    call, x, _ = calls(torch.float32)[name]
    with pytest.raises(NotImplementedError, match=f"{name} has no derivatives in forward mode"):
        torch.func.jvp(call, (x,), (x,))
    with pytest.raises(NotImplementedError, match="forward mode"):
        torch.func.jacfwd(torch.func.jacrev(lambda x: call(x).sum()))(x)
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="forward mode"):
        call(forward_ad.make_dual(x, x))
    with forward_ad.dual_level():
        call(x)  # without a tangent there is nothing to lose
    torch.func.jvp(lambda t: call(x).sum() * t, (torch.ones(()),), (torch.ones(()),))


@pytest.mark.parametrize("backend", [None, "reference"])
def test_forward_mode_through_a_model_is_refused(backend: str | None) -> None:
    narrow, x = model()
    for with_gradients in (True, False):
        narrow.requires_grad_(with_gradients)
        for mode in (True, False):
            narrow.train(mode)
            with use_backend(backend), pytest.raises(NotImplementedError, match="forward mode"):
                torch.func.jvp(narrow, (x,), (x,))


def test_forward_mode_through_a_loss_is_refused() -> None:
    inputs = [t.detach() if torch.is_tensor(t) else t for t in film_forecast_inputs(dtype=torch.float32)]
    rest = (*inputs[1:6], FilmParameters(*inputs[6:-3]), torch.zeros(8, 2), *inputs[-3:])
    inputs[3].requires_grad_()
    with pytest.raises(NotImplementedError, match="forward mode"):
        torch.func.jvp(lambda x: film_loss(x, *rest), (inputs[0],), (inputs[0],))


@pytest.mark.parametrize("name", ["latent_pool", "film_forecast", "latent_transformer"])
def test_transforms_that_take_gradients_are_refused_by_name(name: str) -> None:
    func = torch.func
    call, x, (parameter,) = calls(torch.float32)[name]
    if name == "latent_transformer" and choose(torch.device("cpu")).name != "cpu":
        pytest.skip("plain torch without the kernels")
    for transformed in (
        func.grad(lambda x: call(x).sum()),
        lambda x: func.vjp(call, x),
        func.jacrev(call),
        func.grad(lambda x: func.vmap(call)(x[None]).sum()),
        lambda x: func.vmap(func.grad(lambda x: call(x).sum()))(x[None]),
        lambda x: func.grad(func.grad(lambda s: call(x * s).sum()))(torch.ones(())),
    ):
        with pytest.raises(NotImplementedError, match=f"{name} has no gradients by torch.func"):
            transformed(x)
    # What the transform does not ask about is none of its business.
    func.grad(lambda s: (call(x) * s).sum())(torch.ones(()))
    func.grad(lambda x: call(x.detach()).sum() + x.sum())(x)
    y = call(x)
    with pytest.raises(NotImplementedError, match=f"{name} takes one gradient at a time"):
        torch.autograd.grad(y, parameter, torch.ones(2, *y.shape), is_grads_batched=True, retain_graph=True)
    with pytest.raises(NotImplementedError, match=f"{name} takes one gradient at a time"):
        func.vmap(lambda g: torch.autograd.grad(y, parameter, g, retain_graph=True)[0])(torch.ones(2, *y.shape))


def test_a_transform_that_takes_gradients_of_a_model_is_refused() -> None:
    narrow, x = model()
    for mode in (True, False):
        parameters = dict(narrow.train(mode).named_parameters())
        with pytest.raises(NotImplementedError, match="latent_pool has no gradients by"):
            torch.func.grad(lambda p: torch.func.functional_call(narrow, p, (x,)).sum())(parameters)
        if choose(torch.device("cpu")).name == "cpu":
            y = narrow(x)
            with pytest.raises(
                NotImplementedError, match=r"a model in training \(train\) takes one gradient at a time"
            ):
                torch.autograd.grad(y, narrow.latents, torch.ones(2, *y.shape), is_grads_batched=True)


def test_a_loss_under_transforms() -> None:
    inputs = [t.detach() if torch.is_tensor(t) else t for t in film_forecast_inputs(dtype=torch.float32)]
    rest = (*inputs[1:6], FilmParameters(*inputs[6:-3]), torch.zeros(8, 2), *inputs[-3:])
    x = inputs[0]
    with pytest.raises(NotImplementedError, match="film_loss has no gradients by"):
        torch.func.grad(lambda x: film_loss(x, *rest))(x)
    expected = film_loss(x, *rest)
    inputs[3].requires_grad_()
    torch.testing.assert_close(torch.func.grad(lambda s: film_loss(x, *rest) * s)(torch.ones(())), expected)
    torch.testing.assert_close(torch.func.vmap(lambda x: film_loss(x, *rest))(x[None])[0], expected)
    inputs[1].fill_(10_000)
    with pytest.raises(ShapeError, match="unit_index must be in"):
        torch.func.vmap(lambda x: film_loss(x, *rest))(x[None])
    with pytest.raises(ShapeError, match="unit_index must be in"):
        torch.func.grad(lambda s: film_loss(x, *rest) * s)(torch.ones(()))


def test_inference_has_no_gradient_and_says_so() -> None:
    x, *rest = model_helper.inputs(**{k: v for k, v in SMALL.items() if k != "windows"}, counts=(3, 0, 5))
    with pytest.raises(NotImplementedError, match="inference has no derivatives in forward mode"):
        torch.func.jvp(lambda x: inference(x, *rest), (x,), (x,))
    with pytest.raises(NotImplementedError, match=r"inference has no gradients by torch\.func"):
        torch.func.grad(lambda x: inference(x, *rest).sum())(x)
    for op in (inference, torch.ops.poco.inference):
        with pytest.raises(NotImplementedError, match="inference has no gradient: "):
            op(x.clone().requires_grad_(), *rest).sum().backward()
