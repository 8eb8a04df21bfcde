"""In which precision inputs are taken: by kernels, and under autocast."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def dense(tensor: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The tensor as kernels take it, itself if it is so already."""
    if tensor.dtype is dtype and tensor.is_contiguous():
        return tensor
    return tensor.detach().to(dtype).contiguous()


def common_dtype(tensors: Sequence[Tensor]) -> torch.dtype:
    """What kernels take these inputs in: bfloat16 if all are that, else float32."""
    for tensor in tensors:  # a loop, as a generator costs more than all the rest
        if tensor.dtype is not torch.bfloat16:
            return torch.float32
    return torch.bfloat16


def autocasts(like: Tensor) -> bool:
    """Whether autocast has an op take such a tensor in bfloat16, whichever type it is set to; float64 it leaves."""
    return torch.is_autocast_enabled(like.device.type) and like.dtype is not torch.float64


def as_given(device: torch.device) -> AbstractContextManager[object]:
    """Around what is computed from inputs that autocast was asked about already: it has no say in what is made of them.

    Around the forward of an op torch does this by itself, but not around a backward that is called under autocast.
    """
    on = torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if on else nullcontext()


def low(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The inputs of an op as it takes them under autocast; indices and float64 stay."""
    return [t.to(torch.bfloat16) if t.is_floating_point() and t.dtype is not torch.float64 else t for t in tensors]
