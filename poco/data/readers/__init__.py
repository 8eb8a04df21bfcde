"""Readers, one file per format, and the table that chooses between them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from poco.data.readers import caiman, csv, hdf5, matlab, npy, nwb, own, pickles, suite2p, zarr
from poco.data.readers.base import Contents, guard
from poco.errors import DataError

__all__ = ["FORMATS", "Contents", "open_file", "recognise"]

SUFFIXES = {
    ".nwb": "nwb",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".hdf": "hdf5",
    ".jld2": "hdf5",
    ".mat": "matlab",
    ".npy": "npy",
    ".npz": "npz",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "csv",
    ".pkl": "pickle",
    ".pickle": "pickle",
    ".zarr": "zarr",
}

_Reader = Callable[[Path, "str | None", str, float, bool], Contents]


def _hdf5(path: Path, key: str | None, rois: str, neuropil: float, header: bool) -> Contents:
    contents = hdf5.read(path)
    return caiman.read(path, rois=rois, contents=contents) if caiman.is_caiman(contents) else contents


def _npz(path: Path, key: str | None, rois: str, neuropil: float, header: bool) -> Contents:
    contents = npy.read_npz(path)
    return own.read(contents) if own.is_own(contents) else contents


FORMATS: dict[str, _Reader] = {
    "nwb": lambda path, key, rois, neuropil, header: nwb.read(path, key=key, rois=rois),
    "suite2p": lambda path, key, rois, neuropil, header: suite2p.read(path, rois=rois, neuropil=neuropil),
    "caiman": lambda path, key, rois, neuropil, header: caiman.read(path, rois=rois),
    "hdf5": _hdf5,
    "matlab": lambda path, key, rois, neuropil, header: matlab.read(path),
    "npy": lambda path, key, rois, neuropil, header: npy.read(path),
    "npz": _npz,
    "csv": lambda path, key, rois, neuropil, header: csv.read(path, header=header),
    "pickle": lambda path, key, rois, neuropil, header: pickles.read(path),
    "zarr": lambda path, key, rois, neuropil, header: zarr.read(path),
}
"""Readers by the name of their format."""


TITLED = ("npz", "suite2p")
"""Formats whose content, not the name of the file, may name the session."""


def recognise(path: Path) -> str | None:
    """The format of a file or folder, by its suffix, its first bytes or what lies in it; None if it is none of ours."""
    if path.is_dir():
        if any((path / mark).is_file() for mark in zarr.MARKS):
            return "zarr"
        return "suite2p" if suite2p.planes(path) else None
    known = SUFFIXES.get(path.suffix.lower())
    if known:
        return known
    with guard(path, "any format"), path.open("rb") as file:
        head = file.read(8)
    if head[:4] == b"\x89HDF":
        return "hdf5"
    if head[:6] == b"\x93NUMPY":
        return "npy"
    return "npz" if head[:4] == b"PK\x03\x04" else None


def open_file(
    path: Path,
    *,
    format: str | None = None,
    key: str | None = None,
    rois: str = "accepted",
    neuropil: float = 0.0,
    header: bool = False,
) -> Contents:
    """Open one file or folder with the reader of its format.

    Args:
        path: the file or folder.
        format: a name in ``FORMATS``; recognised if not given.
        key: the series to read, where the format needs to know it on opening (NWB).
        rois: ``"accepted"`` or ``"all"``, for formats that mark accepted cells.
        neuropil: fraction of the neuropil signal to subtract (suite2p).
        header: whether the first line of a table holds names.

    Raises:
        DataError: if it is missing, of an unknown format, or damaged.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    if not os.access(path, os.R_OK):
        raise DataError(f"{path}: no permission to read it")
    name = format or recognise(path)
    if name is None:
        raise DataError(
            f"{path}: unknown format; known are {', '.join(sorted(SUFFIXES))}, suite2p and zarr folders "
            "(say format = ... if the name misleads)"
        )
    if name not in FORMATS:
        raise DataError(f"{path}: there is no format '{name}'; known are {', '.join(FORMATS)}")
    return FORMATS[name](path, key, rois, neuropil, header)
