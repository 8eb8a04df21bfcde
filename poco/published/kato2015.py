"""Worms of Kato et al. 2015: ``NoStim_Data.mat`` (MATLAB v7.3, which is HDF5), five worms in one struct array."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from poco.data.readers.hdf5 import opened
from poco.data.recording import Recording
from poco.errors import DataError

PATTERN = "NoStim_Data.mat"
_STRUCT, _ACTIVITY, _NAMES, _RATE, _STATES = "NoStim_Data", "deltaFOverF_bc", "NeuronNames", "fps", "States"


def sessions(path: Path) -> list[Recording]:
    """The worms: activity, names of neurons where they are known, rate, and behavioural states as channels."""
    with opened(path) as file:
        if _STRUCT not in file:
            raise DataError(f"{path} has no '{_STRUCT}': it has {', '.join(list(file)[:12])}")
        struct = file[_STRUCT]
        for field in (_ACTIVITY, _NAMES, _RATE):
            if field not in struct:
                raise DataError(f"{path}: '{_STRUCT}' has no field '{field}': it has {', '.join(list(struct)[:12])}")
        count = struct[_ACTIVITY].size
        return [_worm(file, struct, worm, path) for worm in range(count)]


def _worm(file: Any, struct: Any, worm: int, path: Path) -> Recording:
    def field(name: str) -> Any:
        return file[struct[name][()].ravel()[worm]]

    activity = np.asarray(field(_ACTIVITY))
    if activity.ndim != 2:
        raise DataError(f"{path}: '{_ACTIVITY}' of worm {worm + 1} has shape {activity.shape}, not two axes")
    names = [_name(file, cell) for cell in np.asarray(field(_NAMES)).ravel()]
    if activity.shape[0] != len(names) == activity.shape[1]:
        activity = activity.T  # MATLAB's frames x neurons lies in the file transposed; other writers' does not
    if len(names) != activity.shape[0]:
        raise DataError(f"{path}: worm {worm + 1} has {len(names)} names for {activity.shape[0]} neurons")
    channels = {}
    if _STATES in struct:
        for name, stored in field(_STATES).items():
            values = np.asarray(stored, dtype=np.float32).ravel()
            if values.size == activity.shape[1]:
                channels[name] = values
    rate = float(np.asarray(field(_RATE)).ravel()[0])
    return Recording(
        activity,
        f"worm-{worm + 1}",
        rate_hz=rate,
        dataset="kato2015",
        labels={"neuron": tuple("" if name.isdigit() else name for name in names)},
        channels=channels,
        provenance={"file": str(path), "reader": "kato2015", "key": f"{_STRUCT}({worm + 1}).{_ACTIVITY}"},
    )


def _name(file: Any, reference: Any) -> str:
    """The text of a cell; of one that is a list of names itself, those of it joined by a slash; "" if it is empty."""
    found = file[reference]
    if found.attrs.get("MATLAB_empty", 0):
        return ""
    values = np.asarray(found)
    if values.dtype.kind == "O":
        return "/".join(filter(None, (_name(file, inner) for inner in values.ravel())))
    if values.dtype.kind in "fiu" and found.attrs.get("MATLAB_class", b"char") != b"char":
        return str(int(values.ravel()[0]))  # a neuron without a name has its number
    return "".join(chr(int(code)) for code in values.ravel(order="F"))
