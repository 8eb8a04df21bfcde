"""Latent piecewise-linear recurrent network, its state inferred by the pseudo-inverse of the observation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from poco.baselines.windows import OfSessions
from poco.data.packed import PackedBatch
from poco.nn.vocabulary import SessionSpec


class PLRNN(OfSessions):
    """``z' = a z + W relu(z) + h``, activity ``B_s z``; in training every fourth frame of the context forces the state.

    After Brenner et al., "Tractable dendritic RNNs for reconstructing nonlinear dynamical systems", ICML 2022 (latent
    PLRNN, sparse teacher forcing). ``W`` couples latents to others alone, its diagonal is zero. A frame's state is the
    one of least norm that ``B_s`` maps to it; the last frame of the context always replaces it, and the target runs
    free from there. Sessions share the dynamics and have an observation each.

    Args:
        context: frames of the context.
        horizon: frames that are forecast.
        sessions: the sessions that it knows.
        latents: size of the state.
        forcing: frames from one that forces to the next.
    """

    def __init__(
        self, context: int, horizon: int, sessions: Sequence[SessionSpec], latents: int = 512, forcing: int = 4
    ) -> None:
        super().__init__(context, horizon, sessions)
        self.forcing = forcing
        self.decay = nn.Parameter(torch.full((latents,), 0.9))
        self.coupling = nn.Parameter(torch.randn(latents, latents) * 0.1 / latents**0.5)
        self.offset = nn.Parameter(torch.zeros(latents))
        self.observations = nn.ParameterList(
            torch.randn(len(spec.units), latents) / latents**0.5 for spec in self.sessions
        )

    def step(self, z: Tensor) -> Tensor:
        """The state ``[B, M]`` one frame later."""
        active = z.relu()
        from_others = active @ self.coupling.T - active * self.coupling.diag()
        return self.decay * z + from_others + self.offset

    def inverse(self, session: int) -> Tensor:
        """Pseudo-inverse ``[M, N]`` of the observation, with a jitter against singular ones."""
        b = self.observations[session]
        with torch.autocast(b.device.type, enabled=False):  # nothing to solve with in less than float32
            if b.shape[0] <= b.shape[1]:
                return torch.linalg.solve(b @ b.T + 1e-6 * torch.eye(b.shape[0], device=b.device), b).T
            return torch.linalg.solve(b.T @ b + 1e-6 * torch.eye(b.shape[1], device=b.device), b.T)

    def forecast(self, x: Tensor, session: int) -> Tensor:
        """``[B, N, C]`` -> ``[B, N, H]``: the last frame of the context gives the state."""
        return self.roll(x[:, :, -1], session, self.horizon)

    def roll(self, frames: Tensor, session: int, steps: int) -> Tensor:
        """Frames ``[B, N]`` -> the next ones ``[B, N, steps]``."""
        observation, z = self.observations[session], frames @ self.inverse(session).T
        out = []
        for _ in range(steps):
            z = self.step(z)
            out.append(z @ observation.T)
        return torch.stack(out, -1)

    def loss_packed(self, batch: PackedBatch) -> Tensor:
        """Squared error over context and target, each stretch of frames started from a forced one."""
        assert batch.target is not None
        starts = range((self.context - 1) % self.forcing, self.context - 1, self.forcing)
        total, count = batch.x.new_zeros(()), 0
        for session, _, rows in batch.by_session():
            context, target = batch.x[rows], batch.target[rows]
            stretches = [(context[:, :, -1], target)]
            if starts:
                wanted = torch.cat([context[:, :, t + 1 : t + 1 + self.forcing] for t in starts])
                stretches.append((torch.cat([context[:, :, t] for t in starts]), wanted))
            for given, wanted in stretches:
                total = total + (self.roll(given, session, wanted.shape[-1]) - wanted).square().sum()
                count += wanted.numel()
        return total / count
