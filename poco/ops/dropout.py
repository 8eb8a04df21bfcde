"""What is dropped, as a torch custom op, so that it can be compiled: ``torch.ops.poco.dropout_mask``."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from poco import core
from poco.modules import is_installed

torch.library.define(
    "poco::dropout_mask",
    "(Tensor seed, SymInt rows, SymInt columns, float p, ScalarType dtype, SymInt first) -> Tensor",
)


def dropout_mask(seed: Tensor, rows: int, columns: int, p: float, dtype: torch.dtype, first: int = 0) -> Tensor:
    """Mask ``[rows, columns]`` of 0 and ``1 / (1 - p)``, drawn by Philox 4x32-10 at (row, column), key ``seed``.

    It is drawn where the seed is: on a GPU by a Triton kernel, or without Triton by the processor.

    Source: Salmon et al., Parallel random numbers: as easy as 1, 2, 3 (2011).

    Args:
        seed: one int64.
        rows: of the mask.
        columns: of the mask.
        p: probability in ``[0, 1)`` that an element is 0.
        dtype: of the mask.
        first: column of the words that the mask begins with, a multiple of 4.
    """
    return cast("Tensor", torch.ops.poco.dropout_mask(seed, rows, columns, p, dtype, first))


@torch.library.impl("poco::dropout_mask", "CompositeExplicitAutograd")
def _draw(seed: Tensor, rows: int, columns: int, p: float, dtype: torch.dtype, first: int) -> Tensor:
    if seed.is_cuda and is_installed("triton"):
        from poco.kernels.dropout import dropout_keep

        keep = dropout_keep(seed, rows, columns, p, first)
    else:
        keep = torch.from_numpy(core.dropout_keep(int(seed), rows, first + columns, p))[:, first:]
    return keep.to(device=seed.device, dtype=dtype).div_(1 - p)


@torch.library.register_fake("poco::dropout_mask")
def _fake(seed: Tensor, rows: int, columns: int, p: float, dtype: torch.dtype, first: int) -> Tensor:
    return seed.new_empty((rows, columns), dtype=dtype)
