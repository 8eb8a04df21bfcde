"""poco.replay: the score of forecasts against what then came."""

from __future__ import annotations

import numpy as np
import pytest

from poco.replay import ScoreSoFar
from poco.stream import StreamForecast


def forecast(values: np.ndarray | None, units: int = 2) -> StreamForecast:
    valid = np.ones(units, bool)
    return StreamForecast("ok", values, valid, frozenset(), 0, None, 0.1, 0)


def test_every_step_is_scored_when_its_frame_has_come() -> None:
    frames = np.array([[0.0, 0.0], [1.0, 2.0], [2.0, 4.0], [3.0, 6.0]], np.float32)
    score = ScoreSoFar(std=np.array([1.0, 2.0], np.float32))
    perfect = [np.stack([frames[t + 1], frames[t + 2]], 1) for t in range(2)]
    score.come(frames[0], forecast(perfect[0]))
    assert np.isnan(score.score)
    score.come(frames[1], forecast(perfect[1]))
    assert score.score == 1
    score.come(frames[2], forecast(None))
    assert (score.score, score.forecasts) == (1, 1)

    score = ScoreSoFar(std=np.array([1.0, 2.0], np.float32))
    repeated = np.repeat(frames[0][:, None], 2, 1)
    score.come(frames[0], forecast(repeated))
    score.come(frames[1], forecast(None))
    assert score.score == 0


def test_missing_values_and_units_that_are_not_valid_have_no_say() -> None:
    score = ScoreSoFar(std=np.ones(2, np.float32))
    wrong = forecast(np.array([[1.0], [9.0]], np.float32))
    wrong.valid[1] = False
    score.come(np.zeros(2, np.float32), wrong)
    score.come(np.array([1.0, 5.0], np.float32), forecast(np.ones((2, 1), np.float32)))
    assert score.score == 1
    score.come(np.array([np.nan, 1.0], np.float32), forecast(None))
    assert score.score == pytest.approx(1)
