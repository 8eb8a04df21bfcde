"""Settings of model and training by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from poco.errors import ConfigError
from poco.training.config import TrainConfig

if TYPE_CHECKING:
    from poco.nn import POCOConfig


def _published() -> tuple[POCOConfig, TrainConfig]:
    from poco.nn import POCOConfig

    return POCOConfig(), TrainConfig()


RECIPES: Mapping[str, Callable[[], tuple[POCOConfig, TrainConfig]]] = {"published": _published}


def recipe(name: str) -> tuple[POCOConfig, TrainConfig]:
    """Settings of model and training by name.

    Args:
        name: ``"published"``, the published sizes, optimiser and dropout.

    Raises:
        ConfigError: if there is no recipe of that name.
    """
    if name not in RECIPES:
        raise ConfigError(f"there is no recipe '{name}': the recipes are {', '.join(RECIPES)}")
    return RECIPES[name]()
