"""Opening what earlier commands wrote, and reading a run's recordings again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from poco.errors import CheckpointError, DataError

if TYPE_CHECKING:
    from poco.data.recording import Recording
    from poco.nn import POCO
    from poco.run import Run


def open_forecaster(folder: Path) -> Run | POCO:
    """The run in a folder, or the model in a folder that ``poco adapt`` or ``save_pretrained`` wrote.

    Raises:
        CheckpointError: if it is neither, or damaged.
    """
    from poco.nn import POCO
    from poco.run import METRICS, MODEL, Run

    if not folder.exists():
        raise CheckpointError(f"{folder}: no such run folder")
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is a file: give the run folder")
    if (folder / METRICS).exists():
        return Run.load(folder)
    for model in (folder, folder / MODEL):
        if (model / "model.safetensors").exists():
            return POCO.from_pretrained(model)
    return Run.load(folder)  # says what is missing


def source_of(run: Run) -> tuple[Any, dict[str, Any]]:
    """Path or paths of a run's recordings and the options they were read with; (None, {}) if it does not say."""
    source = run.config.get("source") or {}
    return source.get("path"), dict(source.get("options", {}))


def run_recordings(run: Run, data: Path | None = None) -> list[Recording]:
    """The recordings that a run was trained on, read from where they were or from ``data``.

    Raises:
        DataError: if it is not known where they are, or none of the run's sessions is there.
    """
    from poco.data.read import read

    path, options = source_of(run)
    if data is not None:
        path = data
    if path is None:
        raise DataError(f"the run in {run.folder} does not say where its recordings are: give them with --data")
    names = [entry["session"] for entry in run.config["sessions"]]
    found = {recording.session: recording for recording in read(path, **options)}
    missing = [name for name in names if name not in found]
    if missing:
        there = ", ".join(found)
        raise DataError(f"{path}: there is no session '{missing[0]}', which the run was trained on; it has {there}")
    return [found[name] for name in names]
