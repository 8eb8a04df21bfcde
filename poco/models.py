"""The kinds of model (POCO, the forecaster on the ground, an ensemble of either), and opening what holds one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import nn

from poco.errors import CheckpointError, ConfigError
from poco.files import CONFIG, existing, model_folder, read_json
from poco.nn.files import read_config

if TYPE_CHECKING:
    from poco.ensemble import Ensemble
    from poco.ground.grounded import Grounded, GroundedConfig
    from poco.nn import POCO, POCOConfig
    from poco.run import Run

    Member: TypeAlias = POCO | Grounded
    Forecaster: TypeAlias = Member | Ensemble
    Sizes: TypeAlias = POCOConfig | GroundedConfig


#: What may be opened, for errors.
_TAKEN = "give a run folder or, where a model will do, that of an adapted model or of a model alone"


def load(folder: str | Path) -> Forecaster:
    """The model in a folder, on the CPU, evaluating.

    Args:
        folder: that of a run (``poco train``), of an adapted model (``poco adapt``), or of a model alone
            (``save_pretrained``). :meth:`poco.Run.load` gives the whole run.

    Raises:
        CheckpointError: if there is no model, it is damaged, or of a kind that this version does not know.
    """
    from poco.run import Run

    found = open_forecaster(folder)
    return found.model if isinstance(found, Run) else found


def open_forecaster(folder: str | Path) -> Run | Forecaster:
    """The run in a folder, or the model in that of an adapted model or of a model alone.

    Raises:
        CheckpointError: if it holds neither, or one that is damaged.
    """
    from poco.run import Run

    folder = existing(folder)
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is a file: {_TAKEN}")
    described = (folder / CONFIG).exists()
    if described and "config" not in read_json(folder / CONFIG, "settings"):
        return Run.load(folder)
    place = model_folder(folder)
    if place == folder and not described:
        raise CheckpointError(f"{folder} holds neither a run nor a model: {_TAKEN}")
    return read_model(place)


def read_model(folder: Path) -> Forecaster:
    """The model whose two files lie in this very folder, on the CPU, evaluating.

    Raises:
        CheckpointError: if there is none, it is damaged, or of a kind that this version does not know.
    """
    from poco.ensemble import Ensemble
    from poco.ground.grounded import Grounded
    from poco.nn import POCO

    kinds: Mapping[str, Any] = {"POCO": POCO, "Grounded": Grounded, "Ensemble": Ensemble}
    kind = str(read_config(folder).get("model"))
    if kind not in kinds:
        raise CheckpointError(f"{folder} holds a model of kind {kind!r}; this version knows {', '.join(kinds)}")
    found: Forecaster = kinds[kind].from_pretrained(folder)
    return found


def members(model: nn.Module) -> Sequence[Any]:
    """The models whose forecasts an ensemble averages; of any other the model itself."""
    from poco.ensemble import Ensemble

    return list(model) if isinstance(model, Ensemble) else [model]


def kind_of(model: nn.Module) -> str:
    """``"poco"``, ``"grounded"``, or else the name of the class; of an ensemble that of its members."""
    from poco.ground.grounded import Grounded
    from poco.nn import POCO

    first = members(model)[0]
    return "poco" if isinstance(first, POCO) else "grounded" if isinstance(first, Grounded) else type(first).__name__


def model_of(given: Forecaster | Run | str | Path, what: str) -> Forecaster:
    """The model that is meant: a model itself, that of a run, or that in a folder of either (:func:`load`).

    Args:
        given: one of these.
        what: what it is for, as the error says it: ``"what is adapted"``.

    Raises:
        ConfigError: if it is none of these, or a model that does not know sessions and how they are normalised.
        CheckpointError: if the folder holds no model.
    """
    from poco.ensemble import Ensemble
    from poco.ground.grounded import Grounded
    from poco.nn import POCO
    from poco.run import Run

    if isinstance(given, (str, Path)):
        return load(given)
    model = given.model if isinstance(given, Run) else given
    if not isinstance(model, (POCO, Grounded, Ensemble)):
        raise ConfigError(
            f"{what} is a POCO, a forecaster on the ground or an ensemble of either, not a {type(model).__name__}: "
            "give such a model, a poco.Run or a folder of one of these (poco.evaluate scores any forecaster)"
        )
    return model
