"""A causal Transformer over frames of the population, rolled out frame by frame."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from poco.baselines.windows import OfSessions, by_session
from poco.data.packed import PackedBatch
from poco.nn.vocabulary import SessionSpec


class ARTransformer(OfSessions):
    """A token is a frame; the last token of each pass is the next frame, which is put behind the others.

    After Vaswani et al., "Attention is all you need", NeurIPS 2017, four causal layers as in the POCO paper (2025). It
    is trained to forecast each frame from those before it. Each session has projections ``N -> width -> N`` of its own.

    Args:
        context: frames of the context.
        horizon: frames that are forecast.
        sessions: the sessions that it knows.
        width: width of the tokens.
        layers: number of layers.
    """

    def __init__(
        self, context: int, horizon: int, sessions: Sequence[SessionSpec], width: int = 512, layers: int = 4
    ) -> None:
        super().__init__(context, horizon, sessions)
        self.input = nn.ModuleList(nn.Linear(len(spec.units), width) for spec in self.sessions)
        self.output = nn.ModuleList(nn.Linear(width, len(spec.units)) for spec in self.sessions)
        self.position = nn.Parameter(0.02 * torch.randn(context + horizon, width))
        layer = nn.TransformerEncoderLayer(width, 8, 4 * width, 0.1, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)

    def next_frames(self, frames: Tensor, session: int) -> Tensor:
        """Frames ``[B, T, N]`` -> the one after each of them ``[B, T, N]``."""
        length = frames.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=frames.device)
        tokens = self.input[session](frames) + self.position[:length]
        out: Tensor = self.output[session](self.layers(tokens, mask=mask, is_causal=True))
        return out

    def forecast(self, x: Tensor, session: int) -> Tensor:
        """``[B, N, C]`` -> ``[B, N, H]``."""
        frames = x.mT
        for _ in range(self.horizon):
            frames = torch.cat([frames, self.next_frames(frames, session)[:, -1:]], 1)
        return frames[:, self.context :].mT

    def loss_packed(self, batch: PackedBatch) -> Tensor:
        """Squared error of each frame forecast from those before it, over context and target."""
        assert batch.target is not None
        total, count = batch.x.new_zeros(()), 0
        for session, rows in by_session(batch):
            frames = torch.cat([batch.x[rows], batch.target[rows]], -1).mT
            error = self.next_frames(frames[:, :-1], session) - frames[:, 1:]
            total, count = total + error.square().sum(), count + error.numel()
        return total / count
