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
#: A product of float32 by matrix units: of three bfloat16 parts, or, in the interpreter and Triton 3.5, of TF32 ones.
PARTS = "tf32x3" if INTERPRETED or triton.__version__.startswith("3.5.") else "bf16x6"


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


def products(dtype: torch.dtype, width: int, latents: int, exact: str = "ieee") -> dict[str, object]:
    """How products are made of inputs of this type: the type of their factors, and of float32 the precision.

    That is ``exact``, multiplied and added as they are or :data:`PARTS`, unless torch is asked for TF32: but factors of
    TF32 of tokens much wider than the default ones, or of many latents, do not fit on the chip.
    """
    if dtype is torch.bfloat16:
        return {"FACTOR": tl.float32 if INTERPRETED else tl.bfloat16, "PRECISION": "ieee"}
    fit = width <= 128 and latents <= 16
    return {"FACTOR": tl.float32, "PRECISION": "tf32" if tf32() and fit else exact}


def tf32() -> bool:
    """Whether products of float32 are one of TF32 by matrix units, as torch's own products are where that is asked for.

    That is by ``torch.backends.cuda.matmul.fp32_precision``, or the older ``allow_tf32``, which must not be read where
    the newer one was set.
    """
    return torch.backends.cuda.matmul.fp32_precision == "tf32"


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
