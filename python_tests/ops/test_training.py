"""Training by the kernels as one node of autograd, against the ops one after another in float64."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from helpers import inference as helper
from helpers import parity, relative_error
from helpers.models import randomise
from helpers.needs import needs_kernels
from torch import Tensor

import poco
from poco.errors import ShapeError
from poco.nn.model import POCO
from poco.ops import (
    TrainingCall,
    film_forecast,
    latent_pool,
    latent_transformer,
    model_reference,
    train,
    trains_at_once,
    use_backend,
)
from poco.ops.parameters import ModelParameters

pytestmark = needs_kernels
# Of a single hidden column some gradients are small differences of large numbers: too small for bfloat16.
SHAPES = [{**s, "hidden": max(6, s.get("hidden", 65))} for s in helper.SHAPES if s.get("latents", 8) <= 48]
SMALL: dict[str, Any] = {"counts": (3, 0, 5), "width": 8, "head_width": 4, "heads": 2, "hidden": 6, "latents": 3}


def inputs(dtype: torch.dtype = torch.float32, **shape: Any) -> tuple[Any, ...]:
    """Arguments of ``train`` with a target; pass 1 does not see the first row."""
    x, unit_index, offsets, table, initial, frequencies, parameters, heads, eps = helper.inputs(**shape, dtype=dtype)
    rows = slice(1, None) if len(x) else slice(0)
    population = (x[rows], unit_index[rows], (offsets - 1).clamp(min=0) if len(x) else offsets)
    seeds = torch.tensor(-(2**60) + 3), torch.tensor(17)
    call = TrainingCall(unit_index, offsets, population, frequencies, heads, 0.3, 0.4, *seeds, eps)
    target = torch.randn(len(x), len(parameters[-1]), generator=torch.Generator().manual_seed(4))
    return call, x, table, initial, parameters, target


def composed(
    call: TrainingCall, x: Tensor, table: Tensor, initial: Tensor, flat: Sequence[Tensor], target: Tensor | None = None
) -> Tensor:
    """What ``train`` means."""
    p, context, eps = ModelParameters.of(flat), x.shape[1], call.eps
    segments = context // p.token_weight.shape[1]
    queries = model_reference.latent_queries(initial, *p.asking, call.frequencies, segments, context, eps)
    px, *rows = call.population
    pooled, _ = latent_pool(px.to(x.dtype), *rows, table, *p.token, queries, eps)
    drops = (call.ffn_dropout, call.dropout, call.latent_seed)
    keys, values = latent_transformer(pooled, initial, p.latents, call.frequencies, call.heads, context, *drops, eps)
    film = p.film(p.out_weight @ p.shift_weight, p.out_weight @ p.shift_bias + p.out_bias)
    rest = (call.ffn_dropout, call.seed, eps)
    forecast = film_forecast(x, call.unit_index, call.window_offsets, table, keys, values, film, *rest)
    return forecast if target is None else (forecast - target).square().sum() / max(1, target.numel())


def results(by: Any, arguments: tuple[Any, ...], with_loss: bool, wanted: Sequence[int] | None = None) -> list[Any]:
    """The output, and the gradients of the table, the initial latents and all parameters (or those wanted)."""
    call, x, table, initial, parameters, target = arguments
    leaves = [t.detach().clone() for t in (table, initial, *parameters)]
    for i, leaf in enumerate(leaves):
        leaf.requires_grad_(wanted is None or i in wanted)
    output = by(call, x, leaves[0], leaves[1], leaves[2:], target if with_loss else None)
    weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(6)).to(torch.bfloat16)
    (output * weight.to(output.dtype)).sum().backward()
    return [output.detach(), *(leaf.grad for leaf in leaves)]


def double(arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    call, x, table, initial, parameters, target = arguments
    return call, x.double(), table.double(), initial.double(), [p.double() for p in parameters], target.double()


@pytest.mark.parametrize("with_loss", [False, True], ids=["forecast", "loss"])
@pytest.mark.parametrize("dtype", helper.TOLERANCES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_is_the_composition_in_float64(shape: dict[str, Any], dtype: torch.dtype, with_loss: bool) -> None:
    arguments = inputs(dtype, **shape)
    exact = results(composed, double(arguments), with_loss)
    parity.check(results(train, arguments, with_loss), exact, 2 * helper.TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast_to_any_type(dtype: torch.dtype) -> None:
    arguments = inputs(counts=(40, 3))
    call, x, table, initial, parameters, target = arguments
    low = [p.bfloat16() for p in parameters]
    exact = results(composed, double((call, x.bfloat16(), table.bfloat16(), initial.bfloat16(), low, target)), False)
    with torch.autocast("cpu", dtype):
        found = results(train, arguments, False)
    assert found[0].dtype == torch.bfloat16
    assert all(t.dtype == torch.float32 for t in found[1:])
    parity.check(found, exact, 4e-2)


@pytest.mark.parametrize("dtype", helper.TOLERANCES, ids=str)
def test_what_all_units_share(dtype: torch.dtype) -> None:
    call, x, table, initial, parameters, target = inputs(dtype, **SMALL)
    shift = torch.randn(8, generator=torch.Generator().manual_seed(9)).to(dtype)

    def gradients(table: Tensor, shift: Tensor, *wanted: int, by: Any = train, **rest: Any) -> list[Tensor]:
        table, shift = leaves = table.clone().requires_grad_(0 in wanted), shift.clone().requires_grad_(1 in wanted)
        loss = by(call, rest.get("x", x), table, shift)
        return list(torch.autograd.grad(loss, [leaves[i] for i in wanted]))

    def one_node(call: TrainingCall, x: Tensor, table: Tensor, shift: Tensor) -> Tensor:
        return train(call, x, table, initial, parameters, target, shift)

    def exactly(call: TrainingCall, x: Tensor, table: Tensor, shift: Tensor) -> Tensor:
        wide = [p.double() for p in parameters]
        return composed(call, x, table + shift, initial.double(), wide, target.double())

    exact = gradients(table.double(), shift.double(), 0, 1, by=exactly, x=x.double())
    parity.check(gradients(table, shift, 0, 1, by=one_node), exact, 2 * helper.TOLERANCES[dtype])
    parity.check(gradients(table, shift, 1, by=one_node), exact[1:], 2 * helper.TOLERANCES[dtype])


def test_the_gradient_of_what_all_units_share_is_exact_for_many_units() -> None:
    units = 200_000
    call, x, _, *rest, target = inputs(**{**SMALL, "counts": (units,), "table": units})
    rows = torch.arange(units, dtype=torch.int32)
    call = dataclasses.replace(call, unit_index=rows, population=(x, rows, call.window_offsets))
    table, shift = torch.randn(units, SMALL["width"]).requires_grad_(), torch.randn(SMALL["width"]).requires_grad_()
    train(call, x, table, *rest, target, shift).backward()
    assert table.grad is not None
    assert shift.grad is not None
    assert relative_error(shift.grad, table.grad.double().sum(0)) < 1e-7


@pytest.mark.parametrize("wanted", [(0,), (1,), (2, 3), (7,), (8,), (30,), (-1,), (0, 1)])
def test_only_wanted_gradients(wanted: tuple[int, ...]) -> None:
    arguments = inputs(**SMALL)
    everything = results(train, arguments, True)
    wanted = tuple(i % (len(everything) - 1) for i in wanted)
    for with_loss in (False, True):
        everything = results(train, arguments, with_loss)
        found = results(train, arguments, with_loss, wanted)
        for i, (one, other) in enumerate(zip(found[1:], everything[1:], strict=True)):
            assert (one is not None) == (i in wanted)
            assert one is None or torch.allclose(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", helper.TOLERANCES, ids=str)
def test_results_do_not_depend_on_threads(threads, dtype: torch.dtype) -> None:
    for shape in ({**SMALL, "film": 40}, {"counts": (40,) * 3, "width": 32, "film": 40}, {"counts": (40,)}):
        threads(1)
        expected = results(train, inputs(dtype, **shape), True)
        for count in (2, 3, 7):
            threads(count)
            for one, other in zip(results(train, inputs(dtype, **shape), True), expected, strict=True):
                assert torch.equal(one, other)


def test_the_way_back_can_be_gone_twice() -> None:
    call, x, table, initial, parameters, target = inputs(**SMALL)
    table.requires_grad_()
    for goal in (None, target):
        loss = train(call, x, table, initial, parameters, goal).square().sum()
        (once,) = torch.autograd.grad(loss, table, retain_graph=True)
        kept = once.clone()
        once.zero_()
        (twice,) = torch.autograd.grad(loss, table)
        assert torch.equal(twice, kept)


@pytest.mark.parametrize("outer", [torch.sum, lambda y: y.square().sum()], ids=["sum", "squares"])
@pytest.mark.parametrize("with_loss", [False, True], ids=["forecast", "loss"])
def test_gradients_of_gradients_are_refused(with_loss: bool, outer) -> None:
    call, x, table, initial, parameters, target = inputs(**SMALL)
    table.requires_grad_()
    loss = outer(train(call, x, table, initial, parameters, target if with_loss else None))
    with pytest.raises(NotImplementedError, match=r"a model in training \(train\) .*use_backend\('reference'\)"):
        torch.autograd.grad(loss, table, create_graph=True)


@pytest.mark.parametrize("with_loss", [False, True], ids=["forecast", "loss"])
@pytest.mark.parametrize("changed", range(8))
def test_what_changes_before_the_way_back_is_refused(changed: int, with_loss: bool) -> None:
    call, x, table, initial, parameters, target = inputs(**SMALL)
    table.requires_grad_()
    loss = train(call, x, table, initial, parameters, target if with_loss else None).sum()
    call.tensors()[changed].fill_(2_000_000_000)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("options", [{}, {"latent_session_embedding": True, "layers": 2, "unit_dropout": 0.4}])
def test_a_model_goes_this_way_and_is_the_same(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    config = poco.POCOConfig(
        context=12,
        horizon=4,
        segment_length=4,
        latents=3,
        width=16,
        heads=2,
        head_width=8,
        film_width=20,
        **options,
    )
    model = randomise(POCO(config, [poco.SessionSpec("fish", tuple("abcde"))])).float().train()
    x = torch.randn(2, 5, 12, generator=torch.Generator().manual_seed(1))

    def gradients() -> list[Tensor]:
        torch.manual_seed(0)
        y = model(x)
        return [y.detach(), *torch.autograd.grad(y.square().sum(), list(model.parameters()), materialize_grads=True)]

    found = gradients()
    monkeypatch.setattr("poco.nn.fused.trains_at_once", lambda *_: False)
    for one, other in zip(found, gradients(), strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm()


def test_the_kernels_write_to_memory_that_is_theirs_whatever_the_default_device_is(run_python) -> None:
    run_python(
        """
import torch, poco
from poco.data.packed import PackedBatch

model = poco.POCO(poco.POCOConfig(width=8, heads=1, head_width=4, film_width=8), [poco.SessionSpec("a", 4)])
x, target = torch.randn(3, 4, 48), torch.randn(12, 16)
index, offsets = torch.arange(4).int().repeat(3), torch.arange(4).int() * 4
batch = PackedBatch(x.flatten(0, 1), index, offsets, torch.zeros(3, dtype=torch.int64), target)
torch.set_default_device("meta")
model(x).sum().backward()
model.loss_packed(batch).backward()
assert all(p.grad.device.type == "cpu" for p in model.parameters())
"""
    )


def test_where_it_is_used() -> None:
    x, initial = torch.ones(1, 4), torch.ones(1, 8, 4)
    assert trains_at_once(x, initial)
    assert not trains_at_once(x.clone().requires_grad_(), initial)
    assert not trains_at_once(x.double(), initial)
    assert not trains_at_once(x, initial.double())
    assert not trains_at_once(x, torch.ones(1, 49, 4))
    with use_backend("reference"):
        assert not trains_at_once(x, initial)


def test_says_what_does_not_fit() -> None:
    call, x, table, initial, parameters, target = inputs(**SMALL)
    with pytest.raises(ShapeError, match=r"train: target must be \[8, 16\], got \[7, 16\]"):
        train(call, x, table, initial, parameters, target[1:])
    with pytest.raises(ShapeError, match="train: target must be floating point"):
        train(call, x, table, initial, parameters, target.int())
    with pytest.raises(ShapeError, match="train: the context 47 must be a multiple"):
        train(call, x[:, 1:], table, initial, parameters)
