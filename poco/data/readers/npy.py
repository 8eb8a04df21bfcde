"""NPY and NPZ files of numpy, read without pickle."""

from __future__ import annotations

import zipfile
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from poco.data.readers.base import Contents, Entry, guard
from poco.errors import DataError


def header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of an array in NPY format; ``file`` is left where the data begin."""
    version = np.lib.format.read_magic(file)
    read_rest = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_rest(file)
    return tuple(shape), dtype


def load(path: Path) -> np.ndarray:
    """The array in the NPY file at ``path``.

    Raises:
        DataError: if it is damaged or of dtype object.
    """
    with guard(path, "NPY"):
        with path.open("rb") as file:
            _, dtype = header(file)
        if dtype.hasobject:
            raise DataError(f"{path}: holds Python objects (dtype object), not read here: save it as plain numbers")
        return np.asarray(np.load(path, allow_pickle=False))


def read(path: Path) -> Contents:
    """The one array of an NPY file, under the key ``data``."""
    return Contents(path, "npy", {"data": Entry.of(load(path))})


def read_npz(path: Path) -> Contents:
    """The arrays of an NPZ file by their names."""
    entries: dict[str, Entry] = {}
    with guard(path, "NPZ"), zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            if not member.endswith(".npy"):
                continue
            with archive.open(member) as file:
                shape, dtype = header(file)
            name = member[: -len(".npy")]
            entries[name] = Entry(shape, str(dtype), partial(_load_member, path, name))
    return Contents(path, "npz", entries)


def _load_member(path: Path, name: str) -> np.ndarray:
    with np.load(path, allow_pickle=False) as archive:
        return np.asarray(archive[name])
