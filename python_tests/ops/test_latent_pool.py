"""Pass 1 against attention written out window by window, and its contract as a torch op."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from helpers import relative_error
from helpers.passes import differentiable, latent_pool_inputs, replaced
from torch import Tensor

from poco.errors import ShapeError
from poco.ops import checks, latent_pool, use_backend

op = torch.ops.poco.latent_pool


def written_out(inputs: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
    x, unit_index, offsets, table, token_weight, token_bias, norm_weight, norm_bias, queries, eps = inputs
    pooled, logsumexp = [], []
    for w, (start, stop) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)):
        query = queries[w if len(queries) > 1 else 0]  # [S, Q, d]
        segments = x[start:stop].unflatten(1, (query.shape[0], token_weight.shape[1]))
        tokens = segments @ token_weight.T + token_bias + table[unit_index[start:stop].long()][:, None]
        y = torch.nn.functional.layer_norm(tokens, tokens.shape[-1:], norm_weight, norm_bias, eps)
        scores = torch.stack([y[:, s] @ query[s].T for s in range(len(query))], 1)  # [N, S, Q]
        flat = scores.flatten(0, 1)
        logsumexp.append(flat.logsumexp(0) if len(flat) else flat.new_full((query.shape[1],), float("-inf")))
        weights = torch.softmax(flat, 0).reshape(scores.shape)
        pooled.append(torch.einsum("nsq,nsd->sqd", weights, y))
    return torch.stack(pooled), torch.stack(logsumexp)


SHAPES: list[dict[str, Any]] = [
    {},
    {"shared_queries": True},
    {"counts": (1,), "segments": 1, "latents": 1},
    {"counts": (37, 1, 7), "width": 33, "segments": 3, "length": 5, "latents": 8, "table": 40},
    {"counts": (4, 4), "segments": 3},
    {"counts": (0, 2)},
]


@pytest.mark.parametrize("shape", SHAPES)
def test_forward_and_backward(shape: dict[str, Any]) -> None:
    inputs = latent_pool_inputs(**shape)
    out, expected = op(*inputs), written_out(inputs)
    filled = inputs[2].diff() > 0  # windows with rows: the others have an infinite logsumexp
    assert relative_error(out[0], expected[0]) < 1e-13
    assert relative_error(out[1][filled], expected[1][filled]) < 1e-13
    assert (out[0][~filled] == 0).all()
    assert (out[1][~filled] == float("-inf")).all()
    draws = [torch.randn(t.shape, dtype=t.dtype) for t in out]

    def gradients(results: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        loss = (results[0] * draws[0]).sum() + (results[1][filled] * draws[1][filled]).sum()
        return torch.autograd.grad(loss, differentiable(inputs))

    for mine, reference in zip(gradients(out), gradients(expected), strict=True):
        assert relative_error(mine, reference) < 1e-11


def test_opcheck() -> None:
    for shape in SHAPES[:3]:
        torch.library.opcheck(op.default, latent_pool_inputs(**shape))


@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("counts", [(3, 0, 5), (0, 0)])
def test_gradients_that_are_not_wanted_are_empty(counts: tuple[int, ...], backend: str | None) -> None:
    for dtype in (torch.float64, torch.bfloat16):
        inputs = [t.detach() if isinstance(t, Tensor) else t for t in latent_pool_inputs(counts, dtype=dtype)]
        outputs = op(*inputs)
        for wanted in (1, 2, 6):
            needs = [i == wanted for i in range(7)]
            with use_backend(backend):
                arguments = (*outputs, *outputs, *inputs, needs)
                torch.library.opcheck(
                    torch.ops.poco.latent_pool_backward.default, arguments, test_utils="test_faketensor"
                )


def test_gradcheck() -> None:
    inputs = latent_pool_inputs((2, 3), width=4, latents=2, length=2)
    assert torch.autograd.gradcheck(op, inputs)


def test_differentiates_twice() -> None:
    inputs = latent_pool_inputs((2, 3), width=4, latents=2, length=2)
    assert torch.autograd.gradgradcheck(op, inputs)


def test_parts_of_a_population_combine_through_the_logsumexp() -> None:
    inputs = latent_pool_inputs((40,), table=40, shared_queries=True)
    whole, _ = op(*inputs)
    parts = [
        op(inputs[0][rows], inputs[1][rows], torch.tensor([0, 20], dtype=torch.int32), *inputs[3:])
        for rows in (slice(0, 20), slice(20, 40))
    ]
    share = torch.softmax(torch.stack([logsumexp for _, logsumexp in parts]), 0)  # [2, 1, Q]
    combined = sum(s[:, None, :, None] * pooled for s, (pooled, _) in zip(share, parts, strict=True))
    assert relative_error(combined, whole) < 1e-13


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-6)])
def test_low_precision_accumulates_in_float32(dtype: torch.dtype, tolerance: float) -> None:
    inputs = latent_pool_inputs((37, 1, 7), width=33, table=40, dtype=dtype)
    exact = [t.detach().double() if isinstance(t, Tensor) and t.is_floating_point() else t for t in inputs]
    for mine, reference in zip(op(*inputs), written_out(tuple(exact)), strict=True):
        assert mine.dtype == torch.float32
        assert relative_error(mine, reference) < tolerance


def test_autocast_takes_bfloat16() -> None:
    inputs = latent_pool_inputs(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled, _ = op(*inputs)
    assert 1e-4 < relative_error(pooled, op(*inputs)[0]) < 2e-2
    pooled.sum().backward()
    assert all(t.grad is not None and t.grad.dtype == torch.float32 for t in differentiable(inputs))


def test_compiles_whole() -> None:
    inputs = latent_pool_inputs()

    def loss(*args: Any) -> Tensor:
        return latent_pool(*args)[0].square().sum()

    expected = torch.autograd.grad(loss(*inputs), differentiable(inputs))
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for mine, reference in zip(torch.autograd.grad(compiled(*inputs), differentiable(inputs)), expected, strict=True):
        assert relative_error(mine, reference) < 1e-12


@pytest.mark.parametrize(
    ("position", "value", "says"),
    [
        (0, torch.randn(8, 7), "multiple of the segment length 4"),
        (0, torch.randn(9, 8), "unit_index must be \\[9\\]"),
        (0, torch.ones(8, 8, dtype=torch.int64), "floating point"),
        (1, torch.full((8,), 7, dtype=torch.int32), "unit_index must be in 0..6"),
        (1, torch.tensor([0, 1, 9, 3, 4, 5, -1, 2], dtype=torch.int32), "got -1..9, first in row 2"),
        (1, torch.zeros(8, dtype=torch.int64), "int32"),
        (2, torch.tensor([0, 5, 3, 8], dtype=torch.int32), "0 to the 8 rows of x, but window 1 goes from 5 to 3"),
        (2, torch.tensor([0, 3, 3, 7], dtype=torch.int32), "0 to the 8 rows of x, but they go from 0 to 7"),
        (3, torch.ones(7, 8, dtype=torch.int32), "unit_table must be floating point, got torch.int32"),
        (3, torch.ones(0, 8), "unit_table has no unit, and x has 8 rows"),
        (3, torch.ones(7, 0), r"unit_table must have at least one feature, it is \[7, 0\]"),
        (4, torch.ones(8, 4, dtype=torch.complex64), "token_weight must be floating point, got torch.complex64"),
        (3, torch.randn(7, 9), "token_weight must be \\[9, L\\]"),
        (8, torch.randn(2, 2, 3, 8), "for 1 or 3 windows"),
        (8, torch.randn(3, 2, 0, 8), r"at least one latent, queries is \[3, 2, 0, 8\]"),
        (0, torch.randn(8, 0), "context 0 must be a multiple of the segment length 4"),
        (9, -1.0, "latent_pool: eps must be a number above 0, got -1.0"),
    ],
)
def test_says_what_does_not_fit(position: int, value: Any, says: str) -> None:
    with pytest.raises(ShapeError, match=says):
        op(*replaced(latent_pool_inputs(), position, value))


@pytest.mark.parametrize("position", range(9))
def test_says_what_is_no_tensor(position: int) -> None:
    with pytest.raises(ShapeError, match=f"latent_pool: {checks.POOL_NAMES[position]} must be a tensor, got ndarray"):
        latent_pool(*replaced(latent_pool_inputs(), position, np.ones(3)))


@pytest.mark.parametrize("position", [1, 3, 4, 5, 6, 7, 8])
def test_all_are_on_one_device(position: int) -> None:
    inputs = latent_pool_inputs()
    with pytest.raises(ShapeError, match=f"all tensors must be on cpu, {checks.POOL_NAMES[position]} is on meta"):
        checks.latent_pool(*replaced(inputs, position, inputs[position].to("meta")))


def test_shapes_alone_on_the_meta_device() -> None:
    inputs = [t.to("meta") if isinstance(t, Tensor) else t for t in latent_pool_inputs(dtype=torch.bfloat16)]
    pooled, logsumexp = latent_pool(*inputs)
    assert (pooled.device.type, pooled.dtype, logsumexp.dtype) == ("meta", torch.float32, torch.float32)
    assert (pooled.shape, logsumexp.shape) == ((3, 2, 3, 8), (3, 3))
