"""Python pickles that hold numpy arrays and plain containers only; anything else is refused, never run."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from poco.data.readers.base import Contents, Entry, guard, text
from poco.data.readers.npy import header
from poco.errors import DataError

FORMAT = "pickle"

_PLAIN = {"set": set, "frozenset": frozenset, "complex": complex}
_NUMPY = {
    ("multiarray", "_reconstruct"),
    ("multiarray", "scalar"),
    ("numeric", "_frombuffer"),
}


class NumpyUnpickler(pickle.Unpickler):
    """An unpickler that can make numpy arrays, numbers, text and plain containers, and nothing else.

    Raises:
        DataError: when the file asks for any other class or function; it is named and not imported.
    """

    def __init__(self, file: BinaryIO, path: Path) -> None:
        super().__init__(file, encoding="latin1")
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        """The few globals that are harmless."""
        if module in ("builtins", "__builtin__") and name in _PLAIN:
            return _PLAIN[name]
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("_codecs", "encode"):
            return _encode
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        package, _, last = module.rpartition(".")
        if package in ("numpy.core", "numpy._core") and (last, name) in _NUMPY:
            return _numpy_function(last, name)
        raise DataError(
            f"{self._path}: the pickle asks for '{module}.{name}'; only numpy arrays and plain containers are read, "
            "because loading anything else can run code: save the arrays as .npz instead"
        )


def _encode(value: str, encoding: str = "latin1") -> bytes:
    """How old pickles store bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise ValueError(f"unexpected text encoding '{encoding}'")
    return value.encode("latin1")


def _numpy_function(module: str, name: str) -> Any:
    import importlib

    package = "numpy._core" if int(np.__version__.split(".")[0]) >= 2 else "numpy.core"
    return getattr(importlib.import_module(f"{package}.{module}"), name)


def load(path: Path) -> Any:
    """The object in the pickle at ``path``.

    Raises:
        DataError: if it is damaged or holds more than numpy arrays and plain containers.
    """
    with guard(path, FORMAT), path.open("rb") as file:
        return NumpyUnpickler(file, path).load()


def load_object_npy(path: Path) -> Any:
    """The objects in an ``.npy`` file of dtype object, through the restricted unpickler."""
    with guard(path, "NPY"), path.open("rb") as file:
        shape, dtype = header(file)
        if dtype.kind != "O":
            raise ValueError(f"dtype {dtype}, expected object")
        value = NumpyUnpickler(io.BytesIO(file.read()), path).load()
    return value.reshape(shape) if isinstance(value, np.ndarray) else value


def read(path: Path) -> Contents:
    """Arrays in a pickle; nested dictionaries give keys with ``/``, a tuple ``(1, 2)`` as a key reads ``1,2``."""
    value = load(path)
    entries: dict[str, Entry] = {}
    if isinstance(value, dict):
        _flatten(value, "", entries)
    else:
        entries["data"] = Entry.of(value)
    return Contents(path, FORMAT, entries)


def _flatten(value: dict[Any, Any], prefix: str, entries: dict[str, Entry]) -> None:
    for key, item in value.items():
        name = prefix + (",".join(map(text, key)) if isinstance(key, tuple) else text(key))
        if isinstance(item, dict) and item:
            _flatten(item, name + "/", entries)
        else:
            entries[name] = Entry.of(item)
