"""Writing recordings as files that need no description: what :func:`poco.read` reads is what was written."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from poco.data.readers import own
from poco.data.recording import Recording
from poco.errors import DataError
from poco.files import write_npz


def write(recordings: Sequence[Recording], folder: str | Path) -> list[Path]:
    """Write each recording as an NPZ file ``SESSION.npz`` with all that is known of it.

    Args:
        recordings: the sessions.
        folder: where to; made if it is not there. Nothing in it is replaced.

    Returns:
        The files, in the order of the recordings.

    Raises:
        DataError: if a file of that name is there, or two sessions would have the same.
        CheckpointError: if a file cannot be written.
    """
    folder = Path(folder)
    # What begins with a dot is hidden, and no file name may have more than 255 bytes.
    files = [folder / (re.sub(r"^\.|[^-.\w]", "_", recording.session)[:60] + ".npz") for recording in recordings]
    for place, file in enumerate(files):
        if file in files[:place]:
            raise DataError(f"two sessions would be written to {file}: give them different names")
        if file.exists():
            raise DataError(f"{file} is there already: choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    for recording, file in zip(recordings, files, strict=True):
        write_npz(file, _arrays(recording))
    return files


def _arrays(recording: Recording) -> dict[str, Any]:
    about = {
        "version": own.VERSION,
        "session": recording.session,
        "subject": recording.subject,
        "dataset": recording.dataset,
        "rate_hz": recording.rate_hz,
        "unit_ids": recording.unit_ids,
        "labels": dict(recording.labels),
        "stretches": recording.stretches,
        "provenance": dict(recording.provenance),
        "warnings": recording.warnings,
    }
    arrays = {own.ABOUT: np.array(json.dumps(about)), own.ACTIVITY: recording.activity}
    if recording.coordinates is not None:
        arrays[own.COORDINATES] = recording.coordinates
    return arrays | {own.CHANNEL + name: values for name, values in recording.channels.items()}
