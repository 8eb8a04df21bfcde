"""Mean and deviation of units over frame ranges, by which activity is normalised."""

from __future__ import annotations

import json

import numpy as np

from poco.data.recording import Recording
from poco.data.segments import Segments, taken
from poco.errors import DataError
from poco.wording import as_list, counted


def statistics(recording: Recording, segments: Segments) -> tuple[np.ndarray, np.ndarray]:
    """Mean and population standard deviation of each unit over frame ranges, ``[N]`` float64 each."""
    mean = np.empty(recording.units)
    std = np.empty(recording.units)
    for unit, trace in enumerate(recording.activity):  # unit by unit: no float64 copy of the whole recording
        mean[unit], std[unit] = statistics_of(trace, segments)
    return mean, std


def statistics_of(trace: np.ndarray, segments: Segments) -> tuple[float, float]:
    """Mean and population standard deviation of the activity ``[T]`` of one unit over frame ranges."""
    values = taken(trace, segments).astype(np.float64)
    return float(values.mean()), float(values.std())


def check_epsilon(recording: Recording, std: np.ndarray, epsilon: float) -> list[str]:
    """Warn where what is added to the deviations is not small beside them."""
    median = float(np.median(std))
    if epsilon <= 0.1 * median:
        return []
    line = (
        f"session '{recording.session}': the published protocol adds {epsilon:g} to each deviation, and the median "
        f"unit's is {median:.2g}: normalised activity is too small by {1 + epsilon / median:.3g} times, so multiply "
        "the recording by a constant, or take the leak-free protocol"
    )
    return [line]


def check_deviation(recording: Recording, std: np.ndarray) -> list[str]:
    """Refuse units that are constant in the training part; warn of units that hardly move there."""
    where = f"session '{recording.session}'"
    traces = recording.activity  # of which frames outside all stretches may hold no value
    scale = np.array([np.abs(trace[np.isfinite(trace)]).max(initial=0) for trace in traces], dtype=np.float32)
    constant = np.flatnonzero(std <= 1e-7 * scale)
    if constant.size:
        names = [f"{recording.session}/{recording.unit_ids[int(unit)]}" for unit in constant]
        many = counted(len(names), "unit never changes", "units never change")
        listed = json.dumps(names, ensure_ascii=False)
        raise DataError(
            f"{where}: {many} in the training part, which gives no scale to normalise by: leave such units out with "
            f"--leave-out '{as_list(names)}', or leave_out = {listed} under [activity], or take them out of the array"
        )
    tiny = np.flatnonzero(std < np.finfo(np.float32).tiny)
    if tiny.size:
        raise DataError(
            f"{where}: unit '{recording.unit_ids[int(tiny[0])]}' deviates by {std[tiny[0]]:.2g} in the training part, "
            "too little to divide by in float32: multiply the activity by a constant"
        )
    still = np.flatnonzero(std < 0.01 * np.median(std))
    return [
        f"{where}: unit '{recording.unit_ids[int(unit)]}' hardly moves in the training part (its deviation is "
        f"{std[unit] / np.median(std):.2%} of the median unit's); normalised, it may weigh heavily elsewhere"
        for unit in still
    ]
