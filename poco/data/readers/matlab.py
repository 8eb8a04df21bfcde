"""MATLAB files: v5 through scipy, v7.3 (which is HDF5) through h5py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from poco.data.readers import hdf5, matlab_check
from poco.data.readers.base import Contents, Entry, guard
from poco.errors import optional


def read(path: Path) -> Contents:
    """The variables by name, the fields of a struct as ``struct/field``; shapes are those MATLAB shows."""
    with guard(path, "MATLAB"), path.open("rb") as file:
        head = file.read(520)
    if head[:4] == b"\x89HDF" or head[512:516] == b"\x89HDF":
        return hdf5.read(path, matlab=True)
    with optional("scipy", "formats", "reading MATLAB files"):
        from scipy.io import loadmat
    with guard(path, "MATLAB"):
        matlab_check.check(path)
        variables = loadmat(str(path))
    entries: dict[str, Entry] = {}
    for name, value in variables.items():
        if not name.startswith("__"):
            _add(name, value, entries)
    return Contents(path, "matlab", entries)


def _add(name: str, value: Any, entries: dict[str, Entry]) -> None:
    if isinstance(value, np.ndarray) and value.dtype.names and value.size == 1:
        for field in value.dtype.names:
            _add(f"{name}/{field}", value.reshape(-1)[0][field], entries)
    elif isinstance(value, np.ndarray) and value.dtype.kind == "O":
        entries[name] = Entry.of([_cell(cell) for cell in value.ravel()])
    else:
        entries[name] = Entry.of(value)


def _cell(value: Any) -> Any:
    """What is in a cell, "" where it is empty."""
    if not isinstance(value, np.ndarray) or value.size > 1:
        return value
    return value.reshape(-1)[0] if value.size else ""
