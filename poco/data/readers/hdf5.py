"""Any HDF5 file, with MATLAB v7.3 and the dictionaries of Julia's JLD2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from poco.data.readers.base import Contents, Entry, guard
from poco.errors import DataError, optional


def h5py() -> Any:
    """The package h5py.

    Raises:
        MissingExtraError: if it is not installed.
    """
    with optional("h5py", "formats", "reading HDF5"):
        import h5py
    return h5py


@contextmanager
def opened(path: Path, kind: str = "HDF5") -> Iterator[Any]:
    """An HDF5 file; a DataError if it is none, or damaged."""
    package = h5py()
    with guard(path, kind), package.File(path, "r") as file:
        yield file


class _Hdf5Contents(Contents):
    """Contents whose keys may lead on into the dictionaries of a JLD2 file."""

    def get(self, key: str) -> Any:
        if key in self.entries:
            return super().get(key)
        parts = key.split("/")
        for cut in range(len(parts) - 1, 0, -1):
            if "/".join(parts[:cut]) in self.entries:
                with guard(self.path, self.format):
                    return _walk(self.path, "/".join(parts[:cut]), parts[cut:])
        return super().get(key)


def read(path: Path, *, matlab: bool = False) -> Contents:
    """All datasets by their paths; for MATLAB v7.3 files axes are turned so that shapes are MATLAB's own."""
    package = h5py()
    entries: dict[str, Entry] = {}

    def visit(name: str, item: Any) -> None:
        if not isinstance(item, package.Dataset) or name.startswith(("_types/", "#refs#/", "#subsystem#/")):
            return
        shape = tuple(item.shape) if item.shape is not None else ()
        kind = "text" if matlab and _is_text(item) else str(item.dtype)
        entries[name] = Entry(shape[::-1] if matlab else shape, kind, lambda: _load(path, name, turn=matlab))

    with opened(path, "MATLAB v7.3" if matlab else "HDF5") as file:
        file.visititems(visit)
    return _Hdf5Contents(path, "matlab" if matlab else "hdf5", entries)


def _load(path: Path, name: str, *, turn: bool) -> Any:
    package = h5py()
    with package.File(path, "r") as file:
        if turn and _is_text(file[name]):
            return np.array(_rows(file[name]))
        value = file[name][()]
        if isinstance(value, (package.Reference, bytes)) or getattr(value, "dtype", np.dtype("f4")).kind in "OV":
            return _decode(file, value)
    return value.T if turn and isinstance(value, np.ndarray) else value


def _follow(file: Any, value: Any) -> Any:
    """The value behind any number of object references."""
    reference = h5py().Reference
    while isinstance(value, reference):
        value = _stored(file[value]) if value else None
    return value


def _stored(item: Any) -> Any:
    """The value of a dataset; of a cell of MATLAB its text or its only number, "" where it is empty."""
    if "MATLAB_class" not in item.attrs:
        return item[()]
    if item.attrs.get("MATLAB_empty", 0):
        return ""
    if _is_text(item):
        return "".join(_rows(item))
    value = item[()]
    return value.ravel()[0] if value.size == 1 else value.T


def _is_text(item: Any) -> bool:
    """Whether a dataset is an array of characters of MATLAB."""
    return bool(item.attrs.get("MATLAB_class", b"") == b"char")


def _rows(item: Any) -> list[str]:
    """The rows of an array of characters, which lies in the file turned round."""
    if item.attrs.get("MATLAB_empty", 0):
        return []
    return ["".join(map(chr, row)) for row in np.atleast_2d(item[()].T)]


def _pairs(file: Any, value: Any) -> list[tuple[Any, Any]] | None:
    """The (key, value) pairs of a Julia dictionary, values not decoded yet; None for anything else."""
    if not (isinstance(value, np.ndarray) and value.dtype.kind == "O" and value.ndim == 1 and value.size > 0):
        return None
    records = [_follow(file, item) for item in value]
    if not all(isinstance(r, np.void) and r.dtype.names == ("first", "second") for r in records):
        return None
    return [(_decode(file, record["first"]), record["second"]) for record in records]


def _decode(file: Any, value: Any) -> Any:
    """References, records and bytes as dictionaries, lists, text and numbers."""
    value = _follow(file, value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.void):
        return {name: _decode(file, value[name]) for name in value.dtype.names or ()}
    if isinstance(value, np.ndarray) and value.dtype.kind in "OV":
        pairs = _pairs(file, value)
        if pairs is not None:
            return {key: _decode(file, item) for key, item in pairs}
        return [_decode(file, item) for item in value.ravel()]
    return value


def _walk(path: Path, name: str, parts: list[str]) -> Any:
    """The value that ``parts`` lead to inside the dataset ``name``; only what is asked for is decoded."""
    with h5py().File(path, "r") as file:
        value = _follow(file, file[name][()])
        for part in parts:
            pairs = _pairs(file, value)
            if pairs is not None:
                choices = {str(key): item for key, item in pairs}
            elif isinstance(value, np.void) and value.dtype.names:
                choices = {field: value[field] for field in value.dtype.names}
            else:
                choices = {}
            if part not in choices:
                raise DataError(
                    f"{path}: there is no '{part}' in '{name}'; it has {', '.join(list(choices)[:12]) or 'no keys'}"
                )
            value = _follow(file, choices[part])
        return _decode(file, value)
