"""poco.ops.dropout: the mask as a torch op."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from poco import core
from poco.ops.dropout import dropout_mask


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_is_what_the_core_keeps(dtype: torch.dtype) -> None:
    mask = dropout_mask(torch.tensor(-7), 13, 9, 0.3, dtype)
    assert mask.dtype == dtype
    keep = torch.from_numpy(core.dropout_keep(-7, 13, 9, 0.3))
    assert torch.equal(mask, keep.to(dtype).div(1 - 0.3))
    later = dropout_mask(torch.tensor(-7), 13, 5, 0.3, dtype, first=4)
    assert torch.equal(later, mask[:, 4:])
    assert later.is_contiguous()


@pytest.mark.parametrize("first", [0, 8])
def test_opcheck(first: int) -> None:
    torch.library.opcheck(torch.ops.poco.dropout_mask.default, (torch.tensor(3), 13, 9, 0.3, torch.float32, first))


def test_compiles_whole() -> None:
    def dropped(x: Tensor, seed: Tensor) -> Tensor:
        return x * dropout_mask(seed, *x.shape, 0.5, x.dtype)

    compiled = torch.compile(dropped, fullgraph=True, dynamic=True, backend="aot_eager")
    for rows in (3, 5):
        arguments = torch.ones(rows, 6), torch.tensor(rows)
        assert torch.equal(compiled(*arguments), dropped(*arguments))
