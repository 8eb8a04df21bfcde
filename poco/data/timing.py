"""Rate of a session, and its contiguous stretches: where time has gaps, trials end or frames are missing."""

from __future__ import annotations

import itertools

import numpy as np

from poco.data import activity as activities
from poco.data.description import Description
from poco.data.readers import Contents
from poco.errors import DataError
from poco.wording import counted

#: Frames a second below and above which a mistake is likelier than such a recording.
_USUAL_HZ = (0.1, 1000.0)


def rate_of(description: Description, own: Contents, times: np.ndarray | None, warnings: list[str]) -> float | None:
    """Frames a second, as they were given or as the file has them; None if nothing says them."""
    how = description.activity
    measured = None
    if times is not None and len(times) > 1:
        measured = float(f"{1.0 / float(np.median(np.diff(times))):.6g}")
    rate = how.rate_hz
    if rate is None and how.rate_key is not None:
        value = own.get(how.rate_key)
        try:
            rate = float(np.asarray(value).item())
        except (TypeError, ValueError):
            raise DataError(f"{own.path}: '{how.rate_key}' should be the rate, got {str(value)[:40]!r}") from None
    if rate is None:
        rate = own.rate_hz
    elif own.rate_hz is not None and _apart(rate, own.rate_hz):
        warnings.append(f"the rate is given as {rate:g} Hz, the file itself says {own.rate_hz:g} Hz")
    if rate is not None and measured is not None and _apart(rate, measured):
        warnings.append(f"the rate is given as {rate:g} Hz, the time stamps say {measured:g} Hz")
    if measured is not None and own.imaging_hz is not None and _apart(own.imaging_hz, measured):
        warnings.append(f"the time stamps say {measured:g} Hz, the file's imaging plane {own.imaging_hz:g} Hz")
    if rate is None:
        rate = measured
    if rate is None:
        warnings.append("no rate is stated: times are in frames (say --rate, or rate_hz = ...)")
    if measured is not None and not _USUAL_HZ[0] <= measured <= _USUAL_HZ[1]:
        other = "s" if how.time_unit == "ms" else "ms"
        warnings.append(
            f"time stamps taken to be in {how.time_unit} say {measured:g} Hz, an unusual rate: if they are in {other}, "
            f'say --time-unit {other}, or time_unit = "{other}"'
        )
    elif rate is not None and not _USUAL_HZ[0] <= rate <= _USUAL_HZ[1]:
        warnings.append(f"{rate:g} Hz is an unusual rate for a recording: is it right?")
    return rate


def _apart(one: float, other: float) -> bool:
    """Whether two rates differ by more than rounding and dropped frames explain."""
    return abs(one / other - 1) > 0.02


def gaps_in_time(
    times: np.ndarray, longest: float | None, warnings: list[str], *, what: str = "time stamps", unit: str = "s"
) -> list[int]:
    """The frames that come after a gap.

    Args:
        times: ``[T]`` seconds.
        longest: interval that is no gap; None: one and a half of the usual one.
        warnings: is told of them.
        what: what they are called there.
        unit: what they are in.
    """
    if times.size <= 2:
        return []
    steps = np.diff(times)
    usual = float(np.median(steps))
    limit = longest or 1.5 * usual
    gaps = np.flatnonzero(steps > limit)
    if gaps.size:
        many = f"{gaps.size} gaps" if gaps.size > 1 else "a gap"
        warnings.append(
            f"irregular {what}: {many} longer than {limit:.3g} {unit} (usual interval {usual:.3g} {unit}, "
            f"longest {steps.max():.3g} {unit}); stretches end there"
        )
    return [int(gap) + 1 for gap in gaps]


def stretches_of(
    description: Description,
    known: tuple[tuple[int, int], ...],
    clock: activities.Clock,
    frames: int,
    warnings: list[str],
) -> tuple[tuple[int, int], ...]:
    """Contiguous ranges: those known, cut at gaps in time and, if the description says so, at trial borders."""
    borders: set[int] = set()
    if clock.times is not None:
        borders.update(gaps_in_time(clock.times, description.activity.gap, warnings))
    elif clock.counts is not None:
        borders.update(gaps_in_time(clock.counts, None, warnings, what="numbers of frames", unit="frames"))
    trial = description.trials
    if trial.frames:
        if trial.cut:
            borders.update(range(0, frames, trial.frames))
        else:
            warnings.append(
                f"the record is {trial.frames}-frame trials one after another; windows cross their borders "
                "(--cut-trials, or cut = true in dataset.toml under [trials], ends stretches there)"
            )
    found: list[tuple[int, int]] = []
    for start, stop in known:
        found += itertools.pairwise(sorted({start, stop} | {border for border in borders if start < border < stop}))
    return tuple(found)


def missing_frames(activity: np.ndarray) -> np.ndarray:
    """Which frames hold no value of any unit. ``[T]`` bool."""
    return ~np.isfinite(activity).any(axis=0)


def without(
    stretches: tuple[tuple[int, int], ...], missing: np.ndarray, name: str, choice: str, warnings: list[str]
) -> tuple[tuple[int, int], ...]:
    """The stretches without the frames ``[T]`` that are missing."""
    if not missing.any():
        return stretches
    found: list[tuple[int, int]] = []
    for start, stop in stretches:
        edges = np.flatnonzero(np.diff(np.r_[True, missing[start:stop], True])) + start
        found += [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    if not found:
        raise DataError(f"session '{name}': no frame holds a value of any unit")
    many = counted(missing.sum(), "frame is", "frames are")
    warnings.append(f'{many} missing in all units: stretches end there, because nan = "{choice}"')
    return tuple(found)
