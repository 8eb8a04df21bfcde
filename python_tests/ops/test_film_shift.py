"""The folded shift of FiLM: the CPU kernel, the torch op."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import relative_error
from helpers.latents import check_shift, shift_inputs

from poco import core
from poco.errors import ShapeError
from poco.ops import film_shift

TESTS = Path(__file__).resolve().parents[1]


@pytest.mark.skipif(core.kernels_missing() is not None, reason=f"needs the CPU kernels: {core.kernels_missing()}")
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512", "avx512_bf16", "amx"])
def test_every_instruction_set_is_the_reference(run_python, isa: str) -> None:
    code = """
import torch
torch.use_deterministic_algorithms(True)  # torch.empty gives NaN
from helpers.latents import check_shift
for threads in (1, 3):
    torch.set_num_threads(threads)
    for dtype in (torch.float32, torch.bfloat16):
        for shape in ((16, 1024, 128), (1, 1, 1), (5, 130, 33), (19, 67, 512), (3, 64, 101)):
            check_shift(*shape, dtype)
"""
    poison = {"MALLOC_PERTURB_": "1", "MALLOC_MMAP_THRESHOLD_": "1000000000", "MALLOC_TOP_PAD_": "1000000"}
    done = run_python(code, env={"POCO_CPU": isa, **poison}, path=(TESTS,), check=False)
    if "cannot run on this processor" in done.stderr:
        pytest.skip(f"this processor cannot run {isa}")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_op(dtype: torch.dtype) -> None:
    inputs = shift_inputs(3, 20, 9, dtype)
    weight, bias = film_shift(*inputs)
    assert weight.dtype == bias.dtype == dtype
    exact = [t.double() for t in inputs]
    assert relative_error(weight, exact[0] @ exact[2]) < (1e-2 if dtype == torch.float16 else 1e-5)
    assert relative_error(bias, exact[0] @ exact[3] + exact[1]) < (1e-2 if dtype == torch.float16 else 1e-5)
    torch.library.opcheck(torch.ops.poco.film_shift.default, inputs)


def test_says_what_does_not_fit() -> None:
    output_weight, output_bias, shift_weight, shift_bias = shift_inputs(3, 20, 9, torch.float32)
    with pytest.raises(ShapeError, match=r"shift_weight must be \[20, d\], got \[9, 20\]"):
        film_shift(output_weight, output_bias, shift_weight.T, shift_bias)


@pytest.mark.skipif(core.kernels_missing() is not None, reason=f"needs the CPU kernels: {core.kernels_missing()}")
def test_here() -> None:
    check_shift(16, 1024, 128, torch.float32)
