"""Opening what earlier commands wrote."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from poco.cli.output import note
from poco.errors import CheckpointError
from poco.files import ADAPTATION, read_json

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


def reading_of(folder: Path, forecaster: Run | Forecaster, recording: Path) -> dict[str, Any]:
    """The options that a recording is read with where none are given.

    They are those of the run or model in a folder; of a recording that it was not made of, those alone that the
    recording itself leaves open.
    """
    from poco.data.read import left_open
    from poco.nn.files import reading_options
    from poco.run import Run

    made_of: Any = None
    if isinstance(forecaster, Run):
        made_of, options = forecaster.source
        model = forecaster.model
    else:
        model, options = forecaster, reading_options(forecaster)
        if (folder / ADAPTATION).exists():
            made_of = read_json(folder / ADAPTATION, "results").get("recording")
    place = recording.expanduser().resolve()
    for known in map(Path, [made_of] if isinstance(made_of, str) else made_of or []):
        if known == place or known in place.parents or place in known.parents:
            return options
    return left_open(recording, options, [spec.name for spec in model.sessions])
