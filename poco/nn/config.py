"""Sizes and options of a POCO model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from poco.errors import ConfigError
from poco.fields import check_fields
from poco.sizes import CONTEXT, HORIZON
from poco.wording import choices


@dataclass(frozen=True, kw_only=True)
class POCOConfig:
    """Sizes and options of a POCO model; the defaults are the published ones.

    Attributes:
        context: frames that the model is given, ``C``.
        horizon: frames that it forecasts, ``H``.
        segment_length: frames to a token, ``L``; it divides the frames that the model looks at.
        decoder_context: frames that the model looks at, the last ones of the context; None is all of them.
        latents: number of latents, ``Q``.
        width: width of tokens, latents and embeddings, ``d``.
        layers: self-attention layers over the latents.
        heads: heads of the self-attention.
        head_width: width of a head, ``dh``; the two cross-attentions have one head. A multiple of 4.
        ffn_width: width of the gated feed-forward layers, ``F``; None is four times the width.
        film_width: width of each unit's MLP, ``K``; 0 leaves it out: the forecast is then read off the unit's state.
        film_depth: hidden layers of the MLP, modulated at the last. More than 1 runs unfused, in plain torch.
        t_max: longest period of the rotary positions, in frames; the shortest is a thousandth of it.
        session_embedding: add an embedding of the session and one of its data set to each unit's.
        unit_type_embedding: add an embedding of the unit's type (region, cell class).
        latent_session_embedding: add the session's and the data set's embedding to the latents.
        unit_dropout: probability of hiding a unit from the population summary, in four training steps of five.
        ffn_dropout: dropout inside the feed-forward layers.
        latent_dropout: dropout of both residual branches of the latent layers.
        attention_dropout: dropout of the attention weights between latents.
        embedding_std: standard deviation of embeddings and latents at the start.

    Raises:
        ConfigError: if a value cannot work.
    """

    context: int = CONTEXT
    horizon: int = HORIZON
    segment_length: int = 16
    decoder_context: int | None = None
    latents: int = 8
    width: int = 128
    layers: int = 1
    heads: int = 16
    head_width: int = 64
    ffn_width: int | None = None
    film_width: int = 1024
    film_depth: int = 1
    t_max: float = 100.0
    session_embedding: bool = True
    unit_type_embedding: bool = False
    latent_session_embedding: bool = False
    unit_dropout: float = 0.0
    ffn_dropout: float = 0.2
    latent_dropout: float = 0.4
    attention_dropout: float = 0.0
    embedding_std: float = 0.02

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("context", "horizon", "segment_length", "latents", "width", "heads", "head_width", "film_depth"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("layers", "film_width"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("unit_dropout", "ffn_dropout", "latent_dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if self.ffn_width is not None and self.ffn_width < 1:
            raise ConfigError(f"ffn_width must be at least 1, got {self.ffn_width}")
        if not 0 < self.t_max < math.inf:
            raise ConfigError(f"t_max must be a finite number above 0, got {self.t_max}")
        if not 0 <= self.embedding_std < math.inf:
            raise ConfigError(f"embedding_std must be a finite number, at least 0, got {self.embedding_std}")
        if self.head_width % 4:
            raise ConfigError(f"head_width must be a multiple of 4 (half turns), got {self.head_width}")
        if self.decoder_context is not None and not 1 <= self.decoder_context <= self.context:
            raise ConfigError(f"decoder_context must be in 1..{self.context} (the context), got {self.decoder_context}")
        if self.seen % self.segment_length:
            raise ConfigError(
                f"segment_length {self.segment_length} (--segment-length) does not divide the {self.seen} frames of "
                "context that the model looks at: change one of them"
            )

    @property
    def seen(self) -> int:
        """Frames that the model looks at: ``decoder_context``, or the whole context."""
        return self.context if self.decoder_context is None else self.decoder_context

    @property
    def segments(self) -> int:
        """Tokens of a unit in a window, ``S``."""
        return self.seen // self.segment_length

    @property
    def hidden(self) -> int:
        """Width of the gated feed-forward layers, ``F``."""
        return 4 * self.width if self.ffn_width is None else self.ffn_width

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary that JSON can hold."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> POCOConfig:
        """The configuration of such a dictionary.

        Raises:
            ConfigError: if a field is unknown or a value is of the wrong type.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(values) - set(known), key=str)
        if unknown:
            raise ConfigError(f"unknown model option '{unknown[0]}': {choices(unknown[0], known)}")
        return cls(**values)
