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
    """The run in a folder, or the model in a folder that ``poco adapt`` or ``save_pretrained`` wrote.

    Raises:
        CheckpointError: if it is neither, or damaged.
    """
    from poco import models
    from poco.files import read_json
    from poco.run import CONFIG, MODEL, Run

    if not folder.exists():
        raise CheckpointError(f"{folder}: no such run folder")
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is a file: give the run folder")
    if (folder / CONFIG).exists():
        of_model = "config" in read_json(folder / CONFIG, "settings")
        return models.load(folder) if of_model else _load(folder)
    if (folder / MODEL / CONFIG).exists():
        return models.load(folder / MODEL)
    return Run.load(folder)  # says what is missing


def _load(folder: Path) -> Run:
    """The run in a folder; of one that was stopped it is said that it is not what it will be."""
    from poco.run import Run

    found = Run.load(folder)
    if not found.finished:
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
