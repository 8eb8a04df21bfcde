"""What happens between the passes, in training: the reference, the CPU kernels, the torch op."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import latents as helper
from helpers import parity, relative_error
from helpers.latents import exact, inputs, results
from helpers.needs import needs_kernels
from helpers.passes import replaced

from poco import core
from poco.errors import BackendError, ShapeError
from poco.ops import latent_transformer, latents_by_kernels, use_backend

SMALL: dict[str, Any] = {"windows": 3, "width": 8, "head_width": 4, "heads": 2, "hidden": 5, "latents": 3}


@needs_kernels
@pytest.mark.parametrize("dtype", helper.TOLERANCES, ids=str)
@pytest.mark.parametrize("shape", helper.SHAPES, ids=str)
def test_kernels_are_the_reference(shape: dict[str, Any], dtype: torch.dtype) -> None:
    helper.check(shape, dtype)


@needs_kernels
@pytest.mark.parametrize("dtype", helper.TOLERANCES, ids=str)
def test_results_do_not_depend_on_threads(threads, dtype: torch.dtype) -> None:
    for shape in ({"windows": 40}, {"windows": 1}):
        arguments = inputs(**shape, dtype=dtype)
        threads(1)
        expected = results(arguments)
        for count in (2, 3, 7):
            threads(count)
            for one, other in zip(results(arguments), expected, strict=True):
                assert torch.equal(one, other)  # type: ignore[arg-type]


@needs_kernels
def test_windows_do_not_depend_on_each_other() -> None:
    arguments = inputs(windows=11, own=True, latents=3)
    broken = replaced(arguments, 0, arguments[0].clone())
    broken[0][4, 1, 2, 7] = float("nan")
    found, expected = results(broken), results(arguments)
    window = torch.arange(11) == 4
    for one, other in zip(found[:4], expected[:4], strict=True):  # keys, values, gradients of pooled and initial
        assert one is not None
        assert other is not None
        assert one[window].isnan().any()
        assert torch.equal(one[~window], other[~window])


@needs_kernels
def test_only_wanted_gradients() -> None:
    arguments = inputs(**SMALL)
    everything = results(arguments)
    for wanted in ((0,), (1,), (0, 1)):
        leaves = [t.clone().requires_grad_(i in wanted) for i, t in enumerate(arguments[:2])]
        outputs = latent_transformer(*leaves, *arguments[2:])
        generator = torch.Generator().manual_seed(2)
        grads = [torch.randn(o.shape, generator=generator).to(torch.bfloat16).float() for o in outputs]
        found = torch.autograd.grad(outputs, [leaves[i] for i in wanted], grads)
        for i, one in zip(wanted, found, strict=True):
            assert torch.equal(one, everything[2 + i])  # type: ignore[arg-type]


@needs_kernels
def test_low_precision_and_any_layout() -> None:
    arguments = inputs(**SMALL, dtype=torch.float16)
    expected = exact(arguments)
    odd = [t.T.contiguous().T if t.ndim == 2 else t for t in arguments[2]]
    for parameters in (arguments[2], odd):
        parity.check(results(replaced(arguments, 2, parameters)), expected, 2e-2)
    pooled = arguments[0].transpose(0, 3).contiguous().transpose(0, 3)
    parity.check(results(replaced(arguments, 0, pooled)), expected, 2e-2)


@needs_kernels
@pytest.mark.parametrize("backend", [None, "reference"])
def test_autocast_takes_bfloat16(backend: str | None) -> None:
    arguments = inputs(windows=5)
    rounded = (arguments[0], arguments[1].bfloat16(), [p.bfloat16() for p in arguments[2]], *arguments[3:])
    expected = exact(rounded)
    with use_backend(backend), torch.autocast("cpu", dtype=torch.bfloat16):
        found = results(arguments)
    assert [t.dtype for t in found[:2] if t is not None] == [torch.bfloat16] * 2
    assert all(t is not None and t.dtype == torch.float32 for t in found[2:])
    parity.check(found, expected, 2e-2)


def test_float64_and_many_latents_go_to_the_reference() -> None:
    many = inputs(**{**SMALL, "latents": 49})
    assert not latents_by_kernels(many[1])
    parity.check(results(many), exact(many), 1e-5)
    parity.check(results(helper.double(many)), exact(many), 1e-12)


def test_dropout_of_the_reference_is_undone_by_its_scale() -> None:
    """The share that is dropped is as asked, and the seed decides which."""
    arguments = inputs(windows=200, **{k: v for k, v in SMALL.items() if k != "windows"})
    wide = helper.double(arguments)
    keys, again = (latent_transformer(*wide)[0] for _ in range(2))
    other = latent_transformer(*replaced(wide, 8, torch.tensor(5)))[0]
    assert torch.equal(keys, again)
    assert relative_error(other, keys) > 1e-2


@needs_kernels
def test_opcheck() -> None:
    pooled, initial, parameters, frequencies, *numbers = inputs(**SMALL, own=True)
    leaves = [t.requires_grad_() for t in (pooled, initial, *parameters)]
    torch.use_deterministic_algorithms(True)  # what is kept has gaps, which nobody reads; so they are always the same
    try:
        for low in (False, True):
            torch.library.opcheck(
                torch.ops.poco.latent_transformer.default, (pooled, initial, frequencies, leaves[2:], *numbers, low)
            )
    finally:
        torch.use_deterministic_algorithms(False)


@needs_kernels
@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_whole(dynamic: bool) -> None:
    arguments = inputs(**SMALL)
    compiled = torch.compile(latent_transformer, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for one, other in zip(results(arguments, compiled), results(arguments), strict=True):
        assert torch.equal(one, other)  # type: ignore[arg-type]


@needs_kernels
def test_compiled_for_the_kernels_it_refuses_another_backend() -> None:
    arguments = replaced(replaced(inputs(**SMALL), 6, 0.0), 7, 0.0)
    torch.compiler.reset()
    compiled = torch.compile(latent_transformer, fullgraph=True, backend="aot_eager")
    compiled(*arguments)
    with use_backend("reference"):
        with pytest.raises(BackendError, match="compiled for kernels, and backend 'reference' is forced now"):
            compiled(*arguments)
        torch.compiler.reset()
        for one, other in zip(compiled(*arguments), latent_transformer(*arguments), strict=True):
            assert torch.equal(one, other)
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("position", "value", "says"),
    [
        (0, torch.randn(3, 3, 4, 8), r"pooled must be \[W, S, 3, 8\], got \[3, 3, 4, 8\]"),
        (0, torch.randn(3, 5, 3, 8), "the context 48 must be a multiple of the 5 segments"),
        (1, torch.randn(2, 3, 8), "initial must be for 1 or 3 windows, got 2"),
        (1, torch.ones(1, 3, 8, dtype=torch.int64), "floating point"),
        (2, [], "parameters must be 15 tensors and 11 for each layer, got 0"),
        (3, torch.ones(2), r"parameters\[0\] \(read_value_weight\) must be \[8, 8\], got \[4, 8\]"),
        (4, 3, r"parameters\[11\] \(layers\[0\]\.query_key_value_weight\) must be \[36, 8\], got \[24, 8\]"),
        (2, [None], r"parameters\[0\] must be a tensor, got NoneType"),
        (4, 0, "heads must be at least 1, got 0"),
        (5, 0, "the context 0 must be a multiple of the 3 segments"),
        (7, 1.0, r"dropout must be in \[0, 1\), got 1.0"),
        (8, torch.ones(2), "seed must be one int64"),
        (8, torch.tensor(1, device="meta"), "all tensors must be on cpu, seed is on meta"),
        (8, None, "latent_transformer: dropout 0.4 needs a seed"),
        (9, -1e-5, "latent_transformer: eps must be a number above 0, got -1e-05"),
    ],
)
def test_says_what_does_not_fit(position: int, value: Any, says: str) -> None:
    with pytest.raises(ShapeError, match=says):
        latent_transformer(*replaced(inputs(**SMALL), position, value))


def test_says_that_there_are_no_latents() -> None:
    with pytest.raises(ShapeError, match=r"there must be at least one latent, initial is \[1, 0, 8\]"):
        latent_transformer(*inputs(**{**SMALL, "latents": 0}))


@needs_kernels
def test_the_core_counts_parameters() -> None:
    names = "windows initial_windows segments latents width head_width heads ffn_width layers context eps threads"
    names += " ffn_dropout dropout seed frequencies pooled initial kept keys values"
    with pytest.raises(BackendError, match="latent_training: 0 layers have 15 parameters, not 2"):
        core.run_kernel("latent_training_float32", {**dict.fromkeys(names.split(), 0), "parameters": [0, 0]})
