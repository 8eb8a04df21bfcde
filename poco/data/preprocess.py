"""What the published work does to recordings before anything else: components, filters, fewer frames a second."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from poco.data.recording import Recording
from poco.data.segments import taken
from poco.errors import ConfigError, DataError, optional

#: Order of the Butterworth filters, as published.
ORDER = 4
# Of a component over that of the first: less is rounding.
_LEAST_SINGULAR = 1e-6
_VALUES_AT_ONCE = 2**20  # about so many are filtered: the bound on memory


def downsample(recording: Recording, factor: int) -> Recording:
    """Means of ``factor`` frames each, of activity and channels.

    No mean spans two stretches; frames at the end of a stretch that do not make up a whole one are left out.

    Raises:
        ConfigError: if the factor is below 1.
        DataError: if no stretch is long enough for a frame.
    """
    if factor < 1:
        raise ConfigError(f"downsampling is by a whole number of frames, got {factor}")
    pieces, stretches, count = [], [], 0
    for start, stop in recording.stretches:
        length = (stop - start) // factor
        if length:
            pieces.append(np.arange(start, start + length * factor).reshape(length, factor))
            stretches.append((count, count + length))
            count += length
    if not pieces:
        raise DataError(f"session '{recording.session}': no stretch has {factor} frames")
    frames = np.concatenate(pieces)
    return dataclasses.replace(
        recording,
        activity=recording.activity[:, frames].mean(-1, dtype=np.float64),
        rate_hz=None if recording.rate_hz is None else recording.rate_hz / factor,
        channels={name: values[frames].mean(1) for name, values in recording.channels.items()},
        stretches=tuple(stretches),
        origin=None,
        provenance=_done(recording, f"means of {factor} frames"),
    )


def butterworth(
    recording: Recording,
    *,
    low: float | None = None,
    high: float | None = None,
    causal: bool = False,
    padded: bool = True,
) -> Recording:
    """A Butterworth filter of order 4 over each stretch: low-pass, high-pass or band-pass.

    Args:
        recording: what to filter.
        low: cut-off in cycles a frame below which frequencies are taken away; None: none are.
        high: cut-off above which they are. The published cut-offs are stated as .2, and as .001 to .2 for the
            band-pass, and halved in the code: .1, and .0005 to .1.
        causal: forwards alone, as at a rig: each frame knows of earlier ones only, and is delayed. Otherwise forwards
            and backwards, as published: nothing is delayed, but each frame holds some of what came **after** it, so
            that scores of forecasts are better than they can be in an experiment.
        padded: forwards and backwards over a stretch with both its ends mirrored beyond them, so that the filter is
            settled where the stretch begins. False as in the published code, which filters z-scores from rest: each
            pass begins as if all before it had been the unit's mean, which draws both ends towards it. Of no effect
            where ``causal``, whose filter begins as if all before had been the first frame.

    Raises:
        ConfigError: if there is no cut-off, or they are not in order between 0 and .5.
        DataError: if a stretch is too short to be padded, or a unit has NaN in one.
        MissingExtraError: if scipy is missing.
    """
    with optional("scipy", "formats", "filtering recordings"):
        from scipy import signal
    given = [cut for cut in (low, high) if cut is not None]
    if not given or not all(0 < cut < 0.5 for cut in given) or given != sorted(set(given)):
        raise ConfigError(f"cut-offs are in cycles a frame, 0 < low < high < 0.5; got low {low}, high {high}")
    kind = "bandpass" if len(given) == 2 else "highpass" if high is None else "lowpass"
    sections = signal.butter(ORDER, given if len(given) == 2 else given[0], kind, fs=1.0, output="sos")
    shortest = min(stop - start for start, stop in recording.stretches)
    padding = 3 * (2 * len(sections) + 1)
    if shortest <= padding and padded and not causal:
        raise DataError(
            f"session '{recording.session}': a stretch of {shortest} frames is too short to filter, which takes more "
            f"than {padding}: filter from rest (padded=False, --from-rest) or forwards alone (causal=True, --causal)"
        )
    _refuse_nan(recording, taken(recording.activity, recording.stretches), "a filter would spread them")

    def forwards(piece: npt.NDArray[np.float64], before: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """One pass, begun as if all before it had been ``before`` ``[N, 1]``."""
        return signal.sosfilt(sections, piece, zi=signal.sosfilt_zi(sections)[:, None, :] * before)[0]

    def both_ways(piece: npt.NDArray[np.float64], mean: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """As published, from the mean ``[N, 1]``."""
        kept = mean if low is None else np.zeros_like(mean)  # only a low-pass filter lets the mean through
        return forwards(forwards(piece, mean)[:, ::-1], kept)[:, ::-1]

    activity = recording.activity.copy()
    pieces = min(recording.units, activity.size // _VALUES_AT_ONCE + 1)
    for units in np.array_split(activity, pieces):  # views, which are written to
        mean = taken(units, recording.stretches).mean(1, keepdims=True, dtype=np.float64)
        for start, stop in recording.stretches:
            piece = units[:, start:stop].astype(np.float64)
            if causal:
                piece = forwards(piece, piece[:, :1])
            else:
                piece = signal.sosfiltfilt(sections, piece) if padded else both_ways(piece, mean)
            units[:, start:stop] = piece
    way = "forwards" if causal else "forwards and backwards" + (", padded" if padded else ", from the mean")
    later = (*recording.warnings, "filtered backwards too: each frame holds some of what came after it")
    return dataclasses.replace(
        recording,
        activity=activity,
        origin=None,
        provenance=_done(recording, f"{kind} {given} cycles a frame, {way}"),
        warnings=recording.warnings if causal else later,
    )


def components(recording: Recording, count: int, *, frames: Sequence[tuple[int, int]] | None = None) -> Recording:
    """The first principal components of the z-scored units, in place of the units.

    Args:
        recording: what to take them of.
        count: how many; the published ones are 512, and 100 for worms.
        frames: ranges that mean, deviation and components are fitted to, such as those of a training part; None: all,
            as published, which is to know the frames that will be forecast.

    Returns:
        A recording whose units are named ``pc0``, ``pc1``, ...; labels and places of units are gone, the share of the
        variance that they hold is in its provenance.

    Raises:
        ConfigError: if there are fewer units or frames than components, units that follow from others leave fewer, or
            ``frames`` are no frames of the recording.
        DataError: if a unit is constant or has NaN.
    """
    ranges = recording.stretches if frames is None else [(start, stop) for start, stop in frames]
    if not ranges or not all(0 <= start < stop <= recording.frames for start, stop in ranges):
        raise ConfigError(
            f"session '{recording.session}': frames to fit to are ranges (start, stop) of its {recording.frames}, got "
            f"{list(ranges)}"
        )
    fitted = taken(recording.activity, ranges)
    if not 1 <= count <= min(fitted.shape):
        units, length = fitted.shape
        raise ConfigError(f"session '{recording.session}': {units} units in {length} frames have no {count} components")
    mean, std = fitted.mean(1, keepdims=True, dtype=np.float64), fitted.std(1, keepdims=True, dtype=np.float64)
    _refuse_nan(recording, fitted, "components would hold them")
    if not (std > 0).all():
        bad = recording.unit_ids[int(np.flatnonzero(std[:, 0] == 0)[0])]
        raise DataError(f"session '{recording.session}': unit '{bad}' is constant: leave it out first")
    vectors, singular = _leading(_z_scores(fitted, mean, std), count)
    rank = int((singular > _LEAST_SINGULAR * singular[0]).sum())
    if rank < count:
        raise ConfigError(f"session '{recording.session}': its units make no more than {rank} components")
    held = float(np.square(singular).sum() / fitted.size)  # each z-score's square is 1 on average
    what = f"{count} principal components, {held:.1%} of the variance"
    what += " of all frames" if frames is None else " of " + " and ".join(f"frames {a} to {b}" for a, b in ranges)
    all_known = (*recording.warnings, "components of all frames: they know those that will be forecast")
    return dataclasses.replace(
        recording,
        activity=vectors.T @ _z_scores(recording.activity, mean, std),
        unit_ids=tuple(f"pc{number}" for number in range(count)),
        labels={},
        coordinates=None,
        origin=None,
        provenance=_done(recording, what),
        warnings=all_known if frames is None else recording.warnings,
    )


def _refuse_nan(recording: Recording, activity: npt.NDArray[Any], why: str) -> None:
    bad = np.flatnonzero(~np.isfinite(activity).all(1))
    if bad.size:
        name = recording.unit_ids[int(bad[0])]
        raise DataError(
            f"session '{recording.session}': {bad.size} units have values that are no numbers ('{name}' is one), and "
            f"{why}: leave out such units (nan='drop', --nan drop), such frames (nan='cut') or both (nan='cut-drop')"
        )


def _z_scores(activity: np.ndarray, mean: np.ndarray, std: np.ndarray) -> npt.NDArray[np.float64]:
    scores: npt.NDArray[np.float64] = activity - mean
    scores /= std
    return scores


def _leading(scores: npt.NDArray[np.float64], count: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """``[N, K]`` directions and their singular values, largest first, each direction's largest entry positive."""
    units, frames = scores.shape
    if units <= frames:
        values, vectors = np.linalg.eigh(scores @ scores.T)
    else:
        values, inner = np.linalg.eigh(scores.T @ scores)
        values, inner = values[-count:], inner[:, -count:]
        vectors = scores @ inner / np.sqrt(np.maximum(values, 1e-300))
    vectors, values = vectors[:, ::-1][:, :count], values[::-1][:count]
    signs = np.sign(vectors[np.abs(vectors).argmax(0), np.arange(count)])
    return vectors * signs, np.sqrt(np.maximum(values, 0))


def _done(recording: Recording, what: str) -> dict[str, str]:
    before = recording.provenance.get("preprocessing")
    return {**recording.provenance, "preprocessing": f"{before}; {what}" if before else what}
