"""Zarr folders, versions 2 and 3."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from poco.data.readers.base import Contents, Entry, guard
from poco.errors import optional

MARKS = (".zarray", ".zgroup", "zarr.json")


def read(path: Path) -> Contents:
    """All arrays by their paths in the store; a store that is one array has the key ``data``."""
    with optional("zarr", "formats", "reading zarr"):
        import zarr
    entries: dict[str, Entry] = {}
    with guard(path, "zarr"):
        root: Any = zarr.open(str(path), mode="r")
        if isinstance(root, zarr.Array):
            entries["data"] = _entry(root)
        else:
            _collect(root, "", entries, zarr.Array)
    return Contents(path, "zarr", entries)


def _collect(group: Any, prefix: str, entries: dict[str, Entry], array_type: type) -> None:
    for name in sorted(group.keys()):
        item = group[name]
        if isinstance(item, array_type):
            entries[prefix + name] = _entry(item)
        else:
            _collect(item, f"{prefix}{name}/", entries, array_type)


def _entry(array: Any) -> Entry:
    return Entry(tuple(array.shape), str(array.dtype), lambda: np.asarray(array[...]))
