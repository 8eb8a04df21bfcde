"""What the readers of HDF5 files share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from poco.errors import DataError, MissingExtraError


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """An HDF5 file; a DataError if it is none."""
    try:
        import h5py
    except ImportError:
        raise MissingExtraError.of("h5py", "formats", "reading HDF5 files") from None
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"{path} cannot be read as HDF5: {str(error).splitlines()[0]}") from error
    with file:
        yield file


def array(file: Any, key: str, path: Path, axes: int) -> np.ndarray:
    """An array of numbers; a DataError names file and key if it is not there, or has another number of axes."""
    if key not in file:
        raise DataError(f"{path} has no '{key}': it has {', '.join(list(file)[:12])}")
    found = np.asarray(file[key])
    if found.ndim != axes or found.dtype.kind not in "fiub":
        raise DataError(f"{path}: '{key}' is {found.dtype} of shape {found.shape}, not numbers on {axes} axes")
    return found
