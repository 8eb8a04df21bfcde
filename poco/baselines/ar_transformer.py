"""A causal Transformer over frames of the population, rolled out frame by frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from poco.baselines.windows import OfSessions
from poco.data.packed import PackedBatch
from poco.nn.vocabulary import SessionSpec

#: Keys and values ``[B, heads, T, width / heads]`` of the frames that a layer has seen.
Seen = tuple[Tensor, Tensor]


class CausalLayer(nn.Module):
    """Attention to this and earlier frames, then a feed-forward layer, each added and then normalised.

    Args:
        width: width of the tokens; the hidden layer is twice as wide.
        heads: attention heads.
        dropout: dropout of attention, of hidden units and of what is added.
    """

    def __init__(self, width: int, heads: int = 8, dropout: float = 0.1) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.attention, self.mix = nn.Linear(width, 3 * width), nn.Linear(width, width)
        nn.init.xavier_uniform_(self.attention.weight)  # as nn.MultiheadAttention begins
        nn.init.zeros_(self.attention.bias)
        nn.init.zeros_(self.mix.bias)
        self.attention_norm = nn.LayerNorm(width)
        self.feed_forward = nn.Sequential(
            nn.Linear(width, 2 * width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(2 * width, width),
            nn.Dropout(dropout),
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, seen: Seen | None = None) -> tuple[Tensor, Seen]:
        """All frames ``[B, T, width]`` at once, or the one frame ``[B, 1, width]`` that follows what was ``seen``."""
        qkv = self.attention(tokens).unflatten(-1, (3, self.heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        if seen is not None:
            key, value = torch.cat([seen[0], key], -2), torch.cat([seen[1], value], -2)
        dropout = self.dropout if self.training else 0.0
        found = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=seen is None)
        mixed = F.dropout(self.mix(found.transpose(1, 2).flatten(2)), self.dropout, self.training)
        tokens = self.attention_norm(tokens + mixed)
        return self.norm(tokens + self.feed_forward(tokens)), (key, value)


class ARTransformer(OfSessions):
    """A token is a frame; the last token of each pass is the next frame, which is put behind the others.

    After Vaswani et al., "Attention is all you need", NeurIPS 2017, four causal layers as in the POCO paper (2025) and
    its code: without positions, and trained on the frames of the context, each forecast from those before it, and on
    those of the target, each forecast from the context and its own forecasts. Each session has projections
    ``N -> width -> N`` of its own.

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
        self.layers = nn.ModuleList(CausalLayer(width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)

    def next_frames(
        self, frames: Mapping[int, Tensor], seen: Sequence[Seen] | None = None
    ) -> tuple[dict[int, Tensor], list[Seen]]:
        """Frames ``[B, T, N]`` by session -> the one after each of them, and what each layer has seen by then.

        With what was ``seen`` of earlier frames, ``frames`` is the one that follows them.
        """
        tokens = torch.cat([self.input[session](own) for session, own in frames.items()])
        now = []
        for number, layer in enumerate(self.layers):
            tokens, new = layer(tokens, None if seen is None else seen[number])
            now.append(new)
        parts = self.norm(tokens).split([len(own) for own in frames.values()])
        return {session: self.output[session](own) for session, own in zip(frames, parts, strict=True)}, now

    def roll_out(self, frames: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """Frames ``[B, C, N]`` by session -> the second and all later ones as forecast, ``[B, C + H - 1, N]``."""
        found, seen = self.next_frames(frames)
        steps = [found]
        for _ in range(self.horizon - 1):
            found, seen = self.next_frames({session: own[:, -1:] for session, own in found.items()}, seen)
            steps.append(found)
        return {session: torch.cat([step[session] for step in steps], 1) for session in frames}

    def forward_packed(self, batch: PackedBatch) -> Tensor:
        """``[R, C]`` -> ``[R, H]``."""
        out = batch.x.new_empty(batch.x.shape[0], self.horizon)
        rows = dict(self.windows_of(batch))
        if rows:
            for session, found in self.roll_out({s: batch.x[own].mT for s, own in rows.items()}).items():
                out[rows[session]] = found[:, -self.horizon :].mT.to(out.dtype)
        return out

    def loss_packed(self, batch: PackedBatch) -> Tensor:
        """Mean squared error of all frames but the first, of context and target."""
        assert batch.target is not None
        both = torch.cat([batch.x, batch.target], -1)
        true = {session: both[rows].mT for session, rows in self.windows_of(batch)}
        found = self.roll_out({session: own[:, : self.context] for session, own in true.items()})
        return torch.cat([(found[session] - own[:, 1:]).flatten() for session, own in true.items()]).square().mean()
