"""What the readers of HDF5 files share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from poco.data.readers.base import guard
from poco.data.readers.hdf5 import h5py
from poco.errors import DataError


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """An HDF5 file; a DataError if it is none, or damaged."""
    package = h5py()
    with guard(path, "HDF5"), package.File(path, "r") as file:
        yield file


def array(file: Any, key: str, path: Path, axes: int) -> np.ndarray:
    """An array of numbers; a DataError names file and key if it is not there, or has another number of axes."""
    if key not in file:
        raise DataError(f"{path} has no '{key}': it has {', '.join(list(file)[:12])}")
    found = np.asarray(file[key])
    if found.ndim != axes or found.dtype.kind not in "fiub":
        raise DataError(f"{path}: '{key}' is {found.dtype} of shape {found.shape}, not numbers on {axes} axes")
    return found
