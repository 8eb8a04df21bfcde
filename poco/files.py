"""Names of the files of models and runs, and writing files that are the old or the new one, never half of either."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from poco.errors import CheckpointError

#: Files of a model: settings and tensors. The settings of a run have the same name, in the run's folder.
CONFIG, TENSORS = "config.json", "model.safetensors"
#: Files of a run.
METRICS, RESUME, LOG, LOCK = "metrics.jsonl", "resume.safetensors", "log.txt", ".lock"
#: Files of what was scored.
EVALUATION, FIGURE = "evaluation.json", "figure.png"
#: Folders in that of a run or an adapted model: its model, and baselines that were fitted to compare it with.
MODEL, BASELINES = "model", "baselines"
#: Folder in a run of several seeds: those of its members.
MEMBERS = "members"
#: File of what adapting found, beside the adapted model.
ADAPTATION = "adaptation.json"
#: What stands for numbers that JSON does not have.
_NOT_FINITE = ({"float": "nan"}, {"float": "inf"}, {"float": "-inf"})


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


def write_npz(path: Path, arrays: Mapping[str, Any], *, compressed: bool = False) -> None:
    """Write arrays by name as an NPZ file, atomically.

    Args:
        path: the file.
        arrays: the arrays, or what numpy makes arrays of.
        compressed: whether to compress them.

    Raises:
        CheckpointError: if it cannot be written.
    """
    content = io.BytesIO()
    save: Any = np.savez_compressed if compressed else np.savez
    save(content, **arrays)
    write_atomically(path, content.getvalue())


def is_leftover(path: Path) -> bool:
    """Whether a file was left by a process that was killed while it was writing."""
    return re.fullmatch(r"\..+\.\d+\.part", path.name) is not None and path.is_file()


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically; see :func:`to_json`."""
    write_atomically(path, to_json(value))


def to_json(value: Any) -> bytes:
    """A value as indented JSON; :func:`from_json` says what becomes of NaN and infinite numbers."""
    return (json.dumps(_plain(value), indent=2, allow_nan=False) + "\n").encode()


def from_json(text: str | bytes) -> Any:
    """The value of JSON that :func:`to_json` made.

    Numbers that JSON does not have stand there as ``{"float": "nan"}``, ``{"float": "inf"}`` and ``{"float": "-inf"}``,
    and are numbers again here.

    Raises:
        ValueError: if the text is no JSON.
    """
    return json.loads(text, object_hook=lambda one: float(one["float"]) if one in _NOT_FINITE else one)


def read_json(path: Path, what: str) -> dict[str, Any]:
    """A JSON object from a file, as :func:`write_json` writes it.

    Args:
        path: the file.
        what: name of the thing for messages, such as ``"run settings"``.

    Raises:
        CheckpointError: if it is missing, cannot be read or is no JSON object.
    """
    try:
        value = from_json(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"there are no {what} at {path}: is this a run folder?") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read the {what} in {path}: {str(error).splitlines()[0]}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"cannot read the {what} in {path}: not a JSON object")
    return value


def _plain(value: Any) -> Any:
    """The value with an object in place of each number that is not finite, and NumPy's numbers made plain."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _flush_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where the system allows it."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def existing(folder: str | Path) -> Path:
    """The folder, a CheckpointError if it is not there."""
    if not Path(folder).exists():
        raise CheckpointError(f"{folder}: no such run folder or folder of a model")
    return Path(folder)


def model_folder(folder: str | Path) -> Path:
    """Where the files of a model lie: in a folder, or in the one for it in that of a run or of an adapted model."""
    folder = Path(folder)
    within = folder / MODEL
    return within if not (folder / TENSORS).exists() and (within / TENSORS).exists() else folder
