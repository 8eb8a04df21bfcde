"""In which precision inputs are taken: by kernels, and under autocast."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def dense(tensor: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The tensor as kernels take it, itself if it is so already."""
    if tensor.dtype is dtype and tensor.is_contiguous():
        return tensor
    return tensor.detach().to(dtype).contiguous()


def all_dense(tensors: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """The same of many."""
    if {t.dtype for t in tensors} == {dtype} and all(map(Tensor.is_contiguous, tensors)):
        return [*tensors]
    return [dense(tensor, dtype) for tensor in tensors]


def common_dtype(tensors: Sequence[Tensor]) -> torch.dtype:
    """What kernels take these inputs in: bfloat16 if all are that, else float32."""
    return torch.bfloat16 if {t.dtype for t in tensors} == {torch.bfloat16} else torch.float32


def autocasts(like: Tensor) -> bool:
    """Whether autocast has an op take such a tensor in bfloat16, whichever type it is set to; float64 it leaves."""
    return _autocast_is_on(like.device.type) and like.dtype is not torch.float64


def _autocast_is_on(device: str) -> bool:
    return device != "meta" and torch.is_autocast_enabled(device)  # of tensors without numbers torch knows no autocast


def as_given(device: torch.device) -> AbstractContextManager[object]:
    """Around what is computed from inputs that autocast was asked about already: it has no say in what is made of them.

    Around the forward of an op torch does this by itself, but not around a backward that is called under autocast.
    """
    return torch.autocast(device.type, enabled=False) if _autocast_is_on(device.type) else nullcontext()


def low(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    """The inputs of an op, activity first, as it takes them: under autocast in bfloat16; indices and float64 stay."""
    if not autocasts(tensors[0]):
        return tensors
    casts = (t.is_floating_point() and t.dtype is not torch.float64 for t in tensors)
    return cast(tensors, [torch.bfloat16 if one else t.dtype for t, one in zip(tensors, casts, strict=True)])


def cast(tensors: Sequence[Tensor], dtypes: Sequence[torch.dtype]) -> list[Tensor]:
    """Tensors in these dtypes; autograd casts their gradients back.

    Float32 tensors on a GPU that are to be bfloat16, or the other way round, are cast by one kernel: each by itself
    takes as long to launch as all of them take.
    """
    found = [*tensors]
    if found and found[0].is_cuda and not transforms_active():
        for given, wanted in ((torch.float32, torch.bfloat16), (torch.bfloat16, torch.float32)):
            places = [i for i, t in enumerate(found) if t.dtype is given and dtypes[i] is wanted]
            made = _Cast.apply(wanted, *(found[i] for i in places)) if len(places) > 1 else ()  # type: ignore[no-untyped-call]
            for i, t in zip(places, made, strict=False):
                found[i] = t
    return [t.to(dtype) for t, dtype in zip(found, dtypes, strict=True)]


class _Cast(torch.autograd.Function):
    """All of these to another dtype at once, and their gradients back."""

    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.dtype = tensors[0].dtype
        made = [torch.empty_like(t, dtype=dtype) for t in tensors]
        torch._foreach_copy_(made, list(tensors))
        needed = ctx.needs_input_grad[1:]
        ctx.mark_non_differentiable(*(t for t, needed_by in zip(made, needed, strict=True) if not needed_by))
        return tuple(made)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        there = [g for g in gradients if g is not None]
        made = iter(cast(there, [ctx.dtype] * len(there)))
        return (None, *(None if g is None else next(made) for g in gradients))


def transforms_active() -> bool:
    """Whether a compiler or a transform of ``torch.func`` looks on, and so no node of autograd may stand for ops."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
