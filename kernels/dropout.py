"""The mask of dropout, for what is computed in plain torch on a GPU: no word of it comes from the processor."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from poco.kernels import launch
from poco.kernels.common import dropout_factor, store_matrix


@triton.jit(do_not_specialize=["rows", "first", "columns", "threshold"])
def dropout_keep_kernel(
    seed_pointer, keep, rows, first, columns, threshold, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr
):
    """One block of a mask of 0 and 1."""
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    begin = tl.program_id(1) * BLOCK_COLUMNS
    factor = dropout_factor(tl.load(seed_pointer), row, first + begin, threshold, 1.0, BLOCK_ROWS, BLOCK_COLUMNS)
    column = begin + tl.arange(0, BLOCK_COLUMNS)
    store_matrix(keep, factor, row.to(tl.int64), column, rows, columns, columns)


def dropout_keep(seed: Tensor, rows: int, columns: int, p: float, first: int = 0) -> Tensor:
    """``[rows, columns]`` float32, 1 for what is kept; see :func:`poco.ops.dropout.dropout_mask`."""
    keep = torch.empty(rows, columns, dtype=torch.float32, device=seed.device)
    if keep.numel():
        with launch.on(seed, {}):
            grid = (triton.cdiv(rows, 32), triton.cdiv(columns, 64))
            dropout_keep_kernel[grid](
                seed, keep, rows, first, columns, round(p * 2**32), BLOCK_ROWS=32, BLOCK_COLUMNS=64, num_warps=4
            )
    return keep
