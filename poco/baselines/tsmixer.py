"""TSMixer: linear layers along time and along units in turn."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from poco.baselines.windows import OfSessions
from poco.nn.vocabulary import SessionSpec


class TSMixer(OfSessions):
    """Residual blocks: ``relu(linear)`` along time, an MLP ``N -> 64 -> N`` along units; then ``C -> H``.

    After Chen et al., "TSMixer: an all-MLP architecture for time series forecasting", TMLR 2023. What a layer takes is
    normalised along time or along units, not over the batch. Layers along time are shared by all sessions, those along
    units belong to one.

    Args:
        context: frames of the context.
        horizon: frames that are forecast.
        sessions: the sessions that it knows.
        width: hidden units along units.
        blocks: number of blocks.
        dropout: dropout after each layer.
    """

    def __init__(
        self,
        context: int,
        horizon: int,
        sessions: Sequence[SessionSpec],
        width: int = 64,
        blocks: int = 2,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(context, horizon, sessions)
        self.dropout = dropout
        self.time = nn.ModuleList(nn.Linear(context, context) for _ in range(blocks))
        self.time_norm = nn.ModuleList(nn.LayerNorm(context) for _ in range(blocks))
        self.units = nn.ModuleList(
            nn.ModuleList(
                nn.Sequential(
                    nn.LayerNorm(len(spec.units)),
                    nn.Linear(len(spec.units), width),
                    nn.ReLU(),
                    nn.Dropout(dropout),
                    nn.Linear(width, len(spec.units)),
                    nn.Dropout(dropout),
                )
                for spec in self.sessions
            )
            for _ in range(blocks)
        )
        self.read_out = nn.Linear(context, horizon)

    def forecast(self, x: Tensor, session: int) -> Tensor:
        """``[B, N, C]`` -> ``[B, N, H]``."""
        for time, norm, units in zip(self.time, self.time_norm, self.units, strict=True):
            x = x + F.dropout(F.relu(time(norm(x))), self.dropout, self.training)
            x = x + units[session](x.mT).mT  # type: ignore[index]
        out: Tensor = self.read_out(x)
        return out
