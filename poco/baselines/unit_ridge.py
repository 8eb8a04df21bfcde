"""A linear map for each unit, fitted in closed form."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from poco.baselines.ridge import PENALTIES
from poco.baselines.windows import OfSessions
from poco.data.splits import Split
from poco.data.windows import Packer
from poco.nn.vocabulary import SessionSpec


class UnitRidge(OfSessions):
    """``forecast = W_n context`` in normalised units, one ``W_n [H, C]`` a unit, no intercept.

    Hoerl and Kennard, "Ridge regression", Technometrics 1970. The penalty, relative to the mean square of the unit's
    inputs, is the one of :data:`poco.baselines.ridge.PENALTIES` with the lowest pooled error on validation windows.

    Args:
        context: frames of the context.
        horizon: frames that are forecast.
        sessions: the sessions that it is fitted to.
    """

    def __init__(self, context: int, horizon: int, sessions: Sequence[SessionSpec]) -> None:
        super().__init__(context, horizon, sessions)
        for index, spec in enumerate(self.sessions):
            self.register_buffer(f"weight_{index}", torch.zeros(len(spec.units), context, horizon))
        self.penalty: float | None = None

    def forecast(self, x: Tensor, session: int) -> Tensor:
        """``[B, N, C]`` -> ``[B, N, H]``."""
        return torch.einsum("bnc,nch->bnh", x, self.get_buffer(f"weight_{session}"))

    @torch.no_grad()
    def fit(self, split: Split, penalties: Sequence[float] = PENALTIES) -> UnitRidge:
        """Fit on the training part, choose the penalty on the validation part; returns itself."""
        packer = Packer(split, self.sessions)
        train, val = self._sums(packer, "train"), self._sums(packer, "val")
        identity = torch.eye(self.context, dtype=torch.float64)
        candidates, errors = [], []
        for penalty in penalties:
            weights, error = [], 0.0
            for (gram, cross), (val_gram, val_cross) in zip(train, val, strict=True):
                scale = gram.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12)[:, None, None]
                weight = torch.linalg.solve(gram + penalty * scale * identity, cross)
                error += float((weight * (val_gram @ weight) - 2 * weight * val_cross).sum())
                weights.append(weight)
            candidates.append(weights)
            errors.append(error)
        best = min(range(len(errors)), key=errors.__getitem__)
        self.penalty = penalties[best]
        for index, weight in enumerate(candidates[best]):
            self.get_buffer(f"weight_{index}").copy_(weight)
        return self

    def _sums(self, packer: Packer, part: str) -> list[tuple[Tensor, Tensor]]:
        """``X'X [N, C, C]`` and ``X'Y [N, C, H]`` of each session, float64."""
        context, horizon = self.context, self.horizon
        sums = [
            (
                torch.zeros(len(spec.units), context, context, dtype=torch.float64),
                torch.zeros(len(spec.units), context, horizon, dtype=torch.float64),
            )
            for spec in self.sessions
        ]
        for _, batch in packer.batches(packer.split.windows(part)):
            assert batch.target is not None
            for session, _, rows in batch.by_session():
                x, y = batch.x[rows].double().transpose(0, 1), batch.target[rows].double().transpose(0, 1)
                sums[session][0].add_(x.mT @ x)
                sums[session][1].add_(x.mT @ y)
        return sums
