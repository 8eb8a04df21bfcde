"""A model on disk: ``config.json`` (sizes, options) and ``model.safetensors`` (tensors, vocabulary, normalisation)."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poco.errors import CheckpointError, ConfigError, MissingExtraError, VocabularyError
from poco.nn import vocabulary
from poco.nn.config import POCOConfig

if TYPE_CHECKING:
    from poco.nn.model import POCO

FORMAT = 1  # raised when a file of an older version can no longer be read as it is
CONFIG, TENSORS = "config.json", "model.safetensors"


def replace(path: Path, write: Callable[[Path], None]) -> None:
    """Writes a file beside ``path`` and puts it in its place at once: a reader sees the old or the new, never a part.

    Raises:
        CheckpointError: if it cannot be written (disk full, no permission); the old file is as it was.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise CheckpointError(
            f"cannot write {path}: {error.strerror or error}; what was there before is kept"
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def save(model: POCO, folder: Path, metadata: Mapping[str, Any]) -> None:
    """Writes the model into ``folder``, which is made if need be.

    Args:
        model: the model.
        folder: where to.
        metadata: further entries of ``config.json`` (how the model was trained, ...), as JSON can hold them.

    Raises:
        CheckpointError: if it cannot be written; files that were there before are kept.
    """
    safetensors = _safetensors()
    config = {"format": FORMAT, "model": "POCO", "config": model.config.to_dict(), **metadata}
    text = json.dumps(config, indent=2) + "\n"
    data = safetensors.save({k: v.detach().contiguous() for k, v in model.state_dict().items()}, {"format": "pt"})
    replace(folder / TENSORS, lambda path: _write(path, data))
    replace(folder / CONFIG, lambda path: _write(path, text.encode()))


def load(folder: Path) -> POCO:
    """The model in ``folder``, on the CPU, in evaluation mode, in the precision that it was saved in.

    Raises:
        CheckpointError: if a file is missing, damaged, of another version or does not fit the other.
    """
    from poco.nn.model import POCO

    config = read_config(folder)
    state = _read_tensors(folder / TENSORS)
    try:
        specs = vocabulary.decode(state["vocabulary"])
        model = POCO(POCOConfig.from_dict(config["config"]), specs)
        model.to(state["latents"].dtype)
        model.load_state_dict(state)
    except KeyError as error:
        if isinstance(error, VocabularyError):
            raise CheckpointError(f"{folder}: {error}") from error
        raise CheckpointError(f"{folder / TENSORS} is no POCO model: it lacks {error}") from error
    except (ConfigError, TypeError) as error:
        raise CheckpointError(f"{folder / CONFIG}: {error}") from error
    except RuntimeError as error:
        detail = str(error).strip().splitlines()[-1].strip()
        raise CheckpointError(f"{folder}: {CONFIG} and {TENSORS} do not fit together: {detail}") from error
    return model.eval()


def read_config(folder: Path) -> dict[str, Any]:
    """What ``config.json`` in ``folder`` says, metadata included.

    Raises:
        CheckpointError: if it is missing, damaged or of another version.
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"no model in {folder}: cannot read {path.name}: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    if not isinstance(config, dict) or not isinstance(config.get("config"), dict):
        raise CheckpointError(f"{path} does not describe a model")
    if config.get("format") != FORMAT:
        raise CheckpointError(f"{path} is of format {config.get('format')!r}; this version reads format {FORMAT}")
    return config


def _read_tensors(path: Path) -> dict[str, Any]:
    safetensors = _safetensors()
    try:
        return safetensors.load(path.read_bytes())  # type: ignore[no-any-return]
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:  # the library's own error type, and whatever a damaged header makes it raise
        raise CheckpointError(f"{path} is truncated or no safetensors file: {error}") from error


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise MissingExtraError("model files need the package 'safetensors': pip install safetensors") from error
    return safetensors.torch
