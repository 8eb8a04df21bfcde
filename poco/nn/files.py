"""A model on disk: ``config.json`` (sizes, options) and ``model.safetensors`` (tensors, vocabulary, normalisation)."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch import Tensor

from poco.errors import CheckpointError, ConfigError, MissingExtraError, VocabularyError
from poco.files import CONFIG, TENSORS, from_json, model_folder, to_json, write_atomically
from poco.nn import vocabulary
from poco.nn.config import POCOConfig

if TYPE_CHECKING:
    from poco.nn.model import POCO

FORMAT = 1  # raised when a file of an older version can no longer be read as it is


class Saved(Protocol):
    """What a model needs to be saved."""

    metadata: dict[str, Any]

    @property
    def config(self) -> Any:
        """Sizes, with ``to_dict``."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors by name."""

    def eval(self) -> Any:
        """Evaluates from now on."""


Model = TypeVar("Model", bound=Saved)
_OWN = ("format", "model", "config")  # entries of config.json that are not metadata


def save(model: Saved, folder: Path, more: Mapping[str, Any]) -> None:
    """Writes the model into ``folder``, which is made if need be, with what :func:`metadata` knows of it.

    Args:
        model: the model.
        folder: where to.
        more: further entries of ``config.json`` (how the model was trained, ...), as JSON can hold them.

    Raises:
        CheckpointError: if it cannot be written; files that were there before are kept.
    """
    write(folder, type(model).__name__, model.config.to_dict(), {**model.metadata, **more}, model.state_dict())


def write(
    folder: Path, kind: str, config: Mapping[str, Any], metadata: Mapping[str, Any], state: Mapping[str, Tensor]
) -> None:
    """Writes the two files of a model into ``folder``, which is made if need be.

    Args:
        folder: where to.
        kind: name of the model's class.
        config: what the model is built from.
        metadata: further entries of ``config.json``.
        state: tensors by name.

    Raises:
        CheckpointError: if it cannot be written; files that were there before are kept.
    """
    safetensors = _safetensors()
    text = to_json({"format": FORMAT, "model": kind, "config": config, **metadata})
    tensors = {k: v.detach().contiguous() for k, v in state.items()}
    sums = json.dumps({name: checksum(tensor) for name, tensor in tensors.items()}, sort_keys=True)
    data = safetensors.save(tensors, {"crc32": sums})  # of two entries the library writes either first
    put(folder, text, data)


def put(folder: Path, config: bytes, tensors: bytes) -> None:
    """Put the two files of a model, as they are read or made, into ``folder``; raises as :func:`write`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"cannot make the folder {folder}: {error.strerror or error}") from error
    write_atomically(folder / TENSORS, tensors)
    write_atomically(folder / CONFIG, config)


def load(folder: Path) -> POCO:
    """The POCO in ``folder``, on the CPU, in evaluation mode, in the precision that it was saved in.

    Raises:
        CheckpointError: if a file is missing, damaged, of another version or does not fit the other, or a weight is not
            finite.
    """
    return load_as("POCO", folder, build)


def build(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> POCO:
    """The POCO of a ``config`` and tensors that :func:`save` wrote, in their precision.

    Raises:
        KeyError: if a tensor is missing; :func:`load_as` says of this and the rest what is wrong with the files.
        ConfigError: if an option is not known or cannot work.
        VocabularyError: if the vocabulary cannot be read.
        RuntimeError: if tensors do not fit the sizes.
    """
    from poco.nn.model import POCO

    model = POCO(POCOConfig.from_dict(config), vocabulary.decode(state["vocabulary"])).to(state["latents"].dtype)
    model.load_state_dict(state)
    return model


def load_as(kind: str, folder: Path, build: Callable[[Mapping[str, Any], Mapping[str, Tensor]], Model]) -> Model:
    """The model of one kind in ``folder``, on the CPU, in evaluation mode.

    Args:
        kind: name of the model's class, as ``config.json`` says it.
        folder: where it is, or the run or adapted model that it is of.
        build: makes the model of its ``config`` and its tensors.

    Raises:
        CheckpointError: if a file is missing, damaged, of another version or kind or does not fit the other, or a
            weight is not finite.
    """
    folder = model_folder(folder)
    config = read_config(folder)
    if config.get("model") != kind:
        raise CheckpointError(
            f"{folder} holds a model of kind {config.get('model')!r}, not {kind!r}: poco.load reads every kind"
        )
    state = _read_tensors(folder / TENSORS)
    try:
        model = build(config["config"], state)
    except KeyError as error:
        if isinstance(error, VocabularyError):
            raise CheckpointError(f"{folder}: {error}") from error
        raise CheckpointError(f"{folder / TENSORS} is no {kind} model: it lacks {error}") from error
    except (ConfigError, TypeError) as error:
        raise CheckpointError(f"{folder / CONFIG}: {error}") from error
    except RuntimeError as error:
        detail = str(error).strip().splitlines()[-1].strip()
        raise CheckpointError(f"{folder}: {CONFIG} and {TENSORS} do not fit together: {detail}") from error
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise CheckpointError(
                f"{folder / TENSORS}: '{name}' holds NaN or infinite values: train again, or restore it from a copy"
            )
    model.metadata = {name: value for name, value in config.items() if name not in _OWN}
    model.eval()
    return model


def learnt_rates(model: Saved) -> Mapping[str, float | None]:
    """Frames a second of the recordings that a model was learnt from, by session; None where that is not known."""
    return model.metadata.get("rate_hz") or {}


def learnt_rate(model: Saved, session: str) -> float | None:
    """Frames a second of the recording that a session was learnt from; None if that is not known."""
    return learnt_rates(model).get(session)


def reading_options(model: Saved) -> dict[str, Any]:
    """The options that the recordings of the last training or adaptation were read with."""
    return dict(model.metadata.get("reading") or {})


def read_config(folder: Path) -> dict[str, Any]:
    """What ``config.json`` in ``folder`` says, metadata included.

    Raises:
        CheckpointError: if it is missing, damaged or of another version.
    """
    path = folder / CONFIG
    try:
        config = from_json(path.read_bytes())
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
        data = path.read_bytes()
        tensors: dict[str, Any] = safetensors.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        sums = json.loads((header.get("__metadata__") or {}).get("crc32", "null"))
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:  # the library's own error type, and whatever a damaged header makes it raise
        raise CheckpointError(f"{path} is truncated or no safetensors file: {error}") from error
    for name, tensor in tensors.items() if sums is not None else ():  # files of other programs have no checksums
        if sums.get(name) != checksum(tensor):
            raise CheckpointError(f"{path} is damaged: tensor '{name}' is not what was written")
    return tensors


def checksum(tensor: Tensor) -> int:
    """CRC-32 of the bytes of a contiguous tensor."""
    return zlib.crc32(tensor.cpu().reshape(-1).view(torch.uint8).numpy().data)


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise MissingExtraError("model files need the package 'safetensors': pip install safetensors") from error
    return safetensors.torch
