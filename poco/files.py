"""Files that are either the old one or the new one, never half of either."""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path
from typing import Any

from poco.errors import CheckpointError

#: Folders in that of a run or an adapted model: its model, and baselines that were fitted to compare it with.
MODEL, BASELINES = "model", "baselines"
#: File of what adapting found, beside the adapted model.
ADAPTATION = "adaptation.json"


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file in one step: write beside it, flush to the disk, rename over it.

    Args:
        path: the file.
        content: all of its new content.

    Raises:
        CheckpointError: if it cannot be written (disk full, no permission); the old file is as it was.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        kept = "; the file that was there is intact" if path.exists() else ""
        raise CheckpointError(f"cannot save {path}: {error.strerror or error}{kept}") from error
    _flush_folder(path.parent)


def is_leftover(path: Path) -> bool:
    """Whether a file was left by a process that was killed while it was writing."""
    return re.fullmatch(r"\..+\.\d+\.part", path.name) is not None and path.is_file()


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    write_atomically(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path, what: str) -> dict[str, Any]:
    """A JSON object from a file.

    Args:
        path: the file.
        what: name of the thing for messages, such as ``"run settings"``.

    Raises:
        CheckpointError: if it is missing, cannot be read or is no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"there are no {what} at {path}: is this a run folder?") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read the {what} in {path}: {str(error).splitlines()[0]}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"cannot read the {what} in {path}: not a JSON object")
    return value


def _flush_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where the system allows it."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
