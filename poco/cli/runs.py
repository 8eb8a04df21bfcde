"""Opening what earlier commands wrote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from poco.cli.output import note
from poco.errors import CheckpointError

if TYPE_CHECKING:
    from poco.models import Forecaster
    from poco.run import Run


def open_forecaster(folder: Path) -> Run | Forecaster:
    """As :func:`poco.models.open_forecaster`; of a run that was stopped it is said that it is not what it will be."""
    from poco import models
    from poco.run import Run

    found = models.open_forecaster(folder)
    if isinstance(found, Run) and not found.finished:
        note(f"The run in {folder} was stopped before its end: this is its best model so far (poco train --resume).")
    return found


def open_run(folder: Path) -> Run:
    """The run in a folder.

    Raises:
        CheckpointError: if it is none, or damaged; of a model alone it is said that it is no run.
    """
    from poco.run import Run

    found = open_forecaster(folder)
    if not isinstance(found, Run):
        raise CheckpointError(
            f"{folder} holds a model, not a run: give the folder that 'poco train' wrote "
            "(what 'poco adapt' wrote keeps its scores in adaptation.json)"
        )
    return found


def source_of(forecaster: Run | Forecaster) -> tuple[Any, dict[str, Any]]:
    """Path or paths of the recordings of a run or model and the options of reading them; (None, {}) if not known."""
    from poco.nn.files import reading_options
    from poco.run import Run

    return forecaster.source if isinstance(forecaster, Run) else (None, reading_options(forecaster))
