"""The fused CPU kernels: parity with the reference in float64, threads, processes, and what they refuse."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import parity, relative_error
from helpers.needs import needs_kernels
from helpers.passes import differentiable, film_forecast_inputs, latent_pool_inputs
from torch import Tensor

from poco import core
from poco.errors import BackendError
from poco.ops import backends, use_backend

pytestmark = needs_kernels
TESTS = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("dtype", parity.TOLERANCES, ids=str)
@pytest.mark.parametrize("shape", parity.POOL_SHAPES, ids=str)
def test_latent_pool_is_the_reference(shape: dict[str, Any], dtype: torch.dtype) -> None:
    parity.check_pool(shape, dtype)


def _pool_errors(inputs: list[Any]) -> float:
    """The largest relative error of the results of pass 1."""
    exact = parity.pool_results(
        tuple(t.double() if torch.is_tensor(t) and t.is_floating_point() else t for t in inputs), by=parity.reference
    )
    return max(
        relative_error(one, other)
        for one, other in zip(parity.pool_results(tuple(inputs)), exact, strict=True)
        if one is not None and other is not None and other.abs().max() > parity.TINY
    )


@pytest.mark.parametrize("changed", ["x", "units", "token_weight", "token_bias"])
def test_latent_pool_keeps_its_accuracy_with_large_offsets(changed: str) -> None:
    """Far from zero, all by the same: the layer normalisation takes most of it away again."""
    inputs = list(parity.pool_inputs(counts=(300, 40), width=128, segments=3, length=16, latents=8, table=300))
    position, offset = {"x": (0, 100), "units": (3, 100), "token_weight": (4, 10), "token_bias": (5, 100)}[changed]
    inputs[position] = inputs[position] + offset
    assert _pool_errors(inputs) < 1e-5


@pytest.mark.parametrize("width", [1, 2, 3, 128])
def test_latent_pool_where_tokens_are_small_differences(width: int) -> None:
    """The unit and what is added to it almost cancel, in narrow tokens by chance."""
    inputs = list(parity.pool_inputs(counts=(700,), width=width, segments=3, length=16, latents=8, table=700))
    if width == 128:
        x, token_weight, token_bias = inputs[0], inputs[4], inputs[5]
        inputs[1] = torch.arange(700).int()
        inputs[3] = inputs[3] * 0.01 - x[:, :16] @ token_weight.T - token_bias
    assert _pool_errors(inputs) < 1e-4


@pytest.mark.parametrize("dtype", parity.TOLERANCES, ids=str)
@pytest.mark.parametrize("shape", parity.FILM_SHAPES, ids=str)
def test_film_forecast_is_the_reference(shape: dict[str, Any], dtype: torch.dtype) -> None:
    parity.check_film(shape, dtype)


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512", "avx512_bf16", "amx"])
def test_every_instruction_set_whatever_memory_held(run_python, isa: str) -> None:
    """Fresh memory is filled with huge numbers: by torch in its tensors, by the C library elsewhere."""
    code = """
import torch
torch.use_deterministic_algorithms(True)  # torch.empty gives NaN
from poco import core
print(core.build_info().get("isa", core.available()[1]))
from helpers import inference, latents, parity
for of in (parity, latents, inference):
    of.check_all()
"""
    poison = {"MALLOC_PERTURB_": "1", "MALLOC_MMAP_THRESHOLD_": "1000000000", "MALLOC_TOP_PAD_": "1000000"}
    done = run_python(code, env={"POCO_CPU": isa, **poison}, path=(TESTS,), check=False)
    if "cannot run on this processor" in done.stderr:
        pytest.skip(f"this processor cannot run {isa}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == isa


def _same(a: list[Tensor | None], b: list[Tensor | None]) -> bool:
    """Bit for bit."""
    return all(
        (one is None and other is None) or torch.equal(one.view(torch.int32), other.view(torch.int32))
        for one, other in zip(a, b, strict=True)
        if one is None or one.numel()
    )


POOL_SHAPE: dict[str, Any] = {"counts": (700, 3, 900), "table": 800, "width": 33, "latents": 5}
FILM_SHAPE: dict[str, Any] = {**POOL_SHAPE, "hidden": 40, "film": 50, "horizon": 5}


def test_results_do_not_depend_on_threads(threads) -> None:
    pool, film = parity.pool_inputs(**POOL_SHAPE), parity.film_inputs(**FILM_SHAPE)
    shared = parity.pool_inputs(**POOL_SHAPE, shared_queries=True)
    threads(1)
    expected = parity.pool_results(pool), parity.pool_results(shared), parity.film_results(film)
    for count in (2, 3, 7):
        threads(count)
        for _ in range(3):
            found = parity.pool_results(pool), parity.pool_results(shared), parity.film_results(film)
            assert all(_same(a, b) for a, b in zip(found, expected, strict=True))


def test_calls_from_several_threads_at_once(threads) -> None:
    threads(2)
    pool, film = parity.pool_inputs(**POOL_SHAPE), parity.film_inputs(**FILM_SHAPE)
    expected = parity.pool_results(pool), parity.film_results(film)
    right = []

    def work() -> None:
        for _ in range(5):
            right.append(_same(parity.pool_results(pool), expected[0]))
            right.append(_same(parity.film_results(film), expected[1]))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(right) == 40
    assert all(right)


def test_works_after_fork(run_python) -> None:
    code = """
import os, warnings
import torch
from helpers import parity
torch.set_num_threads(3)
inputs = parity.film_inputs(counts=(900,), table=900)
pool = parity.pool_inputs(counts=(900,), table=900)
def run():
    return [*parity.film_results(inputs), *parity.pool_results(pool)]
before = run()
warnings.simplefilter("ignore", DeprecationWarning)
child = os.fork()
again = all(torch.equal(a, b) for _ in range(3) for a, b in zip(run(), before))
if child == 0:
    os._exit(0 if again else 1)
assert again
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""
    run_python(code, path=(TESTS,))


def test_only_wanted_gradients_are_the_same() -> None:
    pool, film = parity.pool_inputs(**POOL_SHAPE), parity.film_inputs(**FILM_SHAPE)
    for inputs, results, count in ((pool, parity.pool_results, 7), (film, parity.film_results, 20)):
        everything = results(inputs)
        outputs = len(everything) - count
        for wanted in ([], [1], [1, 2, 3], [0], [4, 6], list(range(1, count))):
            needs = [i in wanted for i in range(count)]
            found = results(inputs, needs)[outputs:]
            assert [g is not None for g in found] == needs
            for one, other in zip(found, everything[outputs:], strict=True):
                assert one is None or relative_error(one, other) < 1e-6


def test_a_nan_stays_in_its_row_and_window() -> None:
    film = parity.film_inputs(counts=(50, 60), table=40, dropout=0.0)
    film[0][70, 2] = float("nan")
    broken = parity.film_results(film, [False] * 20)[0].isnan()
    assert broken[70].all()
    assert not broken[:70].any()
    assert not broken[71:].any()
    pool = parity.pool_inputs(counts=(50, 60, 300), table=40)
    pool[0][70, 2] = float("nan")
    pooled, logsumexp = parity.pool_results(pool, [False] * 7)[:2]
    assert pooled[1].isnan().any()
    assert logsumexp[1].isnan().all()
    for window in (0, 2):
        assert pooled[window].isfinite().all()
        assert logsumexp[window].isfinite().all()


@pytest.mark.parametrize("dtype", parity.TOLERANCES, ids=str)
@pytest.mark.parametrize("row", [3, 6, 7, 11])
def test_a_nan_stays_in_its_window_on_the_way_back(row: int, dtype: torch.dtype) -> None:
    """Also where windows begin and end at odd rows, which bfloat16 takes in pairs."""
    film = tuple(parity._rounded(value, dtype) for value in parity.film_inputs(counts=(3, 4, 5), width=32))
    expected = parity.film_results(film)
    film[0][row, 2] = float("nan")
    found = parity.film_results(film)
    window = int(row >= 7) + 1
    for one, other in zip(found[3:5], expected[3:5], strict=True):  # gradients of keys and values
        assert one is not None
        assert other is not None
        for w in range(3):
            assert bool(one[w].isnan().any()) == (w == window)
            assert w == window or torch.equal(one[w], other[w])


def test_inputs_of_any_layout_and_other_seeds() -> None:
    film = list(parity.film_inputs(counts=(50, 60), table=40))
    film[-2] = torch.tensor(-3)
    expected = parity.film_results(tuple(film))
    parity.check(expected, parity.film_results(tuple(film), by=parity.reference), 1e-5)
    film[0] = film[0].T.contiguous().T
    film[3] = torch.stack([film[3], film[3]], -1)[..., 0]
    assert _same(parity.film_results(tuple(film)), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_widened(dtype: torch.dtype) -> None:
    for make, op in (
        (latent_pool_inputs, torch.ops.poco.latent_pool),
        (film_forecast_inputs, torch.ops.poco.film_forecast),
    ):
        inputs = make((37, 1, 7), width=33, table=40, dtype=dtype)

        def run(name: str, op: Any = op, inputs: tuple[Any, ...] = inputs) -> list[Tensor]:
            with use_backend(name):
                out = op(*inputs)
                first = out[0] if isinstance(out, tuple) else out
                return [first, *torch.autograd.grad(first.float().square().sum(), differentiable(inputs))]

        for mine, other in zip(run("cpu"), run("reference"), strict=True):
            assert mine.dtype == other.dtype
            if other.abs().max() > 1e-6:
                assert relative_error(mine, other) < (1e-2 if dtype == torch.bfloat16 else 1e-3)


def test_chosen_by_device_and_dtype() -> None:
    device = torch.device("cpu")
    assert backends.choose(device, torch.float32).name == "cpu"
    assert backends.choose(device, torch.bfloat16).name == "cpu"
    assert backends.choose(device, torch.float64).name == "reference"
    with use_backend("cpu"):
        with pytest.raises(BackendError, match=r"backend 'cpu' runs on cpu with float32, .*; the tensors are float64"):
            torch.ops.poco.latent_pool(*latent_pool_inputs())
        with pytest.raises(BackendError, match="the tensors are float32 on meta"):
            backends.choose(torch.device("meta"))
    assert core.build_info()["isa"] in backends.report()["cpu"][1]


def test_without_the_core_the_reference_is_chosen_and_the_reason_told(run_python) -> None:
    code = """
import torch
from poco.ops import backends
print(backends.report()["cpu"], backends.choose(torch.device("cpu")).name)
"""
    done = run_python(code, env={"POCO_CORE": "off"})
    assert "(False, 'the compiled core is not in use: switched off by POCO_CORE=off') reference" in done.stdout


def test_kernels_name_what_is_missing_or_not_known() -> None:
    with pytest.raises(BackendError, match="latent_pool: the argument rows is missing"):
        core.run_kernel("latent_pool_float32", {})
