"""The ops under ``torch.vmap``: one call for each, as what an op takes at once is packed already."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def one_by_one(op: Callable[..., Any]) -> None:
    """Registers for an op of ``torch.ops.poco`` that vmap calls it for each element, and stacks what comes out."""

    def rule(info: Any, dims: tuple[Any, ...], *inputs: Any) -> tuple[Any, Any]:
        if not info.batch_size:
            raise NotImplementedError(f"{op._qualified_op_name} takes no vmap over nothing: a dimension has size 0")  # type: ignore[attr-defined]
        each = [op(*_element(inputs, dims, i)) for i in range(info.batch_size)]
        if isinstance(each[0], Tensor):
            return torch.stack(each), 0
        return tuple(map(torch.stack, zip(*each, strict=True))), (0,) * len(each[0])

    torch.library.register_vmap(op._qualified_op_name, rule)  # type: ignore[attr-defined]


def _element(values: Any, dims: Any, i: int) -> Any:
    """Element ``i`` of what is mapped over, and of lists of it; all else as it is."""
    if isinstance(values, list | tuple):
        dims = [None] * len(values) if dims is None else dims
        return [_element(value, dim, i) for value, dim in zip(values, dims, strict=True)]
    return values if dims is None else values.select(dims, i)
