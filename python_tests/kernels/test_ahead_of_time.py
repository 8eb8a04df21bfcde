"""Every kernel compiles for every architecture in question, uses its matrix units, and spills nothing by default."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import pytest
import torch

if not importlib.util.find_spec("triton"):
    pytest.skip("needs Triton (Linux): the extra 'test'", allow_module_level=True)

from helpers import ahead_of_time, inference, parity
from helpers import latents as between_passes

from poco.kernels import (
    dropout,
    film_forecast,
    film_forecast_backward,
    latent_pool,
    latent_pool_backward,
    latent_transformer,
    latents,
    latents_backward,
    unit_sums,
)
from poco.kernels import inference as whole

MODULES = [latent_pool, latent_pool_backward, film_forecast, film_forecast_backward, unit_sums, latents, dropout]
BETWEEN = {"latent_ffn_kernel", "latent_attention_kernel", "latent_write_kernel"}
WITH_PRODUCTS = BETWEEN | {
    "latent_pool_kernel",
    "latent_pool_backward_kernel",
    "film_forecast_kernel",
    "film_backward_rows_kernel",
    "film_backward_latents_kernel",
    "film_backward_film_kernel",
    "film_backward_ffn_kernel",
}
DEFAULT = {"width": 128, "latents": 8}
PASSES = 9  # kernels of the two passes


def launches(arch: int, dtype: torch.dtype, rows: int, **other: int) -> dict[str, ahead_of_time.Launch]:
    """What training and inference with the default sizes, or others, launch, by the names of the kernels."""
    counts = {"counts": (rows,), "table": min(rows, 512)}
    size: dict[str, int] = {**DEFAULT, "context": 48, "horizon": 16, **other}
    both = {"width": size["width"], "latents": size["latents"], **counts}
    pool = parity.pool_inputs(**both, segments=size["context"] // 16, length=16)
    sizes = {"context": size["context"], "horizon": size["horizon"], "hidden": 512, "film": 1024}
    film = parity.film_inputs(**both, **sizes, dropout=0.2)
    pool, film = (tuple(parity._rounded(value, dtype) for value in inputs) for inputs in (pool, film))
    model = inference.inputs(**counts, hidden=512, film=1024, dtype=dtype)
    with ahead_of_time.recorded(MODULES, arch) as recorded:
        outputs = latent_pool.latent_pool(*pool)
        gradients = [torch.zeros_like(t) for t in outputs]
        latent_pool_backward.latent_pool_backward(*gradients, *outputs, *pool, (False,) + (True,) * 6)
        forecast = film_forecast.film_forecast(*film)
        film_forecast_backward.film_forecast_backward(forecast, *film, (False,) + (True,) * 19)
        if not other:  # of the default sizes alone, under the same names
            whole.inference(*model, None)
        dropout.dropout_keep(torch.tensor(1), 64, 2560, 0.4)
    return {launch.name: launch for launch in recorded}


def check(arch: int, dtype: torch.dtype, record_property) -> set[str]:
    """Compiles all of them, none of which may spill; those that use matrix units."""
    found = launches(arch, dtype, 512)
    assert len(found) == PASSES + 4
    return {compiled.name for compiled in compile_all(found, arch, record_property) if compiled.products()}


def compile_all(found: dict[str, ahead_of_time.Launch], arch: int, record_property) -> Iterator[ahead_of_time.Compiled]:
    for launch in found.values():
        compiled = launch.compile(arch)
        record_property(compiled.name, f"{compiled.registers} registers, {compiled.spills} bytes of spills")
        assert not compiled.spills, compiled.name
        yield compiled


@pytest.mark.parametrize("arch", [80, 90, 100])
def test_bfloat16(arch: int, record_property) -> None:
    assert check(arch, torch.bfloat16, record_property) == WITH_PRODUCTS


@pytest.mark.parametrize("arch", [80, 90, 100])
def test_one_tf32_product(arch: int, record_property) -> None:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        assert check(arch, torch.float32, record_property) == WITH_PRODUCTS
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


@pytest.mark.parametrize("arch", [80, 90, 100])
def test_exact_float32(arch: int, record_property) -> None:
    """Multiplied as it is in the passes, by parts between them."""
    assert check(arch, torch.float32, record_property) == BETWEEN


@pytest.mark.parametrize(("arch", "instruction"), [(80, "mma.sync"), (90, "wgmma.mma_async"), (100, "tcgen05.mma")])
def test_large_tiles_use_the_newest_matrix_instructions(arch: int, instruction: str, record_property) -> None:
    found = launches(arch, torch.bfloat16, 100_000)
    large = {name: found[name] for name in ("film_forecast_kernel", "latent_pool_kernel")}
    compiled, _ = compile_all(large, arch, record_property)
    assert instruction in compiled.products()
    assert "max.NaN.f32" in compiled.ptx  # of the MLP: a NaN is not taken for 0


SHARED = {80: 166_912, 86: 101_376, 90: 232_448}  # bytes that a program may have


@pytest.mark.parametrize(
    ("arch", "kernel", "sizes"),
    [
        (90, "film_forecast_kernel", {"context": 512}),
        (90, "film_forecast_kernel", {"horizon": 256}),
        (86, "film_forecast_kernel", {"context": 256, "horizon": 64}),
        (86, "film_forecast_kernel", {"width": 512, "latents": 64}),
        (86, "latent_pool_kernel", {"width": 512, "latents": 64}),
        (80, "film_backward_latents_kernel", {"width": 512, "latents": 64}),
    ],
    ids=str,
)
def test_other_sizes_fit_on_the_chip(arch: int, kernel: str, sizes: dict[str, int]) -> None:
    launch = launches(arch, torch.bfloat16, 2000, **sizes)[kernel]
    assert launch.compile(arch).shared <= SHARED[arch]


@pytest.mark.parametrize("arch", [80, 90])
def test_the_widest_float32_fits_on_the_chip(arch: int, record_property) -> None:
    """Every kernel of the two passes for 8.0, with what chips of 8.6 have; for 9.0 those for wide tokens alone."""
    smallest = 86 if arch == 80 else arch
    found = launches(arch, torch.float32, 2000, width=512, latents=64)
    assert {name for name in found if name.startswith("wide_")} == {
        "wide_film_forecast_kernel",
        "wide_film_rows_kernel",
        "wide_film_latents_kernel",
        "wide_film_ffn_kernel",
    }
    for launch in found.values():
        if arch == 90 and not launch.name.startswith("wide_"):
            continue
        compiled = launch.compile(arch)
        record_property(compiled.name, f"{compiled.shared} bytes of shared memory, {compiled.spills} of spills")
        assert compiled.shared <= SHARED[smallest], compiled.name
        assert compiled.spills < 3000, compiled.name


def between(arch: int, dtype: torch.dtype, **shape: int) -> dict[str, ahead_of_time.Launch]:
    """What training launches between the passes, there and back, by the names of the kernels."""
    pooled, initial, parameters, frequencies, *numbers = between_passes.inputs(windows=64, dtype=dtype, **shape)
    inputs = (pooled, initial, frequencies, parameters, *numbers, False)
    with ahead_of_time.recorded([latents, latents_backward], arch) as recorded:
        keys, values, kept = latent_transformer.latent_transformer(*inputs)
        latent_transformer.latent_transformer_backward(keys, values, kept, *inputs, [True] * 3)
    return {launch.name: launch for launch in recorded}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("arch", [80, 90, 100])
def test_between_the_passes_in_training(arch: int, dtype: torch.dtype, record_property) -> None:
    found = between(arch, dtype, hidden=512)
    assert len(found) == 7
    assert all(compiled.products() for compiled in compile_all(found, arch, record_property))


@pytest.mark.parametrize(
    ("dtype", "width", "count"),
    [(t, *sizes) for t in (torch.bfloat16, torch.float32) for sizes in latent_transformer.most_latents(t)],
)
def test_what_is_taken_between_the_passes_fits_on_the_chip(dtype: torch.dtype, width: int, count: int) -> None:
    for launch in between(86, dtype, width=width, latents=count, hidden=64).values():
        assert launch.compile(86).shared <= SHARED[86], launch.name


@pytest.mark.parametrize(
    ("dtype", "width", "latents", "fits"),
    [
        (torch.float32, 128, 16, True),
        (torch.float32, 128, 64, False),
        (torch.float32, 256, 8, False),
        (torch.bfloat16, 128, 64, True),
        (torch.bfloat16, 512, 32, True),
        (torch.bfloat16, 512, 64, False),
    ],
)
def test_latents_that_do_not_fit_on_the_chip_are_left_to_torch(
    dtype: torch.dtype, width: int, latents: int, fits: bool
) -> None:
    model = inference.inputs(counts=(5,), width=width, latents=latents, heads=2, hidden=8, film=8, dtype=dtype)
    with ahead_of_time.recorded(MODULES, 86) as recorded:
        whole.inference(*model, None)
    assert any(launch.name == "latent_ffn_kernel" for launch in recorded) == fits
