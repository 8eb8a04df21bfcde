"""Worms of Atanas and Kim et al. 2023 (WormWideWeb): one JSON file a worm, ``DATE-NN.json``, or the same in bzip2.

The site calls its downloads ``atanas_kim_2023-DATE-NN``, which are read as well. It has laid its files out in two ways:
flat at first, later in groups (``gcamp``, ``timing``, ``behavior``, ...).
"""

from __future__ import annotations

import bz2
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np

from poco.data.recording import Recording
from poco.data.timing import gaps_in_time
from poco.errors import DataError

PATTERN = "[!.]*???-??-??-??.json*"
_GROUPS = ("gcamp", "timing", "behavior")


def sessions(path: Path) -> list[Recording]:
    """One worm: activity, names of the neurons that were identified, rate, and behaviour in step with the frames."""
    try:
        content = json.loads(bz2.decompress(path.read_bytes()) if path.suffix == ".bz2" else path.read_bytes())
    except (ValueError, OSError) as error:
        raise DataError(f"{path} is not JSON{' in bzip2' * (path.suffix == '.bz2')}: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds no object of named values")
    grouped = "gcamp" in content
    if grouped:
        # How its 'label' counts the units is not known, so names are left out.
        content = {"labeled": {}} | {k: v for group in _GROUPS for k, v in content.get(group, {}).items()}
    for key in ("trace_array", "labeled", "timestamp_confocal"):
        if key not in content:
            raise DataError(f"{path} has no '{key}': it has {', '.join(list(content)[:12])}")
    activity = _numbers(content["trace_array"])
    if activity is None or activity.ndim != 2:
        raise DataError(f"{path}: 'trace_array' is not a list of traces of one length")
    if grouped and len(content["timestamp_confocal"]) == activity.shape[0] != activity.shape[1]:
        activity = activity.T
    units, frames = activity.shape
    times = _numbers(content["timestamp_confocal"])
    if times is None or times.shape != (frames,):
        raise DataError(f"{path}: 'timestamp_confocal' has not a number for each of {frames} frames")
    names, labeled = [""] * units, content["labeled"] or {}
    if not isinstance(labeled, dict):
        raise DataError(f"{path}: 'labeled' is no object of named units")
    for place, entry in labeled.items():
        number = int(place) if str(place).isdecimal() else 0
        if not 1 <= number <= units or not isinstance(entry, dict) or "label" not in entry:
            raise DataError(f"{path}: 'labeled' has an entry '{place}' that is no unit from 1 to {units} with a label")
        names[number - 1] = str(entry["label"])
    warnings = ["how the file numbers its named neurons is not known: names are left out"] if grouped else []
    borders = gaps_in_time(times, None, warnings)
    return [
        Recording(
            activity,
            path.name.split(".")[0].removeprefix("atanas_kim_2023-"),
            rate_hz=float(1 / np.median(np.diff(times))),
            dataset="atanas2023",
            labels={} if grouped else {"neuron": tuple(names)},
            channels=_channels(content, frames),
            provenance={"file": str(path), "reader": "atanas2023"},
            stretches=tuple(itertools.pairwise([0, *borders, frames])),
            warnings=tuple(warnings),
        )
    ]


def _channels(content: dict[str, Any], frames: int) -> dict[str, np.ndarray]:
    """All other lists of numbers that are as long as the recording."""
    found = {}
    for key, value in content.items():
        if key.startswith("trace_") or key == "timestamp_confocal" or not isinstance(value, list):
            continue
        values = _numbers(value)
        if values is not None and values.shape == (frames,):
            found[key] = values.astype(np.float32)
    return found


def _numbers(value: Any) -> np.ndarray | None:
    """A list of numbers or of lists of them, null being NaN; None if it is anything else."""
    try:
        return np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        return None
