"""Settings of model and training by name."""

from __future__ import annotations

import dataclasses
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
        batch_size=None,
        val_stride=None,
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
#: Rows (windows times units) of a step: more of them hardly say more.
ROWS = 2**15
#: The one that is taken where none is asked for.
DEFAULT = "grounded"


def recipe(name: str) -> tuple[Sizes, TrainConfig]:
    """Settings of model and training by name.

    Args:
        name: ``"grounded"``, the forecaster on the ground, see :mod:`poco.ground`; ``"published"``, the published one,
            optimiser and dropout.

    What is None of steps and windows depends on the recordings: :func:`complete` fills it in.

    Raises:
        ConfigError: if there is no recipe of that name.
    """
    if name not in RECIPES:
        raise ConfigError(f"there is no recipe '{name}': the recipes are {', '.join(RECIPES)}")
    return RECIPES[name]()


def options() -> set[str]:
    """Names of the options of the models of all recipes."""
    return {field.name for settings in RECIPES.values() for field in dataclasses.fields(settings()[0])}


def complete(name: str, settings: TrainConfig, split: Split) -> TrainConfig:
    """Settings with what is None of steps and windows filled in, by the size of the recordings.

    On the ground the steps grow with the windows, and a step has 16 windows or fewer, see :func:`bounded`.
    """
    if name == "published":
        return settings.for_sessions(len(split.recordings))
    times = min(4.0, max(1.0, len(split.windows("train")) / 4000))
    settings = dataclasses.replace(settings, steps=settings.steps or 100 * round(8 * times))
    return bounded(settings, split, most=16)


def bounded(settings: TrainConfig, split: Split, most: int) -> TrainConfig:
    """Settings with what is None of the windows filled in, so that many units do not make a step take long.

    A step has ``most`` windows, fewer (but two) where they would hold more than :data:`ROWS` rows; of many validation
    windows every second, third, ... is taken, see :meth:`poco.data.splits.Split.stride`.
    """
    units = max(recording.units for recording in split.recordings)
    return dataclasses.replace(
        settings,
        batch_size=settings.batch_size or min(most, max(2, ROWS // units)),
        val_stride=settings.val_stride or split.stride("val"),
    )


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
    if name not in (None, found):
        raise ConfigError(f"a {type(sizes).__name__} belongs to the recipe '{found}', not to '{name}'")
    return found
