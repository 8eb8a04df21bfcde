"""Results that CaImAn saves as HDF5: the group ``estimates``, traces component x frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from poco.data.readers import hdf5
from poco.data.readers.base import UNITS_FIRST, Contents, guard, text

FORMAT = "caiman"


def is_caiman(contents: Contents) -> bool:
    """Whether the arrays of an HDF5 file are those of CaImAn."""
    return "estimates/C" in contents.entries or "estimates/F_dff" in contents.entries


def read(path: Path, *, rois: str = "accepted", contents: Contents | None = None) -> Contents:
    """The traces of a CaImAn result: ``estimates/F_dff`` where it is there, otherwise the denoised ``estimates/C``.

    Components that CaImAn's evaluation did not accept (``estimates/idx_components``) are left out unless ``rois`` is
    ``"all"``. Centres come from the footprints ``estimates/A`` where these are there.
    """
    found = contents or hdf5.read(path)
    two_axes = [
        key
        for key in ("estimates/F_dff", "estimates/C")
        if key in found.entries and found.entries[key].numeric and len(found.entries[key].shape or ()) == 2
    ]
    result = Contents(path, FORMAT, found.entries, key=two_axes[0] if two_axes else None, orientation=UNITS_FIRST)
    result.rate_hz = _rate(found)
    if not two_axes:
        return result
    units = (found.entries[two_axes[0]].shape or (0,))[0]
    accepted = _array(found, "estimates/idx_components")
    if accepted is not None and accepted.ndim == 1:
        mask = np.zeros(units, dtype=bool)
        with guard(path, "CaImAn HDF5"):
            mask[accepted.astype(np.int64)] = True
        if rois == "all":
            result.labels["accepted"] = tuple("yes" if m else "no" for m in mask)
        else:
            result.keep = mask
            result.keep_reason = "not in estimates/idx_components"
    elif rois == "accepted":
        result.warnings.append("there is no estimates/idx_components: all components are taken")
    result.coordinates = _centres(found, units)
    return result


def _array(contents: Contents, key: str) -> np.ndarray | None:
    return np.asarray(contents.get(key)) if key in contents.entries and contents.entries[key].numeric else None


def _rate(contents: Contents) -> float | None:
    for key in ("params/data/fr", "estimates/fr"):
        if key in contents.entries:
            try:
                rate = float(text(np.asarray(contents.get(key)).reshape(-1)[0]))
            except (ValueError, IndexError):
                continue
            return rate if rate > 0 else None
    return None


def _centres(contents: Contents, units: int) -> np.ndarray | None:
    """Centres ``[N, 2]`` as (x, y) of the footprints, a sparse matrix pixel x component by columns."""
    parts: dict[str, Any] = {name: _array(contents, f"estimates/A/{name}") for name in ("data", "indices", "indptr")}
    dims = _array(contents, "dims")
    dims = _array(contents, "estimates/dims") if dims is None else dims
    if (
        any(part is None for part in parts.values())
        or dims is None
        or dims.size != 2
        or len(parts["indptr"]) != units + 1
    ):
        return None
    column = np.repeat(np.arange(units), np.diff(parts["indptr"]))
    weight = np.bincount(column, parts["data"], units)
    y, x = parts["indices"] % int(dims[0]), parts["indices"] // int(dims[0])
    with np.errstate(invalid="ignore", divide="ignore"):
        centres = np.stack([np.bincount(column, parts["data"] * axis, units) / weight for axis in (x, y)], axis=1)
    return centres.astype(np.float32)
