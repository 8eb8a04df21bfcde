"""Mice of the Harvey laboratory: ``MOUSE/SESSION/MOUSE_AREA_df_SESSION.mat``, one file for each area."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from poco.data.description import absolute
from poco.data.readers import matlab
from poco.data.recording import Recording
from poco.errors import DataError
from poco.published.arrays import array

AREAS = ("PPC", "RSP", "V1", "M2")
PATTERN = "*_df_*.mat"
#: All files of a folder are one session.
SESSION_A_FOLDER = True


def sessions(path: Path) -> list[Recording]:
    """The session that a file belongs to, of all areas that are there."""
    folder = absolute(path).parent
    mouse, session = folder.parent.name, folder.name
    there = {area: path.parent / f"{mouse}_{area}_df_{session}.mat" for area in AREAS}
    there = {area: file for area, file in there.items() if file.exists()}
    if not there:
        raise DataError(f"{path} is not MOUSE/SESSION/MOUSE_AREA_df_SESSION.mat with an area of {', '.join(AREAS)}")
    for file in sorted({path, *path.parent.glob(PATTERN)} - set(there.values())):
        raise DataError(f"{file} is none of {', '.join(one.name for one in there.values())}")
    parts = {area: array(matlab.read(file), f"{area}_df", 2) for area, file in there.items()}
    lengths = {area: values.shape[1] for area, values in parts.items()}
    if len(set(lengths.values())) > 1:
        raise DataError(f"{path.parent}: areas have different numbers of frames: {lengths}")
    return [
        Recording(
            np.concatenate(list(parts.values())),
            f"{mouse}_{session}",
            unit_ids=tuple(f"{area}_{unit}" for area, values in parts.items() for unit in range(len(values))),
            subject=mouse,
            dataset="harvey",
            labels={"area": tuple(area for area, values in parts.items() for _ in range(len(values)))},
            provenance={"file": ", ".join(map(str, there.values())), "reader": "harvey"},
        )
    ]
