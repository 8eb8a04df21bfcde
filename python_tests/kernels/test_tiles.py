"""poco.kernels.tiles: the table, and who gets what from it."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch

if not importlib.util.find_spec("triton"):
    pytest.skip("needs Triton (Linux): the extra 'test'", allow_module_level=True)

from triton.runtime.errors import OutOfResources

from poco.errors import BackendError
from poco.kernels import launch, tiles

KERNELS = ("latent_pool", "latent_pool_backward", "film_forecast", "film_forecast_backward")
PARTS = ("film_forecast_ffn", "film_forecast_film", "film_forecast_latents")
SIZES: dict[str, Any] = {"d": 128, "F": 512, "K": 1024}


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """Activity on what is taken for a GPU of compute capability 9.0."""
    monkeypatch.setattr(tiles, "architecture", lambda device: 90)
    return torch.zeros(1, 48, dtype=torch.bfloat16)


def test_every_entry_is_for_a_kernel_and_names_its_blocks() -> None:
    for entry in tiles._table():
        safe = tiles.safe(entry["kernel"], entry["dtype"], entry["width"])
        assert set(entry["blocks"]) == set(safe.blocks)
        assert set(entry["options"]) == {"num_warps", "num_stages"}
        assert entry["blocks"]["BLOCK_R"] < 64 or entry["options"]["num_warps"] != 8 or entry["blocks"]["BLOCK_R"] > 64


@pytest.mark.parametrize("kernel", [*KERNELS, *PARTS])
def test_there_is_a_tile_for_everything(kernel: str) -> None:
    for arch in (75, 80, 86, 90, 100, 120):
        for dtype in ("bfloat16", "tf32", "float32"):
            for width in (16, 128, 512):
                tile = tiles.choose(kernel, arch, dtype, width, 1000)
                assert tile.blocks["BLOCK_R"] >= 16
                if width != 128 or arch < 80:
                    assert tile == tiles.safe(kernel, dtype, width)


def test_the_newest_architecture_not_above_and_the_smallest_rows_that_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    def entry(arch: int, rows: int | None, block: int) -> dict[str, Any]:
        sizes = {"kernel": "latent_pool", "dtype": "bfloat16", "width": 128}
        return {**sizes, "arch": arch, "rows": rows, "blocks": {"BLOCK_R": block}, "options": {}}

    table = [entry(80, None, 1), entry(90, None, 2), entry(90, 100, 3), entry(90, 10, 4), entry(100, 10, 5)]
    monkeypatch.setattr(tiles, "_table", lambda: table)
    choose = tiles.choose.__wrapped__

    def block(arch: int, rows: int) -> int:
        return choose("latent_pool", arch, "bfloat16", 128, rows).blocks["BLOCK_R"]  # type: ignore[no-any-return]

    assert [block(86, 5), block(90, 5), block(90, 11), block(90, 101)] == [1, 4, 3, 2]
    assert [block(100, 5), block(100, 50)] == [5, 3]


def test_sizes_that_the_blocks_do_not_divide_get_the_tile_that_fits_everywhere(hopper: torch.Tensor) -> None:
    tuned = tiles.tile("film_forecast", hopper, rows=100_000, sizes=SIZES)
    assert tuned == tiles.choose("film_forecast", 90, "bfloat16", 128, 100_000)
    for size, other in (("d", 100), ("F", 510), ("K", 1000)):
        odd = tiles.tile("film_forecast", hopper, rows=100_000, sizes={**SIZES, size: other})
        assert odd == tiles.safe("film_forecast", "bfloat16", 128) != tuned


def test_sizes_beyond_those_that_were_tuned_for_get_a_smaller_one(hopper: torch.Tensor) -> None:
    for block, size in (("BLOCK_C", 128), ("BLOCK_H", 32), ("BLOCK_Q", 32), ("BLOCK_L", 64)):
        large = tiles.tile("film_forecast", hopper, rows=100_000, sizes={**SIZES, block: size})
        assert large == tiles.safe("film_forecast", "bfloat16", 128, small=False)
        assert set(large.blocks.values()) == {16}


@pytest.mark.parametrize("setting", ["allow_tf32", "fp32_precision"])
def test_products_of_tf32_are_asked_for_in_either_way(setting: str, hopper: torch.Tensor) -> None:
    matmul = torch.backends.cuda.matmul
    exact = tiles.tile("film_forecast", hopper.float(), rows=512, sizes=SIZES)
    try:
        setattr(matmul, setting, True if setting == "allow_tf32" else "tf32")
        assert launch.tf32()
        quick = tiles.tile("film_forecast", hopper.float(), rows=512, sizes=SIZES)
    finally:
        matmul.allow_tf32 = False  # of both
    assert not launch.tf32()
    assert exact == tiles.choose("film_forecast", 90, "float32", 128, 512)
    assert quick == tiles.choose("film_forecast", 90, "tf32", 128, 512)


def test_what_does_not_fit_on_the_chip_is_said_with_its_sizes(hopper: torch.Tensor) -> None:
    says = r"for C 4096, Q 8, d 128: shared memory of 300000 where there is 232448"
    with pytest.raises(BackendError, match=says), launch.on(hopper, {"C": 4096, "d": 128, "Q": 8, "eps": 1e-5}):
        raise OutOfResources(300_000, 232_448, "shared memory")
