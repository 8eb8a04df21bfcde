"""Checkpoints: tensors and plain values in one safetensors file. No pickle is ever read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from poco.errors import CheckpointError
from poco.files import write_atomically
from poco.nn.files import checksum

_VERSION = 1
_KEY = "poco"


@dataclass(frozen=True)
class Checkpoint:
    """Content of a checkpoint file.

    Attributes:
        kind: what the checkpoint is of, such as ``"training"``.
        tensors: tensors by name, on the CPU.
        values: plain values (anything JSON can hold).
    """

    kind: str
    tensors: Mapping[str, torch.Tensor]
    values: Mapping[str, Any]


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, atomically.

    Raises:
        CheckpointError: if it cannot be written; the checkpoint that was there is intact.
    """
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.tensors.items()}
    sums = {name: checksum(tensor) for name, tensor in tensors.items()}
    header = {"kind": checkpoint.kind, "version": _VERSION, "values": checkpoint.values, "crc32": sums}
    write_atomically(path, save(tensors, metadata={_KEY: json.dumps(header)}))


def load_checkpoint(path: Path, kind: str) -> Checkpoint:
    """Read a checkpoint.

    Args:
        path: the file.
        kind: what the checkpoint must be of.

    Raises:
        CheckpointError: if it is missing, truncated, damaged, of another kind or version, or no checkpoint at all.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            header = json.loads((file.metadata() or {}).get(_KEY, "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint at {path}") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is truncated or not a checkpoint of poco ({str(error).splitlines()[0]}): "
            "delete it and start again, or restore it from a copy"
        ) from error
    if not isinstance(header, dict) or header.get("kind") != kind:
        raise CheckpointError(f"{path} is not a {kind} checkpoint of poco")
    if header.get("version") != _VERSION:
        raise CheckpointError(
            f"{path} has checkpoint version {header.get('version')}, this poco reads version {_VERSION}: "
            "use the poco that wrote it, or start again"
        )
    if not isinstance(header.get("values"), dict):
        raise CheckpointError(f"{path} is not a {kind} checkpoint of poco: its values are missing")
    for name, was in header.get("crc32", {}).items():  # checkpoints of older versions have none
        if name not in tensors or checksum(tensors[name]) != was:
            raise CheckpointError(
                f"{path} is damaged: tensor '{name}' is not what was written: "
                "delete it and start again, or restore it from a copy"
            )
    return Checkpoint(kind, tensors, header["values"])


def take(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors whose name starts with ``prefix``, without the prefix."""
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimiser's state as tensors named ``PARAMETER/KEY``."""
    state = optimizer.state_dict()["state"]
    return {f"{index}/{key}": torch.as_tensor(value) for index, entry in state.items() for key, value in entry.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put back what :func:`optimizer_tensors` gave."""
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split("/", 1)
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
