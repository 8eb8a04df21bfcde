"""What every launch needs: the device, precisions, blocks that hold a size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime.errors import OutOfResources

from poco.errors import BackendError

#: The interpreter takes bfloat16 for bits, so products there are in float32.
INTERPRETED: bool = triton.knobs.runtime.interpret
#: A product of float32 by matrix units: of three bfloat16 parts, or, before Triton 3.6, of three TF32 ones.
EXACT = "tf32x3" if triton.__version__.startswith("3.5.") else "bf16x6"


@contextmanager
def on(x: Tensor, sizes: Mapping[str, Any]) -> Iterator[None]:
    """Around launches, as Triton's go to the current device: makes it that of ``x``.

    Raises:
        BackendError: if the sizes do not fit on the chip.
    """
    with torch.cuda.device_of(x):
        try:
            yield
        except OutOfResources as error:
            named = ", ".join(f"{name} {sizes[name]}" for name in ("C", "H", "L", "Q", "d", "F", "K") if name in sizes)
            raise BackendError(
                f"this GPU cannot hold the Triton kernels for {named}: {error.name} of {error.required} where there is "
                f"{error.limit}; smaller sizes fit, and use_backend('reference') takes any"
            ) from error


def products(dtype: torch.dtype, width: int, latents: int) -> dict[str, object]:
    """How products are made of inputs of this type: the type of their factors, and of float32 the precision.

    float32 is cut into parts and products of those (:data:`EXACT`), which keeps its precision, unless torch is asked
    for TF32 (:func:`matrix_precision`). The parts of tokens much wider than the default ones, or of many latents, do
    not fit on the chip: those are multiplied as they are, without matrix units.
    """
    low = dtype is torch.bfloat16 and not INTERPRETED
    plain = INTERPRETED or width > 128 or latents > 16
    return {"FACTOR": tl.bfloat16 if low else tl.float32, "PRECISION": "ieee" if plain else matrix_precision()}


def matrix_precision() -> str:
    """How matrix units make products of float32: as one of TF32 where torch's own products are that.

    That is asked for by ``torch.backends.cuda.matmul.fp32_precision``, and by the older ``allow_tf32``, which must not
    be read where the newer one was set.
    """
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else EXACT


def wide(dtype: torch.dtype, width: int, latents: int) -> bool:
    """Whether pass 2 is for the kernels that take tokens and latents in parts, as more of them does not fit."""
    return dtype is torch.float32 and (width > 256 or (width > 128 and latents > 16))


def block_of(size: int) -> int:
    """The power of two that holds ``size``, at least 16, which is what matrix units take."""
    return max(16, 1 << (size - 1).bit_length())


def processors(device: torch.device) -> int:
    """Multiprocessors of the device; 1 where the interpreter plays one."""
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


def splits(windows: int, rows: int, block_rows: int, programs: int) -> int:
    """Into how many parts to cut every window, so that there are about ``programs`` of them with work for each."""
    tiles = -(-rows // (block_rows * max(1, windows)))  # of a window of average length
    return max(1, min(tiles, -(-programs // max(1, windows))))
