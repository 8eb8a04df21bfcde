"""Worms of Atanas and Kim et al. 2023 (WormWideWeb): one JSON file a worm, ``DATE-NN.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from poco.data.recording import Recording
from poco.errors import DataError

PATTERN = "????-??-??-??.json"


def sessions(path: Path) -> list[Recording]:
    """One worm: activity, names of the neurons that were identified, rate, and behaviour in step with the frames."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from error
    for key in ("trace_array", "labeled", "timestamp_confocal"):
        if key not in content:
            raise DataError(f"{path} has no '{key}': it has {', '.join(list(content)[:12])}")
    activity = _numbers(content["trace_array"])
    if activity is None or activity.ndim != 2:
        raise DataError(f"{path}: 'trace_array' is not a list of traces of one length")
    units, frames = activity.shape
    times = _numbers(content["timestamp_confocal"])
    if times is None or times.shape != (frames,):
        raise DataError(f"{path}: 'timestamp_confocal' has not a number for each of {frames} frames")
    names = [""] * units
    for place, entry in content["labeled"].items():
        number = int(place) if str(place).isdigit() else 0
        if not 1 <= number <= units or "label" not in entry:
            raise DataError(f"{path}: 'labeled' has an entry '{place}' that is no unit from 1 to {units} with a label")
        names[number - 1] = str(entry["label"])
    return [
        Recording(
            activity,
            path.stem,
            rate_hz=float(1 / np.median(np.diff(times))),
            dataset="atanas2023",
            labels={"neuron": tuple(names)},
            channels=_channels(content, frames),
            provenance={"file": str(path), "reader": "atanas2023"},
        )
    ]


def _channels(content: dict[str, Any], frames: int) -> dict[str, np.ndarray]:
    """All other lists of numbers that are as long as the recording."""
    found = {}
    for key, value in content.items():
        if key in ("trace_array", "trace_original", "timestamp_confocal") or not isinstance(value, list):
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
