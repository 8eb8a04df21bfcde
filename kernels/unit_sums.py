"""Gradients of the unit table: many rows hit one unit, and are summed in the order in which they come."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from poco.kernels import launch


@triton.jit(do_not_specialize=["units"])
def unit_sums_kernel(
    rows,
    order,
    starts,
    sums,
    units,
    d: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_U: tl.constexpr,
):
    """Sums the rows of ``BLOCK_U`` units, one after another; rows ``starts[u]:starts[u + 1]`` of ``order`` are u's."""
    feature = tl.arange(0, BLOCK_D)
    first = tl.program_id(0) * BLOCK_U
    for unit in range(first, tl.minimum(first + BLOCK_U, units)):
        start = tl.load(starts + unit)
        stop = tl.load(starts + unit + 1)
        total = tl.zeros([BLOCK_D], tl.float32)
        for begin in range(start, stop, BLOCK_R):
            place = begin + tl.arange(0, BLOCK_R)
            row = tl.load(order + place, mask=place < stop, other=0)
            inside = (place[:, None] < stop) & (feature[None, :] < d)
            own = tl.load(rows + row[:, None] * d + feature[None, :], mask=inside, other=0.0)
            total += tl.sum(own.to(tl.float32), 0)
        place = tl.zeros([BLOCK_D], tl.int64) + unit
        tl.store(sums + place * d + feature, total, mask=feature < d)


def unit_sums(rows: Tensor, unit_index: Tensor, units: int) -> Tensor:
    """``[units, d]`` float32: sums of the rows ``[R, d]`` that belong to each unit; the same every time."""
    width = rows.shape[1]
    sums = rows.new_empty(units, width, dtype=torch.float32)
    if not units:
        return sums
    sorted_units, order = torch.sort(unit_index, stable=True)
    starts = torch.searchsorted(sorted_units, torch.arange(units + 1, dtype=unit_index.dtype, device=rows.device))
    # The interpreter takes milliseconds to start a program.
    at_once = -(-units // 4) if launch.INTERPRETED else 1
    unit_sums_kernel[(-(-units // at_once),)](
        rows,
        order,
        starts,
        sums,
        units,
        d=width,
        BLOCK_R=16,
        BLOCK_D=launch.block_of(width),
        BLOCK_U=at_once,
        num_warps=4,
    )
    return sums
