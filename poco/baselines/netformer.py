"""NetFormer: connections between units are attention weights, made from the window and an embedding of each unit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from poco.baselines.windows import OfSessions
from poco.nn.vocabulary import SessionSpec


class NetFormer(OfSessions):
    """``x' = x + A x``, ``A = Q K^T / (N sqrt(d))`` without softmax, rolled out with the window moving along.

    After Lu et al., "NetFormer: an interpretable model for recovering dynamical connectivity", ICLR 2025. The division
    by the number of units keeps the roll-out of large sessions bounded at the start.

    Args:
        context: frames of the context.
        horizon: frames that are forecast.
        sessions: the sessions that it knows.
        embedding: width of a unit's embedding.
        width: ``d``, width of queries and keys.
    """

    def __init__(
        self, context: int, horizon: int, sessions: Sequence[SessionSpec], embedding: int = 30, width: int = 64
    ) -> None:
        super().__init__(context, horizon, sessions)
        self.units = nn.ParameterList(0.02 * torch.randn(len(spec.units), embedding) for spec in self.sessions)
        self.norm = nn.LayerNorm(context + embedding)
        self.query = nn.Linear(context + embedding, width, bias=False)
        self.key = nn.Linear(context + embedding, width, bias=False)

    def connections(self, window: Tensor, session: int) -> Tensor:
        """``A [B, N, N]`` of windows ``[B, N, C]``."""
        units = self.units[session].expand(window.shape[0], -1, -1)
        state = self.norm(torch.cat([window, units], -1))
        query, key = self.query(state), self.key(state)
        return query @ key.mT / (window.shape[1] * query.shape[-1] ** 0.5)

    def forecast(self, x: Tensor, session: int) -> Tensor:
        """``[B, N, C]`` -> ``[B, N, H]``."""
        for _ in range(self.horizon):
            window = x[:, :, -self.context :]
            last = window[:, :, -1:]
            x = torch.cat([x, last + self.connections(window, session) @ last], -1)
        return x[:, :, self.context :]
