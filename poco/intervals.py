"""Intervals of prediction scores: by block bootstrap over time, and by Student's t over seeds, animals or sessions.

Windows that start a frame apart share nearly all their frames, so their errors rise and fall together, and a standard
error that takes them for independent is far too small. Here blocks of consecutive windows are drawn instead, so that
what overlaps stays together (Künsch 1989, "The jackknife and the bootstrap for general stationary observations", Annals
of Statistics 17, 1217-1241; in a circle, so that every window is drawn equally often: Politis and Romano 1992, "A
circular block-resampling procedure for stationary data"). A block is as long as the frames of one window, and longer by
what the errors themselves ask for (:func:`lasting_block`), as slow activity makes errors that last.

- Sessions are resampled within, not between: an interval speaks of these recordings, had they gone on in the same way,
  not of other animals.
- Intervals of few blocks are wide, and rough; of less than two they say little more than that nothing is known. What
  varies more slowly than the part is long is not seen at all: where activity drifts an interval is still too narrow.
- Where the windows of a session come in several segments (trials, the published protocol), they are joined end to end,
  and a block may run over a seam, as it may run from the last window to the first. Where segments are longer than a
  block that matters little; many short ones are treated as more alike, or less, than they were.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Any

import numpy as np

#: Lower and upper end of an interval.
Interval = tuple[float, float]

#: Resamples that an interval is read off.
RESAMPLES = 2000
#: How often an interval should hold the true score.
LEVEL = 0.95
#: Where a session has room for fewer blocks than these, intervals are rough.
FEW_BLOCKS = 4
#: What to say then.
ROUGH = f"Some sessions have room for less than {FEW_BLOCKS} blocks: the intervals are rough."
_BLOCKS_AT_ONCE = 2**17  # the bound on memory: the sums of this many blocks are gathered at a time


@dataclass(frozen=True)
class Ahead:
    """How far one forecaster is ahead of another on the same windows.

    Attributes:
        difference: score of the one minus score of the other.
        interval: 95% interval of the difference, from the same resampled blocks for both, or None.
        blocks: how many blocks the windows make up, all sessions together.
    """

    difference: float
    interval: Interval | None
    blocks: float | None = field(default=None, compare=False)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {"difference": self.difference, "interval": interval_to_json(self.interval), "blocks": self.blocks}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Ahead:
        """What :meth:`to_json` gave."""
        return cls(values["difference"], interval_from_json(values["interval"]), values["blocks"])

    @property
    def is_rough(self) -> bool:
        """Whether there is an interval, by few blocks."""
        return self.interval is not None and self.blocks is not None and self.blocks < FEW_BLOCKS

    def __str__(self) -> str:
        return f"{self.difference:+.3f}" + (" [{:+.3f}, {:+.3f}]".format(*self.interval) if self.interval else "")

    @property
    def explained(self) -> str:
        """The same, and what the interval is, for a sentence."""
        return f"{self} (95% interval of the difference)" if self.interval else str(self)


def interval_to_json(value: Interval | None) -> list[float] | None:
    """An interval as JSON has it, a list of its ends."""
    return None if value is None else list(value)


def interval_from_json(value: Sequence[float] | None) -> Interval | None:
    """What :func:`interval_to_json` gave."""
    if value is None:
        return None
    low, high = value
    return float(low), float(high)


def block_length(context: int, horizon: int, stride: int = 1) -> int:
    """Windows in a block: as many as start within the ``context + horizon`` frames of one window."""
    return -(-(context + horizon) // stride)


def lasting_block(errors: np.ndarray, copy_errors: np.ndarray, windows: Sequence[int], least: int) -> int:
    """Windows in a block for errors that last: ``least``, and as many more as the errors ask for.

    What they ask for is one and a half times the block of Politis and White 2004, "Automatic block-length selection
    for the dependent bootstrap" (Econometric Reviews 23, 53-70; corrected by Patton, Politis and White 2009): theirs
    has the least squared error of the variance, and an interval suffers more from one that is too small. It is taken
    from how much each window adds to the score, all sessions together.

    Args:
        errors: ``[W]`` float64, squared error of a forecaster on each window, session after session, or the difference
            of those of two forecasters.
        copy_errors: ``[W]`` float64, that of repeating the last frame.
        windows: number of windows of each session.
        least: the frames of one window, see :func:`block_length`.

    Returns:
        At least ``least``, and no more than leave two of them; ``least`` where an error is not finite.
    """
    whole = sum(windows)
    series = []
    for first, stop in itertools.pairwise(itertools.accumulate(windows, initial=0)):
        error, copy = errors[first:stop], copy_errors[first:stop]
        if not (np.isfinite(error).all() and 0 < copy.sum() < np.inf):
            return least
        series.append((error - error.sum() / copy.sum() * copy) / copy.mean())
    longer = int(np.ceil(1.5 * _automatic_block(series)))
    return max(least, min(least + longer, whole // 2))


def _automatic_block(series: Sequence[np.ndarray]) -> float:
    """The block length of Politis and White for a circular bootstrap of the mean of series ``[W]`` of mean zero."""
    count = sum(map(len, series))
    limit = min(3 * np.sqrt(count), count / 3)  # theirs
    lags = np.arange(1 + min(max(map(len, series)) - 1, int(4 * limit)))
    covariance = np.sum([_products(one, len(lags)) for one in series], axis=0) / count
    few = max(5, int(np.sqrt(np.log10(count))))
    # The last lag with a correlation to speak of: so many after it have none.
    low = np.abs(covariance[1:]) < 2 * np.sqrt(np.log10(count) / count) * covariance[0]
    runs = np.convolve(low, np.ones(few), "valid") if len(low) >= few else np.zeros(0)
    last = int(np.argmax(runs == few)) if (runs == few).any() else len(low)
    taper = np.clip(2 - lags / max(1, last), 0, 1)  # flat up to that lag, zero from twice as many on
    weighted = 2 * taper * covariance
    variance = weighted.sum() - covariance[0]
    if not variance > 0:
        return 0.0
    return float(min((1.5 * np.square((lags * weighted).sum() / variance) * count) ** (1 / 3), limit))


def _products(values: np.ndarray, lags: int) -> np.ndarray:
    """Sums of the products of values ``[W]`` that lie 0, 1, ... windows apart, ``[lags]``."""
    size = 1 << (len(values) + lags).bit_length()
    spectrum = np.fft.rfft(values, size)
    products: np.ndarray = np.fft.irfft(np.square(np.abs(spectrum)), size)[:lags]
    return products


def resampled_scores(
    errors: np.ndarray,
    copy_errors: np.ndarray,
    windows: Sequence[int],
    block: int,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> np.ndarray:
    """Scores of forecasters on resampled windows, the same windows for all of them.

    In each session as many windows are drawn as it has, in blocks of consecutive ones. The score of a resample is the
    mean over sessions of 1 - sum of errors / sum of errors of copy. Its distance from the score on the windows as they
    are is then stretched, for what few blocks understate. Blocks scatter about their own mean, which takes a share of
    ``block / W`` off the variance of a session with ``W`` windows. At most half of its windows are drawn together, and
    where that is less than ``block`` the variance is taken to grow with the length up to there. And the variance itself
    is only known as well as from ``1.5 W / block`` degrees of freedom, added up over sessions (its own variance is in
    Künsch 1989) and never less than one, for which Student's t is wider than the normal distribution. With 5 blocks
    that is 30% in all, with 50 it is 3%; with a single one it is a factor of 10. Among sessions of different lengths
    short ones scatter most, and what is known of long ones helps little: the degrees of freedom are then at most those
    of Satterthwaite 1946, "An approximate distribution of estimates of variance components" (Biometrics Bulletin 2,
    110-114).

    Args:
        errors: ``[F, W]`` float64, squared error of each forecaster on each window, session after session, in order of
            time.
        copy_errors: ``[W]`` float64, that of repeating the last frame.
        windows: number of windows of each session; they add up to ``W``.
        block: windows in a block, see :func:`lasting_block`.
        resamples: number of resamples, ``R``.
        seed: seed of the draw: the same seed, the same result.

    Returns:
        ``[F, R]`` float64; NaN if a session has a single window, or where an error is not finite. Memory is that of
        the result and a few times that of the errors.
    """
    counts = np.asarray(windows)
    blocks = np.clip(counts // 2, 1, block)
    if counts.min() < 2:
        return np.full((len(errors), resamples), np.nan)
    scatter = 1.0 / counts  # of each session's score, as a variance
    known = min(counts.sum() / block, scatter.sum() ** 2 / (scatter**2 * blocks / counts).sum())
    wider = t_quantile(max(1.0, 1.5 * float(known))) / NormalDist().inv_cdf((1 + LEVEL) / 2)
    stretch = np.sqrt(counts / (counts - blocks) * block / blocks) * wider
    bounds = np.concatenate([[0], np.cumsum(counts)])
    total = np.zeros((len(errors), resamples))
    with np.errstate(invalid="ignore", over="ignore"):  # errors that are not finite end as NaN
        for session in range(len(counts)):
            own = slice(bounds[session], bounds[session + 1])
            both = np.concatenate([errors[:, own], copy_errors[None, own]])
            random = np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, session))))
            score = _scores(both.sum(axis=1, keepdims=True))
            drawn = _scores(_resampled_sums(both, int(blocks[session]), resamples, random))
            total += score + stretch[session] * (drawn - score)
    return total / len(counts)


def interval(scores: np.ndarray, most: float = np.inf) -> Interval | None:
    """The 95% interval of resampled scores.

    Args:
        scores: ``[R]`` float64: a row of :func:`resampled_scores`, or one row minus another.
        most: the most that is possible, 1 for a score: few blocks are stretched beyond it.

    Returns:
        The quantiles 0.025 and 0.975; None if a score is not finite.
    """
    if not np.isfinite(scores).all():
        return None
    low, high = np.quantile(scores, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return min(float(low), most), min(float(high), most)


def _resampled_sums(errors: np.ndarray, block: int, resamples: int, random: np.random.Generator) -> np.ndarray:
    """Sums ``[F, R]`` of the errors ``[F, W]`` of one session over resampled windows."""
    windows = errors.shape[1]
    whole, rest = divmod(windows, block)  # the last block is cut to what is missing
    of_block, of_rest = _circular_sums(errors, block), _circular_sums(errors, rest)
    sums = np.empty((len(errors), resamples))
    step = max(1, _BLOCKS_AT_ONCE // (whole + 1))
    for first in range(0, resamples, step):
        some = slice(first, min(first + step, resamples))
        starts = random.integers(windows, size=(some.stop - first, whole + 1))
        for row in range(len(errors)):
            sums[row, some] = of_block[row].take(starts[:, :-1]).sum(axis=1) + of_rest[row].take(starts[:, -1])
    return sums


def _circular_sums(errors: np.ndarray, length: int) -> np.ndarray:
    """Sums ``[F, W]`` of ``length`` consecutive windows from each one on, the first following the last."""
    windows = errors.shape[1]
    running = np.zeros((len(errors), windows + length + 1))
    np.cumsum(np.concatenate([errors, errors[:, :length]], axis=1), axis=1, out=running[:, 1:])
    return running[:, length : length + windows] - running[:, :windows]


def _scores(sums: np.ndarray) -> np.ndarray:
    """Scores ``[F, R]`` from sums ``[F + 1, R]``, those of copy last; where it has no error, -inf, or 0 for none."""
    errors, copy = sums[:-1], sums[-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((copy <= 0) & (errors <= 0), 0.0, 1 - errors / np.maximum(copy, 0))


def mean_interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and half the width of its 95% t-interval; None for a single value.

    Where a value is not finite, or values lie too far apart for a float, neither are these.
    """
    numbers = np.asarray(values, np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        mean = float(numbers.mean())
        if numbers.size == 1:
            return mean, None
        return mean, float(t_quantile(numbers.size - 1) * numbers.std(ddof=1) / np.sqrt(numbers.size))


def mean_text(values: Sequence[float], digits: int = 3) -> str:
    """Mean and half its interval, where that is finite, as a table shows them; nothing of none."""
    if not values:
        return ""
    mean, half = mean_interval(values)
    form = f".{digits}f" if abs(mean) < 100 else ".2g"  # a forecast that blew up
    return f"{mean:{form}}" + (f" ± {half:{form}}" if half is not None and np.isfinite(half) else "")


def t_quantile(freedom: float) -> float:
    """How far a 95% interval of Student's t reaches to each side, for 1 degree of freedom and more, fractions too.

    With ``t = sqrt(freedom) tan(angle)`` the density of the angle is ``cos(angle) ** (freedom - 1)``, summed here on a
    grid (within 1e-4).
    """
    angle = np.linspace(0, min(np.pi / 2, 10 / np.sqrt(freedom)), 4097)
    density = np.cos(angle) ** (freedom - 1)
    share = np.concatenate([[0], np.cumsum(density[1:] + density[:-1])])
    return float(np.sqrt(freedom) * np.tan(np.interp(LEVEL * share[-1], share, angle)))
