"""Modules whose buffers must not lose precision when a model is cast to a lower one, or their values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class ExactBuffers(nn.Module):
    """A module whose own buffers follow it from device to device but keep their dtype.

    Those that no state dict holds are made again by :meth:`refill` after a module of no storage (``meta``,
    ``to_empty``) was given some.
    """

    def refill(self) -> None:
        """Makes the buffers that no state dict holds, where the others are."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        exact = {name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        super()._apply(fn, recurse)
        for name, buffer in exact.items():
            moved = self._buffers[name]
            if moved is not None and moved.dtype != buffer.dtype:
                self._buffers[name] = buffer.to(moved.device)
        self.refill()
        return self

    def _load_from_state_dict(self, *arguments: Any) -> None:
        super()._load_from_state_dict(*arguments)
        self.refill()  # what was assigned may lie elsewhere
