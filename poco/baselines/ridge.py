"""A linear map shared by all units, fitted in closed form."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from poco.data.packed import PackedBatch
from poco.data.splits import Split
from poco.data.windows import Packer

#: Penalties tried, each relative to the mean square of the inputs over all training rows.
PENALTIES: tuple[float, ...] = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


class Ridge(nn.Module):
    """``forecast = W context`` in normalised units, one ``W`` for all units of all sessions, no intercept.

    Ridge regression in closed form: the sums ``X'X`` and ``X'Y`` are collected in float64 over batches of training
    windows, so memory does not grow with the recordings, and the penalty is the one of :data:`PENALTIES` with the
    lowest pooled squared error on the validation windows. Shrinking goes towards the unit's mean, which is zero.

    Args:
        context: frames of the context.
        horizon: frames that are forecast.
    """

    weight: torch.Tensor

    def __init__(self, context: int, horizon: int) -> None:
        super().__init__()
        self.context, self.horizon = context, horizon
        self.register_buffer("weight", torch.zeros(horizon, context))
        self.penalty: float | None = None

    def forward_packed(self, batch: PackedBatch) -> torch.Tensor:
        """``[R, C]`` -> ``[R, H]``."""
        return batch.x @ self.weight.T

    @torch.no_grad()
    def fit(self, split: Split, penalties: Sequence[float] = PENALTIES) -> Ridge:
        """Fit on the training part, choose the penalty on the validation part.

        Args:
            split: recordings and their parts.
            penalties: penalties to choose from, relative to the mean square of the inputs times the number of rows.

        Returns:
            The fitted forecaster itself.
        """
        packer = Packer(split)
        gram, cross, _ = self._sums(packer, "train")
        scale = gram.diagonal().mean()
        identity = torch.eye(self.context, dtype=torch.float64)
        candidates = [torch.linalg.solve(gram + p * scale * identity, cross) for p in penalties]  # each [C, H]
        gram, cross, square = self._sums(packer, "val")
        # sum over rows of |y - x W|^2, from the sums alone
        errors = [float(square - 2 * (w * cross).sum() + (w * (gram @ w)).sum()) for w in candidates]
        best = min(range(len(errors)), key=errors.__getitem__)
        self.penalty = penalties[best]
        self.weight.copy_(candidates[best].T)
        return self

    def _sums(self, packer: Packer, part: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """``X'X [C, C]``, ``X'Y [C, H]`` and the sum of ``Y * Y``, float64, over all windows of a part."""
        gram = torch.zeros(self.context, self.context, dtype=torch.float64)
        cross = torch.zeros(self.context, self.horizon, dtype=torch.float64)
        square = torch.zeros((), dtype=torch.float64)
        for _, batch in packer.batches(packer.split.windows(part)):
            assert batch.target is not None
            x, y = batch.x.double(), batch.target.double()
            gram += x.T @ x
            cross += x.T @ y
            square += y.square().sum()
        return gram, cross, square
