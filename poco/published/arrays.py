"""Arrays of published files, which are as they were published or said not to be."""

from __future__ import annotations

import numpy as np

from poco.data.readers import Contents
from poco.errors import DataError


def array(contents: Contents, key: str, axes: int) -> np.ndarray:
    """An array of numbers; a DataError names file and key if it is not there, or has another number of axes."""
    if key not in contents.entries:
        raise DataError(f"{contents.path} has no '{key}': it has {', '.join(list(contents.entries)[:12])}")
    found = np.asarray(contents.get(key))
    if found.ndim != axes or found.dtype.kind not in "fiub":
        raise DataError(f"{contents.path}: '{key}' is {found.dtype} of shape {found.shape}, not numbers on {axes} axes")
    return found
