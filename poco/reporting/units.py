"""What a forecaster does unit by unit: scores, what its errors still hold, and examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from poco.data.splits import Split
from poco.plots.examples import Example, SpacedForecasts
from poco.scoring import forecasts_of

if TYPE_CHECKING:
    from poco.models import Forecaster

Floats = npt.NDArray[np.float64]

#: Longest lag of autocorrelations, in frames.
LAGS = 32
_WINDOWS = 64  # that examples are chosen from


@dataclass(frozen=True, eq=False)
class UnitResults:
    """Errors of one session, unit by unit, over all windows of a part.

    Attributes:
        session: name of the session.
        score: ``[N]`` 1 - MSE / MSE of repeating the last frame; NaN for a unit that never moves.
        autocorrelation: ``[N, L + 1]`` of the errors one step ahead, lags 0 to ``L`` frames; NaN for a unit with none.
        frames: frames that the autocorrelation is taken over.
    """

    session: str
    score: Floats
    autocorrelation: Floats
    frames: int


def unit_results(model: Forecaster, split: Split) -> list[UnitResults]:
    """Score every unit of every session of a split on the test part; the model is left in evaluation mode.

    Args:
        model: a forecaster whose vocabulary holds the sessions.
        split: recordings and parts.
    """
    windows, found = split.windows("test"), []
    for index, recording in enumerate(split.recordings):
        own, units = windows[windows.session == index], recording.units
        error, copy_error, ahead = np.zeros(units), np.zeros(units), []
        for _, batch, forecasts in forecasts_of({"": model}, split, own):
            assert batch.target is not None
            residual = forecasts[""].cpu().double() - batch.target.double()
            copied = (batch.x[:, -1:] - batch.target).double()
            error += _by_unit(residual, units)
            copy_error += _by_unit(copied, units)
            ahead.append(residual[:, 0].view(-1, units).numpy())
        with np.errstate(invalid="ignore", divide="ignore"):
            score = np.where(copy_error > 0, 1 - error / copy_error, np.nan)
        one_ahead = np.concatenate(ahead).T
        found.append(
            UnitResults(
                session=recording.session,
                score=score,
                autocorrelation=_autocorrelation(one_ahead, own.start),
                frames=one_ahead.shape[1],
            )
        )
    return found


def examples(model: Forecaster, split: Split, results: UnitResults) -> dict[str, Example]:
    """The best, the median and the worst unit of a session, each in the test window where its error is the median one.

    Args:
        model: the forecaster.
        split: recordings and parts.
        results: scores of the session's units.
    """
    shown = SpacedForecasts.of(model, split, split.session_index(results.session), "test", _WINDOWS)
    order = np.argsort(results.score)[: int(np.isfinite(results.score).sum())]  # NaN sorts last
    if not order.size:
        return {}
    found = {}
    for name, unit in (("best", order[-1]), ("median", order[len(order) // 2]), ("worst", order[0])):
        error = np.square(shown.forecast[:, unit] - shown.truth[:, unit]).mean(-1)
        window = int(np.argsort(error)[len(error) // 2])
        found[name] = shown.example(window, int(unit), float(results.score[unit]))
    return found


def _by_unit(error: torch.Tensor, units: int) -> Floats:
    total: Floats = error.square().sum(1).view(-1, units).sum(0).numpy()
    return total


def _autocorrelation(values: Floats, starts: np.ndarray) -> Floats:
    """``[N, L + 1]`` autocorrelation of ``[N, W]`` values of windows that start at ``starts``; no pair spans a gap."""
    centred = values - values.mean(1, keepdims=True)
    power = np.square(centred).mean(1)
    lags = range(min(LAGS, values.shape[1] - 1) + 1)
    found = np.full((values.shape[0], len(lags)), np.nan)
    for lag in lags:
        pairs = np.nonzero(starts[lag:] - starts[: len(starts) - lag] == lag)[0]
        if not pairs.size:
            continue
        with np.errstate(invalid="ignore", divide="ignore"):
            found[:, lag] = (centred[:, pairs] * centred[:, pairs + lag]).mean(1) / power
    return found
