"""The loss of pass 2 and its gradients against the forecast and the mean of the squares, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import parity, relative_error
from helpers.needs import needs_kernels
from torch import Tensor

from poco.errors import BackendError, ShapeError
from poco.ops import FilmParameters, film_forecast, film_loss, use_backend

NAMES = ("x", "unit_table", "keys", "values", *FilmParameters._fields)


def target_of(inputs: tuple[Any, ...]) -> Tensor:
    shape = len(inputs[0]), len(inputs[6].shift_bias)
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


def composed(*inputs: Any) -> Tensor:
    """What ``film_loss`` means."""
    *before, target, dropout, seed, eps = inputs
    error = film_forecast(*before, dropout, seed, eps) - target
    return error.square().sum() / max(1, error.numel())


def results(
    loss: Callable[..., Tensor], inputs: tuple[Any, ...], target: Tensor, wanted: tuple[str, ...] = NAMES
) -> list[Tensor | None]:
    """Three times the loss, and its gradients for the inputs that are wanted, None for others."""

    def leaf(name: str, tensor: Tensor) -> Tensor:
        return tensor.detach().clone().requires_grad_(name in wanted)

    x, unit_index, offsets, table, keys, values, parameters, *rest = inputs
    x, table, keys, values = (leaf(n, t) for n, t in zip(NAMES, (x, table, keys, values), strict=False))
    parameters = FilmParameters(*(leaf(n, t) for n, t in zip(FilmParameters._fields, parameters, strict=True)))
    value = loss(x, unit_index, offsets, table, keys, values, parameters, target, *rest) * 3
    value.backward()
    return [value.detach(), *(t.grad for t in (x, table, keys, values, *parameters))]


@needs_kernels
@pytest.mark.parametrize("dtype", parity.TOLERANCES, ids=str)
@pytest.mark.parametrize("shape", parity.FILM_SHAPES, ids=str)
def test_is_the_composition_in_float64(shape: dict[str, Any], dtype: torch.dtype) -> None:
    inputs = tuple(parity._rounded(value, dtype) for value in parity.film_inputs(**shape))
    target = target_of(inputs)
    exact = results(composed, tuple(map(parity._double, inputs)), target.double())
    parity.check(results(film_loss, inputs, target), exact, parity.TOLERANCES[dtype])


@pytest.mark.parametrize("backend", [None, "reference"])
def test_in_float64_and_by_the_reference_it_is_the_composition(backend: str | None) -> None:
    inputs = tuple(map(parity._double, parity.film_inputs()))
    target = target_of(inputs).double()
    with use_backend(backend):
        parity.check(results(film_loss, inputs, target), results(composed, inputs, target), 1e-12)


@needs_kernels
def test_without_a_gradient_it_is_the_composition() -> None:
    inputs = parity.film_inputs(counts=(37, 1, 7))
    target = target_of(inputs)
    loss = film_loss(*inputs[:7], target, *inputs[7:])
    assert not loss.requires_grad
    torch.testing.assert_close(loss, composed(*inputs[:7], target, *inputs[7:]))


@needs_kernels
@pytest.mark.parametrize("dtype", parity.TOLERANCES, ids=str)
def test_results_do_not_depend_on_threads(threads, dtype: torch.dtype) -> None:
    shape: dict[str, Any] = {"counts": (700, 3, 900), "table": 800, "width": 33, "latents": 5}
    inputs = tuple(parity._rounded(v, dtype) for v in parity.film_inputs(**shape, hidden=40, film=130, horizon=5))
    target = target_of(inputs)
    threads(1)
    expected = results(film_loss, inputs, target)
    for count in (2, 3, 7):
        threads(count)
        for one, other in zip(results(film_loss, inputs, target), expected, strict=True):
            assert one is not None
            assert other is not None
            assert torch.equal(one, other)


@needs_kernels
@pytest.mark.parametrize("wanted", [("unit_table",), ("unit_table", "keys", "values"), ("x",), ("out_weight",)])
def test_only_wanted_gradients(wanted: tuple[str, ...]) -> None:
    inputs = parity.film_inputs(counts=(37, 1, 300), width=33, film=130)
    target = target_of(inputs)
    found, everything = results(film_loss, inputs, target, wanted), results(film_loss, inputs, target)
    assert torch.equal(found[0], everything[0])  # type: ignore[arg-type]
    for name, one, other in zip(NAMES, found[1:], everything[1:], strict=True):
        assert (one is not None) == (name in wanted)
        assert one is None or relative_error(one, other) < 1e-6


@needs_kernels
def test_under_autocast() -> None:
    inputs = parity.film_inputs(counts=(37, 0, 300), width=32, film=130, hidden=64)
    target = target_of(inputs)
    rounded = tuple(parity._double(parity._rounded(value, torch.bfloat16)) for value in inputs)
    exact = results(composed, rounded, target.double())
    with torch.autocast("cpu", torch.bfloat16):
        found, other = results(film_loss, inputs, target), results(composed, inputs, target)
    assert all(t is not None and t.dtype == torch.float32 for t in found)
    parity.check(found, exact, 2e-2)
    parity.check(found, [None if t is None else t.double() for t in other], 2e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_rows_all_is_zero(dtype: torch.dtype) -> None:
    inputs = tuple(parity._rounded(value, dtype) for value in parity.film_inputs(counts=(0, 0)))
    for one in results(film_loss, inputs, torch.zeros(0, 2, dtype=dtype)):
        assert one is not None
        assert not one.any()


@needs_kernels
@pytest.mark.parametrize("outer", [lambda loss: loss, torch.square], ids=["loss", "square"])
def test_gradients_of_gradients_are_refused_by_kernels_and_given_by_the_reference(outer) -> None:
    inputs = parity.film_inputs()
    table, target = inputs[3].requires_grad_(), target_of(inputs)
    loss = outer(film_loss(*inputs[:7], target, *inputs[7:]))
    with pytest.raises(NotImplementedError, match=r"film_loss by the CPU kernels .*use_backend\('reference'\)"):
        torch.autograd.grad(loss, table, create_graph=True, retain_graph=True)
    (once,) = torch.autograd.grad(loss, table)
    with use_backend("reference"):
        loss = outer(film_loss(*inputs[:7], target, *inputs[7:]))
    (grad,) = torch.autograd.grad(loss, table, create_graph=True)
    parity.check([grad], [once], 1e-4)
    (second,) = torch.autograd.grad(grad.square().sum(), table)
    assert second.any()


def test_says_what_does_not_fit() -> None:
    inputs = parity.film_inputs()
    target = target_of(inputs)
    with pytest.raises(ShapeError, match=r"film_loss: target must be \[8, 2\], got \[7, 2\]"):
        film_loss(*inputs[:7], target[1:], *inputs[7:])
    with pytest.raises(ShapeError, match="film_loss: target must be floating point"):
        film_loss(*inputs[:7], target.int(), *inputs[7:])
    with pytest.raises(ShapeError, match=r"film_loss: keys must be \[3, Q, 8\]"):
        film_loss(*inputs[:4], inputs[4][1:], *inputs[5:7], target, *inputs[7:])
    with pytest.raises(ShapeError, match=r"film_loss: dropout 0.5 needs a seed"):
        film_loss(*inputs[:7], target, 0.5)


@needs_kernels
def test_a_forced_backend_must_fit() -> None:
    inputs = tuple(map(parity._double, parity.film_inputs()))
    with use_backend("cpu"), pytest.raises(BackendError, match="the tensors are float64"):
        film_loss(*inputs[:7], target_of(inputs), *inputs[7:])
