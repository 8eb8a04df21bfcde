"""Settings of model and training by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from poco.errors import ConfigError
from poco.training.config import TrainConfig

if TYPE_CHECKING:
    from poco.data.splits import Split
    from poco.models import Sizes


def _published() -> tuple[Sizes, TrainConfig]:
    from poco.nn import POCOConfig

    return POCOConfig(), TrainConfig()


def _grounded() -> tuple[Sizes, TrainConfig]:
    from poco.ground.grounded import GroundedConfig

    settings = TrainConfig(
        batch_size=16,
        learning_rate=2e-3,
        weight_decay=0.01,
        amsgrad=False,
        clip=1.0,
        criterion="relative",
        schedule="cosine",
        ema=0.99,
        val_first=True,
        patience=4,
    )
    return GroundedConfig(), settings


RECIPES: Mapping[str, Callable[[], tuple[Sizes, TrainConfig]]] = {"grounded": _grounded, "published": _published}
#: The one that is taken where none is asked for.
DEFAULT = "grounded"


def recipe(name: str) -> tuple[Sizes, TrainConfig]:
    """Settings of model and training by name.

    Args:
        name: ``"grounded"``, the forecaster on the ground, see :mod:`poco.ground`; ``"published"``, the published one,
            optimiser and dropout.

    Raises:
        ConfigError: if there is no recipe of that name.
    """
    if name not in RECIPES:
        raise ConfigError(f"there is no recipe '{name}': the recipes are {', '.join(RECIPES)}")
    return RECIPES[name]()


def steps(name: str, split: Split) -> int:
    """Optimiser steps of a recipe where none are given: published by the sessions, on the ground by the windows."""
    if name == "published":
        steps = TrainConfig().for_sessions(len(split.recordings)).steps
        assert steps is not None
        return steps
    times = min(4.0, max(1.0, len(split.windows("train")) / 4000))
    return 100 * round(8 * times)


def of(sizes: Sizes | None, name: str | None = None) -> str:
    """Name of the recipe for a kind of model; the default for None.

    Raises:
        ConfigError: if it is no kind of model, or not that of the recipe asked for.
    """
    if sizes is None:
        return name or DEFAULT
    found = next((known for known, settings in RECIPES.items() if isinstance(sizes, type(settings()[0]))), None)
    if found is None:
        raise ConfigError(f"model_config must be a GroundedConfig or a POCOConfig, got {type(sizes).__name__}")
    if name is not None and found != name and type(sizes) is not type(recipe(name)[0]):
        raise ConfigError(f"a {type(sizes).__name__} belongs to the recipe '{found}', not to '{name}'")
    return name or found
