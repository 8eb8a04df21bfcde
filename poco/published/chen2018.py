"""Zebrafish of Chen et al. 2018 (figshare 7272617): ``subject_K/TimeSeries.h5`` beside ``subject_K/data_full.mat``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from poco.data.description import absolute
from poco.data.readers import hdf5, matlab
from poco.data.recording import Recording
from poco.errors import DataError
from poco.published.arrays import array

PATTERN = "TimeSeries.h5"
#: Of each cell, in ``data_full.mat``; the first that is there.
_PLACES = ("data/CellXYZ_norm", "data/CellXYZ")
#: In ``TimeSeries.h5``: which of all cells these are, counted from 1.
_KEPT = "absIX"
_RATE = "data/fpsec"
_BEHAVIOUR = ("data/Behavior_full_motorseed", "data/BehaviorAvr_motorseed")


def sessions(path: Path) -> list[Recording]:
    """One fish: activity of all cells, their places, behaviour and rate where the file says them."""
    contents = hdf5.read(path)
    activity = array(contents, "CellResp", 2).T  # stored frames x cells
    kept = array(contents, _KEPT).ravel().astype(int) - 1 if _KEPT in contents.entries else None
    units, frames = activity.shape
    beside, warnings = path.with_name("data_full.mat"), []
    places, rate = None, None
    channels: dict[str, np.ndarray] = {}
    if not beside.exists():
        warnings.append(f"there is no {beside.name} beside {path.name}: no rate, no places of cells, no behaviour")
    else:
        more = matlab.read(beside)
        for name in _BEHAVIOUR:
            if name in more.entries:
                channels |= _channel(name, array(more, name), frames)
        if _RATE in more.entries:
            found = array(more, _RATE)
            if found.ndim:
                raise DataError(f"{beside}: '{_RATE}' has shape {found.shape}, it is to be one number")
            rate = float(found)
        else:
            warnings.append(f"{beside.name} has no '{_RATE}': the rate is not known")
        known = [array(more, name, 2) for name in _PLACES if name in more.entries]
        if kept is not None:  # of all cells that were found
            within = [table for table in known if kept.min(initial=0) >= 0 and kept.max(initial=0) < len(table)]
            if len(within) < len(known):
                warnings.append(f"'{_KEPT}' of {path.name} counts cells that {beside.name} has no places of")
            known = [table[kept] for table in within]
        places = next((p for p in known if p.shape == (units, 3)), None)
        if known and places is None:
            warnings.append(f"places of cells have shape {known[0].shape}, not {(units, 3)}: they are left out")
    return [
        Recording(
            activity,
            absolute(path).parent.name,
            rate_hz=rate,
            dataset="chen2018",
            coordinates=None if places is None else places.astype(np.float32),
            channels=channels,
            provenance={"file": str(path), "reader": "chen2018"},
            warnings=tuple(warnings),
        )
    ]


def _channel(name: str, values: np.ndarray, frames: int) -> dict[str, np.ndarray]:
    """``[T]`` or ``[T, k]`` behaviour that is in step with the frames; averages over trials are not."""
    values = values.astype(np.float32)
    if values.ndim == 2 and values.shape[1] == frames:
        values = values.T
    return {name.split("/")[1]: values} if values.shape[:1] == (frames,) else {}
