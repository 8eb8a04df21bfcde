"""Sizes of the ground."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from poco.errors import ConfigError
from poco.fields import check_fields
from poco.sizes import CONTEXT, HORIZON
from poco.wording import choices

Config = TypeVar("Config", bound="GroundConfig")


@dataclass(frozen=True)
class GroundConfig:
    """Sizes of the ground; see :mod:`poco.ground`.

    Attributes:
        context: frames that a forecast is made from, ``C``.
        horizon: frames that are forecast, ``H``.
        latents: latents of the population, ``K``; a session with fewer units has as many as it has units. None: fitting
            takes as many of :data:`poco.ground.penalties.LATENTS` as forecast best out of fold.
        own_means: a unit's own features are its means over so many last frames; 0 stands for the whole context.
        population_means: the same for the latents.
        clip: features are clipped at so many times their root mean square.

    Raises:
        ConfigError: if a value cannot work.
    """

    context: int = CONTEXT
    horizon: int = HORIZON
    latents: int | None = None
    own_means: tuple[int, ...] = (1, 4, 12, 0)
    population_means: tuple[int, ...] = (1, 8, 0)
    clip: float = 3.0

    def __post_init__(self) -> None:
        check_fields(self)
        for name, least in (("context", 1), ("horizon", 1), ("latents", 0)):
            value = getattr(self, name)
            if not (value is None and name == "latents") and value < least:
                raise ConfigError(f"{name} must be at least {least}, got {value}")
        for name in ("own_means", "population_means"):
            if min(getattr(self, name), default=0) < 0:
                raise ConfigError(f"{name} must not be negative, got {getattr(self, name)}")
        if not self.clip > 0:
            raise ConfigError(f"clip must be positive, got {self.clip}")

    @property
    def most_latents(self) -> int:
        """The number of latents of a session with units enough; 8 where none was chosen."""
        return 8 if self.latents is None else self.latents

    def lengths(self, means: tuple[int, ...], *, centred: bool) -> tuple[int, ...]:
        """Frames that each feature averages: none twice, and not the whole context where that mean is taken off."""
        found = dict.fromkeys(min(m or self.context, self.context) for m in means)
        return tuple(m for m in found if not (centred and m == self.context))

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary that JSON can hold."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls: type[Config], values: Mapping[str, Any]) -> Config:
        """The configuration of such a dictionary; a ConfigError if a field is unknown or of the wrong type."""
        known = [field.name for field in dataclasses.fields(cls)]
        for name in values:
            if name not in known:
                raise ConfigError(f"not the sizes of a ground: unknown option '{name}': {choices(name, known)}")
        return cls(**values)
