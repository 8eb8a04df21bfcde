"""What happens to the latents before and between the passes: the reference, the CPU kernels, the torch ops."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import latents as helper
from helpers import relative_error
from helpers.latents import double, latent_inputs, query_inputs
from helpers.passes import replaced

from poco import core
from poco.errors import ShapeError
from poco.ops import kernels_serve, latent_queries, latent_reference, latent_transformer, use_backend

TESTS = Path(__file__).resolve().parents[1]
needs_kernels = pytest.mark.skipif(
    core.kernels_missing() is not None, reason=f"needs the CPU kernels: {core.kernels_missing()}"
)
SMALL: dict[str, Any] = {"width": 8, "head_width": 4, "heads": 2, "hidden": 5, "latents": 3, "windows": 2}
transformer_op = torch.ops.poco.latent_transformer.default
queries_op = torch.ops.poco.latent_queries.default


def test_rotation_written_out() -> None:
    frequencies = torch.tensor([0.3, 2.0])
    x = torch.arange(1.0, 9.0, dtype=torch.float64)
    turned = latent_reference.rotate(x, torch.tensor(5.0), frequencies)
    for pair, frequency in enumerate(frequencies.double().tolist()):
        z = complex(x[2 * pair], x[2 * pair + 1]) * complex(math.cos(5 * frequency), math.sin(5 * frequency))
        assert turned[2 * pair].item() == pytest.approx(z.real, abs=1e-12)
        assert turned[2 * pair + 1].item() == pytest.approx(z.imag, abs=1e-12)
    assert torch.equal(turned[4:], x[4:])


@needs_kernels
@pytest.mark.parametrize("dtype", helper.TOLERANCES, ids=str)
@pytest.mark.parametrize("shape", helper.SHAPES, ids=str)
def test_kernels_are_the_reference(shape: dict[str, Any], dtype: torch.dtype) -> None:
    helper.check_latents(shape, dtype)


@needs_kernels
@pytest.mark.parametrize("t_max", [0.001, 1e5])
def test_long_and_short_periods(t_max: float) -> None:
    """Angles of many million radians, and next to none."""
    helper.check_latents({**SMALL, "t_max": t_max}, torch.float32)


@needs_kernels
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512", "avx512_bf16", "amx"])
def test_every_instruction_set_whatever_memory_held(run_python, isa: str) -> None:
    code = """
import torch
torch.use_deterministic_algorithms(True)  # torch.empty gives NaN
from helpers import latents
latents.check_all()
"""
    poison = {"MALLOC_PERTURB_": "1", "MALLOC_MMAP_THRESHOLD_": "1000000000", "MALLOC_TOP_PAD_": "1000000"}
    done = run_python(code, env={"POCO_CPU": isa, **poison}, path=(TESTS,), check=False)
    if "cannot run on this processor" in done.stderr:
        pytest.skip(f"this processor cannot run {isa}")
    assert done.returncode == 0, done.stderr


@needs_kernels
@pytest.mark.parametrize("dtype", helper.TOLERANCES, ids=str)
def test_results_do_not_depend_on_threads(dtype: torch.dtype) -> None:
    before = torch.get_num_threads()
    try:
        for shape in ({}, {"windows": 7, "own": True}, {"windows": 30}):
            inputs = latent_inputs(**shape, dtype=dtype)
            torch.set_num_threads(1)
            expected = latent_transformer(*inputs)
            for count in (2, 3, 7):
                torch.set_num_threads(count)
                for _ in range(5):
                    found = latent_transformer(*inputs)
                    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    finally:
        torch.set_num_threads(before)


@needs_kernels
def test_windows_do_not_depend_on_each_other() -> None:
    inputs = latent_inputs(windows=11)
    together = latent_transformer(*inputs)
    alone = [latent_transformer(inputs[0][w : w + 1], *inputs[1:]) for w in range(11)]
    for i in range(2):
        assert torch.equal(together[i], torch.cat([one[i] for one in alone]))
    inputs[0][4, 0, 0, 0] = float("nan")
    broken = latent_transformer(*inputs)[0].isnan().flatten(1).any(1)
    assert broken.nonzero().flatten().tolist() == [4]


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_and_any_layout(dtype: torch.dtype) -> None:
    inputs = latent_inputs(**SMALL, dtype=dtype)
    exact = latent_transformer(*double(inputs))
    odd = [t.T.contiguous().T if t.ndim == 2 else t for t in inputs[2]]
    for parameters in (inputs[2], odd, [*inputs[2][:-1], inputs[2][-1].float()]):
        for mine, other in zip(latent_transformer(*replaced(inputs, 2, parameters)), exact, strict=True):
            assert mine.dtype == dtype
            assert relative_error(mine, other) < 2e-2


def test_float64_goes_to_the_reference() -> None:
    inputs = latent_inputs(**SMALL, dtype=torch.float64)
    keys, values = latent_transformer(*inputs)
    assert keys.dtype == values.dtype == torch.float64
    with use_backend("reference"):
        assert torch.equal(latent_transformer(*inputs)[0], keys)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opcheck(dtype: torch.dtype) -> None:
    torch.library.opcheck(transformer_op, latent_inputs(**SMALL, dtype=dtype))
    torch.library.opcheck(queries_op, query_inputs(**SMALL, own=True, dtype=dtype))


def test_compiles_whole() -> None:
    inputs, queries = latent_inputs(**SMALL), query_inputs(**SMALL)

    def both(a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[torch.Tensor, ...]:
        return (*latent_transformer(*a), latent_queries(*b))

    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    for mine, other in zip(compiled(inputs, queries), both(inputs, queries), strict=True):
        assert torch.equal(mine, other)


def test_autocast_changes_nothing() -> None:
    inputs = latent_inputs(**SMALL)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = latent_transformer(*inputs)
    assert all(torch.equal(a, b) for a, b in zip(low, latent_transformer(*inputs), strict=True))


@needs_kernels
def test_where_the_ops_are_used() -> None:
    one, trained = torch.ones(1), torch.ones(1, requires_grad=True)
    assert kernels_serve((one,), one)
    assert not kernels_serve((one, trained), one)
    with torch.no_grad():
        assert kernels_serve((one, trained), one)
        with use_backend("reference"):
            assert not kernels_serve((one,), one)
    assert not kernels_serve((one.double(),), one.double())


@pytest.mark.parametrize(
    ("position", "value", "says"),
    [
        (0, torch.randn(2, 3, 3, 9), r"initial must be \[2, 3, 9\]"),
        (1, torch.randn(3, 3, 8), r"initial must be \[2, 3, 8\]"),
        (1, torch.ones(1, 3, 8, dtype=torch.int64), "floating point"),
        (2, [], "parameters must be 15 tensors and 11 for each layer, got 0"),
        (3, torch.ones(2), r"frequencies must be \[1\]"),
        (4, 3, r"layer0_query_key_value_weight must be \[36, 8\], got \[24, 8\]"),
        (5, 50, "the context 50 must be a multiple of the 3 segments"),
    ],
)
def test_says_what_does_not_fit(position: int, value: Any, says: str) -> None:
    with pytest.raises(ShapeError, match=says):
        latent_transformer(*replaced(latent_inputs(**SMALL), position, value))


def test_says_what_does_not_fit_of_the_queries() -> None:
    with pytest.raises(ShapeError, match=r"key_weight must be \[4, 8\]"):
        latent_queries(*replaced(query_inputs(**SMALL), 4, torch.randn(4, 9)))
    with pytest.raises(ShapeError, match="must be a multiple of the 5 segments"):
        latent_queries(*replaced(query_inputs(**SMALL), 6, 5))
