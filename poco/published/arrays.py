"""Arrays of published files, which are as they were published or said not to be."""

from __future__ import annotations

import numpy as np

from poco.data.readers import Contents
from poco.errors import DataError


def array(contents: Contents, key: str, axes: int | None = None) -> np.ndarray:
    """An array of numbers; a DataError names file and key if it is not there, or has another number of axes.

    Where this is left open, axes of length 1 are taken away.
    """
    if key not in contents.entries:
        raise DataError(f"{contents.path} has no '{key}': it has {', '.join(list(contents.entries)[:12])}")
    found = np.asarray(contents.get(key))
    if axes not in (None, found.ndim) or found.dtype.kind not in "fiub":
        what = "numbers" if axes is None else f"numbers on {axes} axes"
        raise DataError(f"{contents.path}: '{key}' is {found.dtype} of shape {found.shape}, not {what}")
    return found.squeeze() if axes is None else found
