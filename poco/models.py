"""The kinds of model that a run can hold: POCO, the forecaster on the ground, and an ensemble of either."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from poco.errors import CheckpointError, ConfigError
from poco.nn.files import read_config

if TYPE_CHECKING:
    from poco.ensemble import Ensemble
    from poco.ground.grounded import Grounded, GroundedConfig
    from poco.nn import POCO, POCOConfig

    Member: TypeAlias = POCO | Grounded
    Forecaster: TypeAlias = Member | Ensemble
    Sizes: TypeAlias = POCOConfig | GroundedConfig


def check_kind(model: object, what: str) -> None:
    """Raise a ConfigError unless a model is of a kind that knows sessions and how they are normalised."""
    from poco.ensemble import Ensemble
    from poco.ground.grounded import Grounded
    from poco.nn import POCO
    from poco.run import Run

    if isinstance(model, (POCO, Grounded, Ensemble)):
        return
    way = "give its model, run.model" if isinstance(model, Run) else "poco.evaluate scores any forecaster"
    raise ConfigError(
        f"{what} is a POCO, a forecaster on the ground or an ensemble of either, not a {type(model).__name__}: {way}"
    )


def load(folder: str | Path) -> Forecaster:
    """The model that ``save_pretrained`` wrote into a folder, on the CPU, evaluating.

    Raises:
        CheckpointError: if there is none, it is damaged, or of a kind that this version does not know.
    """
    from poco.ensemble import Ensemble
    from poco.ground.grounded import Grounded
    from poco.nn import POCO

    kinds: Mapping[str, Any] = {"POCO": POCO, "Grounded": Grounded, "Ensemble": Ensemble}
    folder = Path(folder)
    if not (folder / "model.safetensors").exists() and (within := folder / "model").is_dir():
        raise CheckpointError(f"{folder} holds more than a model: load the one in it, {within}")
    kind = str(read_config(folder).get("model"))
    if kind not in kinds:
        raise CheckpointError(f"{folder} holds a model of kind {kind!r}; this version knows {', '.join(kinds)}")
    found: Forecaster = kinds[kind].from_pretrained(folder)
    return found
