"""Tile sizes: which blocks, warps and stages each kernel takes, by architecture, precision, width and rows."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from poco.kernels.launch import INTERPRETED, block_of, tf32

# What the table was made with (C = 48, H = L = 16, Q = 8): larger blocks of these take more memory than was there then.
_TUNED = {"BLOCK_C": 64, "BLOCK_H": 16, "BLOCK_L": 16, "BLOCK_Q": 16}
TABLE = Path(__file__).with_name("tiles.json")


@dataclass(frozen=True)
class Tile:
    """How a kernel is launched.

    Attributes:
        blocks: sizes of its blocks, by the names of its arguments.
        options: ``num_warps`` and ``num_stages``.
    """

    blocks: dict[str, int]
    options: dict[str, int] = field(default_factory=dict)


def architecture(device: torch.device) -> int:
    """Compute capability of the device as one number, 90 for 9.0; 0 where there is none."""
    if device.type != "cuda":
        return 0
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def tile(kernel: str, x: Tensor, *, rows: int, sizes: Mapping[str, Any]) -> Tile:
    """The tile of a kernel for so many rows, in the precision of ``x``.

    The table is for sizes that its blocks divide and that are no larger than those it was made with; others get the
    smallest tile.

    Args:
        kernel: its name in the table.
        x: activity as the kernel takes it.
        rows: rows in all windows.
        sizes: what the kernel is called with: ``d`` and, where it has them, ``F``, ``K`` and blocks of other sizes.
    """
    if INTERPRETED:
        return _interpreted(kernel)
    dtype = "bfloat16" if x.dtype is torch.bfloat16 else "float32"
    if dtype == "float32" and tf32():
        dtype = "tf32"
    block_width = block_of(sizes["d"])
    chosen = choose(kernel, architecture(x.device), dtype, block_width, rows)
    divided = all(sizes[size] % chosen.blocks.get(f"BLOCK_{size}", 1) == 0 for size in ("F", "K") if size in sizes)
    small = all(sizes.get(block, most) <= most for block, most in _TUNED.items())
    if divided and small and sizes["d"] == block_width:
        return chosen
    return safe(kernel, dtype, block_width, small)


def _interpreted(kernel: str) -> Tile:
    blocks = dict.fromkeys(safe(kernel, "float32", 128).blocks, 64)
    if "BLOCK_R" in blocks:
        blocks["BLOCK_R"] = 128  # few large programs: each takes milliseconds to start
    return Tile(blocks)


@functools.cache
def choose(kernel: str, arch: int, dtype: str, block_width: int, rows: int) -> Tile:
    """The tile in the table for a device of this architecture, or where it has none one that fits everywhere."""
    best = None
    for entry in _table():
        if (entry["kernel"], entry["dtype"], entry["width"]) != (kernel, dtype, block_width) or entry["arch"] > arch:
            continue
        # Of the newest architecture not above this one, the smallest entry that is meant for so many rows.
        if entry["rows"] is not None and rows > entry["rows"]:
            continue
        rank = (-entry["arch"], entry["rows"] if entry["rows"] is not None else 2**62)
        if best is None or rank < best[0]:
            best = (rank, entry)
    if best is None:
        return safe(kernel, dtype, block_width)
    return Tile(dict(best[1]["blocks"]), dict(best[1]["options"]))


@functools.cache
def _table() -> list[dict[str, Any]]:
    return json.loads(TABLE.read_text()) if TABLE.exists() else []  # type: ignore[no-any-return]


def safe(kernel: str, dtype: str, block_width: int, small: bool = True) -> Tile:
    """The tile that takes least shared memory, or about; ``small`` if no other block is larger than in the table."""
    narrow = block_width <= 128
    rows = columns = 32 if narrow and small and dtype != "float32" else 16
    options = {"num_warps": 4 if narrow and dtype == "bfloat16" else 8, "num_stages": 1}
    blocks = {
        "latent_pool": {"BLOCK_R": rows},
        "latent_pool_backward": {"BLOCK_R": rows},
        "film_forecast": {"BLOCK_R": rows, "BLOCK_F": columns, "BLOCK_K": columns},
        "film_forecast_backward": {"BLOCK_R": rows, "BLOCK_F": columns, "BLOCK_K": columns},
        "film_forecast_ffn": {"BLOCK_R": rows, "BLOCK_F": columns},
        "film_forecast_film": {"BLOCK_R": rows, "BLOCK_K": columns},
        "film_forecast_latents": {"BLOCK_R": rows},
    }
    return Tile(blocks[kernel], options)
