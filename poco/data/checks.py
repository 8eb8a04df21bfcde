"""Checks that recordings can be used together, before anything is computed from them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mode
from typing import Any

import numpy as np

from poco.data.recording import Recording
from poco.data.segments import taken
from poco.errors import ConfigError, DataError
from poco.wording import begun, counted, way_without

#: Frame rates of one data set may differ by this factor: a warning, beyond it an error.
RATE_TOLERANCE = 1.25

_FRAMES_A_CHUNK = 4096


def as_recordings(given: Any) -> tuple[Recording, ...]:
    """One recording or several as a tuple; a DataError says what was given in their place."""
    found = (given,) if isinstance(given, Recording) else given
    if isinstance(found, (str, Path)) or not isinstance(found, Sequence):
        raise DataError(f"recordings are wanted, not {type(given).__name__}: read them with poco.read")
    other = next((item for item in found if not isinstance(item, Recording)), None)
    if other is not None:
        raise DataError(f"recordings are wanted, not {type(other).__name__} among them: read them with poco.read")
    return tuple(found)


def check(recordings: Sequence[Recording], *, context: int, horizon: int) -> list[Recording]:
    """Check that recordings can be cut into windows and used together.

    Args:
        recordings: the sessions, in the order in which they will be used.
        context: frames a forecast is made from.
        horizon: frames that are forecast; 0 where only contexts are needed.

    Returns:
        The same recordings; sessions whose rate differs a little from the usual one of their data set, or that have the
        same activity as one before them, carry a warning.

    Raises:
        ConfigError: if ``context`` or ``horizon`` is not a positive number.
        DataError: for no recordings at all, a repeated session name, NaN or infinite values, a constant unit,
            fewer frames than one window, or different rates within one data set.
    """
    if context < 1 or horizon < 0:
        raise ConfigError(f"context must be at least 1 and horizon at least 0 frames, got {context} and {horizon}")
    if not recordings:
        raise DataError("there are no recordings: give at least one session")
    _check_names(recordings)
    for recording in recordings:
        check_values(recording)
        check_length(recording, context=context, horizon=horizon, alone=len(recordings) == 1)
    return _mark_copies(_check_rates(recordings))


def _check_names(recordings: Sequence[Recording]) -> None:
    seen: dict[str, Recording] = {}
    for recording in recordings:
        if recording.session in seen:
            files = [one.provenance.get("file", "") for one in (seen[recording.session], recording)]
            way = f", in {files[0]} and {files[1]}" if all(files) else ""
            way += ": give each recording a session name of its own"
            if all(files):
                way += ', such as name = "{folder}-{stem}" in dataset.toml under [sessions]'
            raise DataError(f"session '{recording.session}' occurs more than once{way}")
        seen[recording.session] = recording


def check_values(recording: Recording) -> None:
    """Raise a DataError if a value is NaN or infinite, or a unit is constant over the covered frames."""
    where = f"session '{recording.session}'"
    activity = recording.activity
    covered = np.zeros(recording.frames, dtype=bool)
    covered[taken(np.arange(recording.frames), recording.stretches)] = True
    bad = np.zeros(recording.units, dtype=np.int64)
    frames_bad = whole = 0
    low = np.full(recording.units, np.inf, dtype=np.float32)
    high = np.full(recording.units, -np.inf, dtype=np.float32)
    for first in range(0, recording.frames, _FRAMES_A_CHUNK):
        keep = covered[first : first + _FRAMES_A_CHUNK]
        if not keep.any():
            continue
        chunk = activity[:, first : first + _FRAMES_A_CHUNK]
        chunk = chunk if keep.all() else chunk[:, keep]
        missing = ~np.isfinite(chunk)
        bad += missing.sum(axis=1)
        frames_bad += int(missing.any(axis=0).sum())
        whole += int(missing.all(axis=0).sum())
        low = np.minimum(low, chunk.min(axis=1))
        high = np.maximum(high, chunk.max(axis=1))
    if bad.any():
        cut = "end stretches there when reading (--nan cut, or nan='cut')"
        if (bad == whole).all():
            raise DataError(f"{where}: {counted(whole, 'frame')} without a value of any unit: {cut}")
        option = way_without_nan(recording)
        way = f"drop such units when reading (--nan {option}, or nan='{option}')"
        if whole:
            way = (
                f"{whole} of them without a value of any unit: end stretches there and drop such units when reading "
                "(--nan cut-drop, or nan='cut-drop')"
            )
        units = np.flatnonzero(bad > whole)
        raise DataError(
            f"{where}: {counted(int(bad.sum()), 'NaN or infinite value')} in {_some_units(recording, units)}, over "
            f"{counted(frames_bad, 'frame')}{', ' if whole else ': '}{way}, or repair the recording"
        )
    constant = np.flatnonzero(low == high)
    if constant.size:
        raise DataError(
            f"{where}: {_some_units(recording, constant)} never {'changes' if constant.size == 1 else 'change'}: "
            "drop constant units when reading (--constant drop, or constant='drop'), or take them out of the array"
        )


def way_without_nan(recording: Recording) -> str:
    """The choice ``nan`` of reading that drops units with NaN: ``"drop"`` would drop all where frames were cut."""
    outside = np.delete(recording.activity, taken(np.arange(recording.frames), recording.stretches), axis=1)
    lost = ~np.isfinite(outside).any(axis=0)
    return "cut-drop" if lost.any() else "drop"


def check_length(recording: Recording, *, context: int, horizon: int, alone: bool = True) -> None:
    """Raise a DataError if no stretch of the recording, or of this one among others, holds one window."""
    longest = max(stop - start for start, stop in recording.stretches)
    if longest < context + horizon:
        what = f"{recording.frames} frames" if len(recording.stretches) == 1 else f"no stretch above {longest} frames"
        if recording.units > recording.frames:
            what += f" of {recording.units} units (is the orientation right?)"
        says = f"session '{recording.session}': {what}, but "
        if not horizon:
            raise DataError(f"{says}a forecast takes the {context} frames of the model's context")
        window = context + horizon
        raise DataError(
            f"{says}one window takes {window} (context {context} + horizon {horizon}), and training or adapting some "
            f"{5 * window}: {ways_when_short(recording, alone=alone)}"
        )


def ways_when_short(recording: Recording, *, alone: bool) -> str:
    """What to do where a recording is too short for the windows, and is the only one or not."""
    without = "" if alone else f", or leave the session out ({way_without(recording.session)})"
    return f"train with a shorter context or horizon{without}"


def activity_key(recording: Recording) -> str:
    """A text that recordings share whose activity is the same, whatever their names."""
    digest = hashlib.blake2b(repr(recording.activity.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(recording.activity).data)
    return digest.hexdigest()


def _mark_copies(recordings: Sequence[Recording]) -> list[Recording]:
    """The recordings, with a warning of each whose activity is that of one before it."""
    shapes = Counter(recording.activity.shape for recording in recordings)
    first: dict[str, str] = {}
    marked = []
    for recording in recordings:
        if shapes[recording.activity.shape] > 1:
            original = first.setdefault(activity_key(recording), recording.session)
            if original != recording.session:
                line = same_activity(recording.session, original)
                recording = replace(recording, warnings=(*recording.warnings, line))
        marked.append(recording)
    return marked


def same_activity(session: str, original: str) -> str:
    """What to say of two sessions that are one recording under two names."""
    return f"session '{session}' has the same activity as session '{original}': it is one recording under two names"


def rates_differ(one: float | None, other: float | None, factor: float = RATE_TOLERANCE) -> bool:
    """Whether two frame rates differ by more than a factor; not where one of them is not known."""
    return one is not None and other is not None and max(one, other) / min(one, other) > factor


def _check_rates(recordings: Sequence[Recording]) -> list[Recording]:
    usual = {}
    for dataset in {recording.dataset for recording in recordings}:
        known = [r for r in recordings if r.dataset == dataset and r.rate_hz is not None]
        if known:
            rate = mode(round(r.rate_hz or 0.0, 2) for r in known)
            usual[dataset] = next(r for r in known if round(r.rate_hz or 0.0, 2) == rate)
    checked = []
    for recording in recordings:
        other = usual.get(recording.dataset)
        if other is not None and recording.rate_hz is not None and other.rate_hz is not None:
            rate, against = recording.rate_hz, other.rate_hz
            says = (
                f"session '{recording.session}' has {rate:.4g} frames a second, session '{other.session}' {against:.4g}"
            )
            if rates_differ(rate, against):
                raise DataError(f"{says}: resample one of them, leave it out, or give the two different data set names")
            if rates_differ(rate, against, 1.01):
                recording = replace(recording, warnings=(*recording.warnings, f"{says}: used together all the same"))
        checked.append(recording)
    return _compare_data_sets(checked, usual)


def _compare_data_sets(recordings: list[Recording], usual: Mapping[str, Recording]) -> list[Recording]:
    """The recordings, the first of each data set with a warning where its rate is not that of the first one."""
    first = next((one for one in recordings if one.dataset in usual), None)
    said = set() if first is None else {first.dataset}
    checked = []
    for recording in recordings:
        if first is not None and recording.dataset in usual and recording.dataset not in said:
            said.add(recording.dataset)
            rate, against = usual[recording.dataset].rate_hz, usual[first.dataset].rate_hz
            if rates_differ(rate, against):
                warning = (
                    f"data set '{recording.dataset}' has {rate:.4g} frames a second, data set '{first.dataset}' "
                    f"{against:.4g}: a frame does not mean the same time in both"
                )
                recording = replace(recording, warnings=(*recording.warnings, warning))
        checked.append(recording)
    return checked


def _some_units(recording: Recording, units: np.ndarray) -> str:
    """``unit 'a'`` or ``3 units ('a', 'b', ...)``, for a message."""
    names = [f"'{recording.unit_ids[int(unit)]}'" for unit in units[:4]]
    return f"unit {names[0]}" if len(units) == 1 else f"{len(units)} units ({begun(names, 3)})"
