"""Batches of windows of different sessions, packed row after row."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch


@dataclass(frozen=True)
class PackedBatch:
    """Windows of one or more sessions; a row is one unit in one window.

    Attributes:
        x: ``[R, C]`` normalised activity, rows of all windows one after another.
        unit_index: ``[R]`` int32, row of the unit in a table of the units of all sessions, session after session.
        window_offsets: ``[W + 1]`` int32; window ``w`` is rows ``window_offsets[w]:window_offsets[w + 1]``.
        window_session: ``[W]`` int64, index of each window's session.
        target: ``[R, H]`` normalised activity of the frames to forecast, or None.
        window_start: ``[W]`` int64, first frame of each window in its recording, or None.
    """

    x: torch.Tensor
    unit_index: torch.Tensor
    window_offsets: torch.Tensor
    window_session: torch.Tensor
    target: torch.Tensor | None = None
    window_start: torch.Tensor | None = None

    def by_session(self) -> Iterator[tuple[int, torch.Tensor, torch.Tensor]]:
        """For each session its index, the places ``[B]`` of its windows in the batch, and their rows ``[B, N]``."""
        offsets = self.window_offsets.long()
        for session in self.window_session.unique().tolist():
            places = (self.window_session == session).nonzero()[:, 0]
            units = int(offsets[places[0] + 1] - offsets[places[0]])
            yield session, places, offsets[places][:, None] + torch.arange(units, device=offsets.device)

    def to_forecast(self) -> PackedBatch:
        """The same windows for a forecaster: tensors of its own, which it may write into, and no target."""
        return replace(self, target=None)._with_each(torch.clone)

    def to(self, device: torch.device | str) -> PackedBatch:
        """The same batch on another device."""
        return self._with_each(lambda tensor: tensor.to(device))

    def _with_each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> PackedBatch:
        changed: dict[str, Any] = {name: change(own) for name, own in vars(self).items() if own is not None}
        return PackedBatch(**changed)
