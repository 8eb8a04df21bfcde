"""Pass 2 against itself written out row by row, and its contract as a torch op."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import relative_error
from helpers.passes import differentiable, film_forecast_inputs, replaced
from torch import Tensor

from poco import core
from poco.errors import ShapeError
from poco.ops import FilmParameters, checks, film_forecast, film_loss, reference, use_backend

op = torch.ops.poco.film_forecast


def written_out(inputs: tuple[Any, ...]) -> Tensor:
    x, unit_index, offsets, table, keys, values = inputs[:6]
    p, (dropout, seed, eps) = FilmParameters(*inputs[6:-3]), inputs[-3:]
    hidden = p.ffn_out_weight.shape[1]
    kept = torch.from_numpy(core.dropout_keep(int(seed), len(x), hidden, dropout)).to(x.dtype) / (1 - dropout)
    window = torch.repeat_interleave(offsets.long().diff())
    rows = []
    for r in range(len(x)):
        u, key, value = table[unit_index[r]], keys[window[r]], values[window[r]]
        query = F.layer_norm(u, u.shape, p.query_norm_weight, p.query_norm_bias, eps)
        e = u + torch.softmax(key @ query, 0) @ value + p.attention_bias
        wide = p.ffn_in_weight @ F.layer_norm(e, e.shape, p.ffn_norm_weight, p.ffn_norm_bias, eps) + p.ffn_in_bias
        e = e + p.ffn_out_weight @ (wide[:hidden] * F.gelu(wide[hidden:]) * kept[r]) + p.ffn_out_bias
        film = F.relu(p.in_weight @ x[r] + p.in_bias) * (p.scale_weight @ e + p.scale_bias)
        rows.append(p.out_weight @ film + p.shift_weight @ e + p.shift_bias)
    return torch.stack(rows) if rows else x.new_zeros(0, len(p.shift_bias))


SHAPES: list[dict[str, Any]] = [
    {},
    {"dropout": 0.0},
    {"counts": (1,), "latents": 1, "film": 0, "hidden": 1, "horizon": 1},
    {"counts": (37, 1, 7), "width": 33, "latents": 8, "context": 48, "film": 17, "horizon": 16, "table": 40},
    {"counts": (4, 4)},
]


@pytest.mark.parametrize("shape", SHAPES)
def test_forward_and_backward(shape: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "_ROWS_AT_ONCE", 5)  # several blocks of rows, the last one short
    inputs = film_forecast_inputs(**shape)
    out, expected = op(*inputs), written_out(inputs)
    assert relative_error(out, expected) < 1e-13
    draw = torch.randn(out.shape, dtype=out.dtype)
    wanted = differentiable(inputs)
    ours = torch.autograd.grad((out * draw).sum(), wanted)
    theirs = torch.autograd.grad((expected * draw).sum(), wanted, materialize_grads=True)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.shape == other.shape
        if other.numel() and other.abs().max() > 1e-12:  # one latent has no say in a softmax, K = 0 no elements
            assert relative_error(mine, other) < 1e-11
        else:
            assert not mine.numel() or mine.abs().max() < 1e-12


def test_no_rows() -> None:
    inputs = film_forecast_inputs((0, 0))
    out = op(*inputs)
    assert out.shape == (0, 2)
    assert all((g == 0).all() for g in torch.autograd.grad(out.sum(), differentiable(inputs)))


def test_opcheck() -> None:
    for shape in SHAPES[:3]:
        torch.library.opcheck(op.default, film_forecast_inputs(**shape))


@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("counts", [(3, 0, 5), (0, 0)])
def test_gradients_that_are_not_wanted_are_empty(counts: tuple[int, ...], backend: str | None) -> None:
    for dtype in (torch.float64, torch.bfloat16):
        inputs = [t.detach() if isinstance(t, Tensor) else t for t in film_forecast_inputs(counts, dtype=dtype)]
        for wanted in (1, 2, 8):
            needs = [i == wanted for i in range(20)]
            with use_backend(backend):
                arguments = (op(*inputs), *inputs, needs)
                torch.library.opcheck(
                    torch.ops.poco.film_forecast_backward.default, arguments, test_utils="test_faketensor"
                )


def test_gradcheck() -> None:
    assert torch.autograd.gradcheck(op, film_forecast_inputs((2, 1), width=4, hidden=3, film=3, context=3))


def test_differentiates_twice() -> None:
    inputs = film_forecast_inputs((2, 1), width=4, hidden=3, film=3, context=3)
    assert torch.autograd.gradgradcheck(op, inputs)


def test_only_wanted_gradients() -> None:
    inputs = film_forecast_inputs()
    for t in inputs:
        if isinstance(t, Tensor) and t.requires_grad:
            t.requires_grad_(False)
    table = inputs[3].requires_grad_()
    op(*inputs).sum().backward()
    assert table.grad is not None
    assert inputs[0].grad is None


def test_same_seed_same_mask() -> None:
    inputs = film_forecast_inputs()
    assert torch.equal(op(*inputs), op(*inputs))
    other = replaced(inputs, len(inputs) - 2, torch.tensor(8))
    assert not torch.equal(op(*inputs), op(*other))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_low_precision_accumulates_in_float32(dtype: torch.dtype, tolerance: float) -> None:
    inputs = film_forecast_inputs((37, 1, 7), width=33, table=40, dtype=dtype)
    exact = [t.detach().double() if isinstance(t, Tensor) and t.is_floating_point() else t for t in inputs]
    out = op(*inputs)
    assert out.dtype == dtype
    assert relative_error(out, written_out(tuple(exact))) < tolerance


def test_autocast_takes_bfloat16() -> None:
    inputs = film_forecast_inputs(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = op(*inputs)
    assert out.dtype == torch.bfloat16
    assert relative_error(out, op(*inputs)) < 2e-2
    out.float().sum().backward()
    assert all(t.grad is not None and t.grad.dtype == torch.float32 for t in differentiable(inputs))


def test_compiles_whole() -> None:
    inputs = film_forecast_inputs()
    expected = torch.autograd.grad(op(*inputs).sum(), differentiable(inputs))
    compiled = torch.compile(lambda *args: op(*args).sum(), fullgraph=True, backend="aot_eager")
    for mine, other in zip(torch.autograd.grad(compiled(*inputs), differentiable(inputs)), expected, strict=True):
        assert relative_error(mine, other) < 1e-12


@pytest.mark.parametrize(
    ("position", "value", "says"),
    [
        (4, torch.randn(2, 3, 8), "keys must be \\[3, Q, 8\\]"),
        (5, torch.randn(3, 4, 8), "values must be \\[3, 3, 8\\]"),
        (4, torch.ones(3, 3, 8, dtype=torch.bool), "keys must be floating point, got torch.bool"),
        (21, torch.ones(2, 4, dtype=torch.complex64), "out_weight must be floating point, got torch.complex64"),
        (11, torch.randn(9, 8), "ffn_in_weight must be \\[10, 8\\]"),
        (-1 - 2, 1.0, "dropout must be in \\[0, 1\\)"),
        (-1 - 1, torch.tensor([1, 2]), "seed must be one int64"),
        (-1, float("nan"), "film_forecast: eps must be a number above 0, got nan"),
        (-1, 0.0, "film_forecast: eps must be a number above 0, got 0"),
    ],
)
def test_says_what_does_not_fit(position: int, value: Any, says: str) -> None:
    inputs = film_forecast_inputs()
    with pytest.raises(ShapeError, match=says):
        op(*replaced(inputs, position % len(inputs), value))


def test_parameters_may_be_a_list_of_as_many() -> None:
    *tensors, dropout, seed, eps = film_forecast_inputs()
    target, rest = torch.zeros(8, 2, dtype=torch.float64), (dropout, seed, eps)
    expected = op(*tensors, *rest)
    assert torch.equal(film_forecast(*tensors[:6], tensors[6:], *rest), expected)
    assert film_loss(*tensors[:6], tensors[6:], target, *rest).isclose(expected.square().mean())
    with pytest.raises(ShapeError, match="film_forecast: parameters must be the 16 tensors of FilmParameters, got 15"):
        film_forecast(*tensors[:6], tensors[6:-1], *rest)
    with pytest.raises(ShapeError, match="film_loss: parameters must be the 16 tensors of FilmParameters, got 15"):
        film_loss(*tensors[:6], tensors[6:-1], target, *rest)
    with pytest.raises(ShapeError, match="film_forecast: in_bias must be a tensor, got NoneType"):
        film_forecast(*tensors[:6], [*tensors[6:-2], None, tensors[-1]], *rest)
    with pytest.raises(ShapeError, match="film_loss: target must be a tensor, got float"):
        film_loss(*tensors[:6], tensors[6:], 0.0, *rest)


def test_there_are_latents_to_read() -> None:
    with pytest.raises(ShapeError, match=r"there must be at least one latent, keys is \[3, 0, 8\]"):
        op(*film_forecast_inputs(latents=0))


def test_dropout_needs_a_seed() -> None:
    inputs = film_forecast_inputs()
    with pytest.raises(ShapeError, match="needs a seed"):
        film_forecast(*inputs[:6], FilmParameters(*inputs[6:-3]), dropout=0.5)
    with pytest.raises(ShapeError, match="seed must be a tensor of one int64, got int"):
        film_forecast(*inputs[:6], FilmParameters(*inputs[6:-3]), dropout=0.5, seed=3)  # type: ignore[arg-type]


def test_the_seed_is_on_the_device_of_the_rest() -> None:
    *tensors, dropout, seed, eps = film_forecast_inputs()
    parameters = FilmParameters(*tensors[6:])
    with pytest.raises(ShapeError, match="all tensors must be on cpu, seed is on meta"):
        checks.film_forecast(*tensors[:6], parameters, dropout, seed.to("meta"), eps)
