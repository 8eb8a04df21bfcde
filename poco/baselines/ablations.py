"""What is left of POCO when a part is taken away: the ablations of the POCO paper (2025)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from poco.data.packed import PackedBatch
from poco.nn import POCO, POCOConfig, SessionSpec
from poco.nn.film import Film
from poco.sizes import longest_segment


def sizes(context: int, horizon: int, **options: Any) -> POCOConfig:
    """The published sizes, with the longest segment up to 16 frames that divides the context."""
    return POCOConfig(context=context, horizon=horizon, segment_length=longest_segment(context, 16), **options)


class POYO(POCO):
    """The population's encoder and decoder alone: the forecast is read off a unit's state, without MLP and FiLM.

    Azabou et al., "A unified, scalable framework for neural population decoding", NeurIPS 2023.

    Args:
        context: frames of the context.
        horizon: frames that are forecast.
        sessions: the sessions that it knows.
    """

    def __init__(self, context: int, horizon: int, sessions: Sequence[SessionSpec]) -> None:
        super().__init__(sizes(context, horizon, film_width=0), sessions)


class TACO(nn.Module):
    """A plain Transformer over a unit's own tokens is what modulates its MLP: no population.

    Args:
        context: frames of the context.
        horizon: frames that are forecast.
    """

    def __init__(self, context: int, horizon: int) -> None:
        super().__init__()
        config = sizes(context, horizon)
        self.context, self.horizon, self.segment = context, horizon, config.segment_length
        self.token = nn.Linear(config.segment_length, config.width)
        self.position = nn.Parameter(0.02 * torch.randn(config.segments, config.width))
        self.layer = nn.TransformerEncoderLayer(
            config.width, 4, config.hidden, config.ffn_dropout, batch_first=True, norm_first=True
        )
        self.film = Film(config)

    def forward_packed(self, batch: PackedBatch) -> Tensor:
        """``[R, C]`` -> ``[R, H]``."""
        tokens = self.token(batch.x.unflatten(1, (-1, self.segment))) + self.position
        out: Tensor = self.film(batch.x, self.layer(tokens).mean(1))
        return out


class UICO(nn.Module):
    """An embedding of the unit is what modulates its MLP: no population, no past.

    Args:
        context: frames of the context.
        horizon: frames that are forecast.
        sessions: the sessions that it knows.
    """

    #: Sizes that are not POCO's.
    own: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, context: int, horizon: int, sessions: Sequence[SessionSpec]) -> None:
        super().__init__()
        config = sizes(context, horizon, **self.own)
        self.context, self.horizon, self.sessions = context, horizon, tuple(sessions)
        units = sum(len(spec.units) for spec in self.sessions)
        self.units = nn.Parameter(config.embedding_std * torch.randn(units, config.width))
        self.film = Film(config)

    def forward_packed(self, batch: PackedBatch) -> Tensor:
        """``[R, C]`` -> ``[R, H]``."""
        out: Tensor = self.film(batch.x, self.units[batch.unit_index.long()])
        return out


class UICOLarge(UICO):
    """UICO-L: a UICO whose MLP is that of MLP-L, two hidden layers of 2048."""

    own: ClassVar[Mapping[str, Any]] = {"film_width": 2048, "film_depth": 2}
