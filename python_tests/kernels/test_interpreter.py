"""Every Triton kernel, forward and backward, in Triton's interpreter: parity with the reference in float64."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="needs Triton (Linux): the extra 'test'")
TESTS = Path(__file__).resolve().parents[1]
POISONED = """
import torch
torch.use_deterministic_algorithms(True)  # torch.empty gives NaN
"""


def _interpret(run_python, code: str) -> str:
    environment = {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    done = run_python(POISONED + code, env=environment, path=(TESTS,), check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_both_passes_forward_and_backward(run_python) -> None:
    """Ragged windows, odd sizes, none of the default ones; few rows, as a program takes milliseconds to start."""
    _interpret(
        run_python,
        """
from helpers import parity
from poco.ops import triton
POOL = [
    {"shared_queries": True},
    {"counts": (1,), "segments": 1, "latents": 1, "length": 1},
    {"counts": (37, 1, 0, 7), "width": 33, "segments": 3, "length": 5, "latents": 17, "table": 40},
    {"counts": (7,), "width": 100, "segments": 1, "length": 7, "latents": 64, "shared_queries": True},
    {"counts": (0, 0)},
    {"counts": (300, 5), "width": 128, "segments": 3, "length": 16, "latents": 8, "table": 50},
    {"counts": (140, 3), "width": 260, "segments": 2, "length": 3, "latents": 33},
]
FILM = [
    {},
    {"counts": (1,), "latents": 1, "hidden": 1, "horizon": 1, "context": 1, "film": 1},
    {"counts": (7,), "latents": 1, "film": 0, "hidden": 3, "horizon": 1},
    {"counts": (37, 1, 0, 7), "width": 33, "latents": 17, "context": 5, "hidden": 130, "film": 67, "horizon": 19},
    {"counts": (0, 0)},
    {"counts": (140, 3), "width": 128, "latents": 8, "context": 48, "hidden": 128, "film": 70, "horizon": 16},
    {"counts": (20, 20), "width": 32, "latents": 4, "dropout": 0.0},
    {"counts": (20, 3), "width": 260, "latents": 33, "hidden": 8, "film": 8},
    {"counts": (7, 0, 130), "width": 140, "latents": 64, "hidden": 9, "film": 0, "horizon": 20},
    {"counts": (12, 3), "width": 257, "latents": 5, "hidden": 70, "film": 67, "context": 70, "horizon": 17},
]
WIDE = [
    {"counts": (9, 130), "width": 512, "latents": 64, "hidden": 16, "film": 16, "context": 48, "horizon": 16},
    {"counts": (3,), "width": 512, "latents": 1, "hidden": 3, "film": 3, "dropout": 0.0},
]
for shape in WIDE:
    parity.check_film(shape, torch.float32, by=triton)
for dtype in parity.TOLERANCES:
    for shape in POOL:
        parity.check_pool(shape, dtype, by=triton)
    for shape in FILM:
        parity.check_film(shape, dtype, by=triton)
""",
    )


def test_inference_by_the_whole_model(run_python) -> None:
    _interpret(
        run_python,
        """
from helpers import inference
from poco.ops import triton
SHAPES = [
    {"counts": (0, 30)},
    {"counts": ()},
    {"counts": (37, 1), "own": True, "segments": 2, "latents": 3, "width": 33, "head_width": 4, "heads": 3},
    {"counts": (1,), "latents": 1, "segments": 1, "length": 7, "width": 32, "head_width": 8, "heads": 1, "layers": 0},
    {"counts": (9,), "latents": 17, "width": 101, "head_width": 20, "heads": 3, "hidden": 130, "layers": 2},
    {"counts": (3, 2), "latents": 64, "width": 512, "head_width": 12, "heads": 2, "hidden": 10, "film": 10},
]
for dtype in inference.TOLERANCES:
    for shape in SHAPES:
        inference.check(shape, dtype, by=triton)
""",
    )


def test_what_is_between_the_passes_in_training(run_python) -> None:
    """There and back, with dropout; under autocast; wanted gradients alone; a NaN stays in its window."""
    _interpret(
        run_python,
        """
from helpers import latents, parity, relative_error
from helpers.latents import exact, inputs, results
from helpers.passes import replaced
from poco.ops import latent_transformer, latents_by_kernels, use_backend
SHAPES = [
    {"windows": 2, "layers": 2, "hidden": 130, "heads": 3},
    {"windows": 2, "own": True, "segments": 2, "latents": 3, "width": 33, "head_width": 4, "heads": 3},
    {"windows": 1, "latents": 1, "segments": 1, "width": 32, "head_width": 8, "heads": 1, "layers": 0},
    {"windows": 0},
    {"windows": 0, "own": True},
    {"windows": 3, "own": True, "latents": 16, "width": 101, "head_width": 20, "heads": 2, "hidden": 6},
]
SMALL = {"windows": 3, "width": 16, "head_width": 4, "heads": 2, "hidden": 5, "latents": 3, "own": True}
with use_backend("triton"):
    for dtype in parity.TOLERANCES:
        for shape in SHAPES:
            assert latents_by_kernels(inputs(**shape, dtype=dtype)[1])
            latents.check(shape, dtype)
    many = inputs(**{**SMALL, "latents": 17})
    assert not latents_by_kernels(many[1])
    parity.check(results(many), exact(many), 1e-5)

    arguments = inputs(**SMALL)
    everything = results(arguments)
    leaves = [t.clone().requires_grad_() for t in arguments[:2]]
    outputs = latent_transformer(*leaves, *arguments[2:])
    generator = torch.Generator().manual_seed(2)
    grads = [torch.randn(o.shape, generator=generator).to(torch.bfloat16).float() for o in outputs]
    for one, other in zip(torch.autograd.grad(outputs, leaves, grads), everything[2:4], strict=True):
        assert torch.equal(one, other)

    broken = replaced(arguments, 0, arguments[0].clone())
    broken[0][1, 1, 2, 7] = float("nan")
    window = torch.arange(3) == 1
    for one, other in zip(results(broken)[:4], everything[:4], strict=True):
        assert one[window].isnan().any()
        assert torch.equal(one[~window], other[~window])

    rounded = (arguments[0], arguments[1].bfloat16(), [p.bfloat16() for p in arguments[2]], *arguments[3:])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = results(arguments)
    assert [t.dtype for t in found[:2]] == [torch.bfloat16] * 2
    assert all(t.dtype == torch.float32 for t in found[2:])
    parity.check(found, exact(rounded), 2e-2)
outputs = None
with use_backend("triton"):
    outputs = latent_transformer(*leaves, *arguments[2:])
for one, other in zip(torch.autograd.grad(outputs, leaves, grads), everything[2:4], strict=True):
    assert torch.equal(one, other)  # by the kernels that kept what they read, whatever runs now
""",
    )


def test_ops_run_them_where_they_are_asked_for(run_python) -> None:
    """The backend on the CPU under the interpreter: registered, with autograd, chosen by name alone."""
    said = _interpret(
        run_python,
        """
from helpers import relative_error
from helpers.passes import differentiable, film_forecast_inputs, latent_pool_inputs
from poco.ops import backends, use_backend
print(backends.report()["triton"], backends.choose(torch.device("cpu")).name)
for op, inputs in (
    (torch.ops.poco.latent_pool, latent_pool_inputs((20, 3), dtype=torch.float32)),
    (torch.ops.poco.film_forecast, film_forecast_inputs((20, 3), dtype=torch.float32)),
):
    results = []
    for name in ("triton", "reference"):
        with use_backend(name):
            out = op(*inputs)
            out = out if isinstance(out, torch.Tensor) else out[0]
            results.append([out, *torch.autograd.grad(out.square().sum(), differentiable(inputs))])
    for mine, other in zip(*results, strict=True):
        assert relative_error(mine, other) < 1e-5
""",
    )
    assert said.startswith("(True, 'runs on cpu with float32, bfloat16, float16: interpreted, slowly")
    assert said.split()[-1] in ("cpu", "reference")


def test_a_nan_stays_in_its_row_and_window(run_python) -> None:
    """There and back, where tiles of rows span windows, and where a window is cut into parts."""
    _interpret(
        run_python,
        """
from helpers import parity
from poco.ops import triton

def check(found, expected, place):
    for one, other in zip(found, expected, strict=True):
        for window in range(3):
            rows = place(window, one)
            assert one[rows].isnan().any() == other[rows].isnan().any(), window
            if not other[rows].isnan().any():
                assert (one[rows] - other[rows]).abs().max() < 1e-4

counts, nan = (3, 150, 5), float("nan")
def rows(window, tensor):
    return slice((0, 3, 153)[window], (3, 153, 158)[window])
def windows(window, tensor):
    return slice(window, window + 1)
wide = {"width": 260, "hidden": 8, "film": 8}
for change, shape in (("x", {}), ("unit", {}), ("key", {}), ("value", {}), ("unit", wide), ("key", wide)):
    film = parity.film_inputs(counts=counts, table=158, dropout=0.0, **shape)
    film = (film[0], torch.arange(158).int(), *film[2:])
    for_rows = {"x": film[0], "unit": film[3]}
    (for_rows[change][100] if change in for_rows else film[4 if change == "key" else 5][1])[0] = nan
    mine, other = (parity.film_results(film, by=by) for by in (triton, parity.reference))
    assert other[0][100].isnan().all() and mine[0][100].isnan().all()
    check(mine[:3], other[:3], rows)  # forecasts, gradients of activity and units
    check(mine[3:5], other[3:5], windows)  # of keys and values
pool = parity.pool_inputs(counts=counts, table=158)
pool = (pool[0], torch.arange(158).int(), *pool[2:])
pool[0][100, 1] = nan
mine, other = (parity.pool_results(pool, by=by) for by in (triton, parity.reference))
assert mine[1][1].isnan().all()
check(mine[:2], other[:2], windows)
check(mine[2:4], other[2:4], rows)
""",
    )


def test_offsets_that_do_not_fit_the_rows_come_to_an_end(run_python) -> None:
    """Nobody checks them on a GPU: rows behind the last window read nothing, and no window behind it is looked at."""
    _interpret(
        run_python,
        """
from helpers import parity
from poco.ops import triton

empty = parity.film_inputs(counts=(), dropout=0.0)
stray = torch.tensor([5], dtype=torch.int32)
assert triton.film_forecast(torch.ones(9, empty[0].shape[1]), torch.zeros(9).int(), stray, *empty[3:]).isfinite().all()
for shape in ({}, {"width": 260, "hidden": 8, "film": 8}):
    film = parity.film_inputs(counts=(3, 150, 5), dropout=0.0, **shape)
    whole = triton.film_forecast(*film)
    for offsets in ([0, 3, 100, 101], [0, 3, 3, 3], [0, 3, 100, 90]):
        wrong = (*film[:2], torch.tensor(offsets, dtype=torch.int32), *film[3:])
        found = triton.film_forecast(*wrong)
        assert found.isfinite().all()
        assert torch.equal(found[:3], whole[:3])
        gradients = triton.film_forecast_backward(torch.ones_like(found), *wrong, (True,) * 20)
        assert gradients[0].isfinite().all()
""",
    )


def test_words_are_those_of_every_backend(run_python) -> None:
    """The same seed drops the same activations: words of any block of columns, against the core's."""
    _interpret(
        run_python,
        """
import triton, triton.language as tl
from poco import core
from poco.kernels.common import dropout_factor

@triton.jit
def kernel(out, seed, first_row, first, threshold, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    row = first_row + tl.arange(0, ROWS)
    factor = dropout_factor(seed, row, first, threshold, 1.25, ROWS, COLUMNS)
    tl.store(out + tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :], factor)

for seed in (0, 7, -3, 2**63 - 1):
    keep = torch.from_numpy(core.dropout_keep(seed, 40, 96, 0.2))
    found = torch.empty(32, 64)
    kernel[(1,)](found, seed, 8, 32, round(0.2 * 2**32), ROWS=32, COLUMNS=64)
    assert torch.equal(found, keep[8:, 32:] * 1.25)
    from poco.kernels.dropout import dropout_keep
    for shape in ((40, 96), (33, 70), (1, 3), (0, 4)):
        keep = torch.from_numpy(core.dropout_keep(seed, *shape, 0.2))
        assert torch.equal(dropout_keep(torch.tensor(seed), *shape, 0.2), keep.float())
        later = dropout_keep(torch.tensor(seed), shape[0], max(0, shape[1] - 8), 0.2, first=8)
        assert torch.equal(later, keep[:, 8:].float())
""",
    )
