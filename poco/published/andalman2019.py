"""Zebrafish of Andalman et al. 2019: ``NAME_CNMF_compressed.h5``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from poco.data.readers import hdf5
from poco.data.recording import Recording
from poco.errors import DataError
from poco.published.arrays import array

PATTERN = "*_CNMF_compressed.h5"
AREAS = ("LHb", "MHb", "ctel", "dthal", "gc", "raphe", "tel", "vent", "vthal")
#: Units whose median is no larger are left out, as published.
LEAST_MEDIAN = 1.0


def sessions(path: Path) -> list[Recording]:
    """One fish: dF/F by the median of each unit, ``(M - median) / (median + 1e-6)``, and the area of each unit."""
    contents = hdf5.read(path)
    fluorescence = array(contents, "M", 2).astype(np.float64)
    units = fluorescence.shape[0]
    area = np.full(units, "", dtype=object)
    for side in "lr":
        for name in AREAS:
            inside = array(contents, f"in_{side}_{name}", 1).astype(bool)
            if inside.size != units:
                raise DataError(f"{path}: 'in_{side}_{name}' has {inside.size} values for {units} units")
            area[inside & (area == "")] = f"{side}_{name}"
    median = np.median(fluorescence, axis=1)
    kept = np.flatnonzero(median > LEAST_MEDIAN)
    if not kept.size:
        raise DataError(f"{path}: no unit has a median above {LEAST_MEDIAN:g}")
    centre = median[kept, None]
    broken = int(np.isnan(median).sum())
    left_out = {f"with a median of {LEAST_MEDIAN:g} or less": units - kept.size - broken, "with NaN": broken}
    return [
        Recording(
            (fluorescence[kept] - centre) / (centre + 1e-6),
            path.name.removesuffix("_CNMF_compressed.h5"),
            unit_ids=tuple(map(str, kept)),
            dataset="andalman2019",
            labels={"area": tuple(area[kept])},
            provenance={"file": str(path), "reader": "andalman2019", "values": "dF/F by the median"},
            warnings=tuple(f"units {why} are left out: {count}" for why, count in left_out.items() if count),
        )
    ]
