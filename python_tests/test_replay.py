"""poco.replay: the score of forecasts against what then came."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.needs import needs_core

import poco
from poco.data.recording import Recording
from poco.errors import DataError, VocabularyError
from poco.replay import ScoreSoFar, replay
from poco.stream import Stream, StreamForecast

CONFIG = poco.POCOConfig(context=12, horizon=4, segment_length=6, latents=3, width=8, heads=2, head_width=8)


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


@pytest.fixture
def model() -> poco.POCO:
    found = poco.POCO(CONFIG, [poco.SessionSpec("a", ("u", "v", "w"))])
    found.set_normalisation("a", np.zeros(3), np.ones(3))
    found.metadata = {"rate_hz": {"a": 10.0}}
    return found.eval()


def recorded(**fields: object) -> Recording:
    activity = np.random.default_rng(0).normal(size=(3, 60)).astype(np.float32)
    given = {"activity": activity, "session": "a", "rate_hz": 10.0, "unit_ids": ("u", "v", "w"), **fields}
    return Recording(**given)  # type: ignore[arg-type]


@needs_core
def test_what_does_not_fit_the_session_is_refused_before_a_frame_is_played(model: poco.POCO) -> None:
    stream = Stream(model, "a")
    for recording, error, says in (
        (recorded(unit_ids=("w", "v", "u")), VocabularyError, "unit 0 is 'w', the model learnt 'u' there"),
        (recorded(rate_hz=3.0), DataError, "has 3 frames a second, the model learnt it at 10"),
        (recorded(rate_hz=None), DataError, "says no rate"),
        (recorded(activity=np.zeros((2, 60)), unit_ids=("u", "v")), VocabularyError, "has 2 units"),
    ):
        with pytest.raises(error, match=says):
            replay(stream, model, recording)
        if recording.rate_hz:
            with pytest.raises(error, match=says):
                poco.forecast(model, recording)
    assert stream.stats()["frames"] == 0


@needs_core
def test_activity_on_another_scale_than_the_model_learnt_is_told(model: poco.POCO) -> None:
    model.set_normalisation("a", np.full(3, 0.1), np.ones(3))
    with pytest.warns(RuntimeWarning, match=r"its activity is not on the scale .*its means lie 6\.9\d* standard"):
        replay(Stream(model, "a"), model, recorded(activity=recorded().activity + 7))


@needs_core
def test_nothing_reaches_across_a_cut(model: poco.POCO) -> None:
    recording = recorded(stretches=((0, 30), (30, 60)))
    played = list(replay(Stream(model, "a"), model, recording, speed=0))
    for number, found, _ in played:
        assert found.status == ("ok" if number % 30 >= 11 else "warming")
        assert found.marks == ({"restarted"} if number == 30 else set())
    alone = [
        list(replay(Stream(model, "a"), model, recorded(activity=part), speed=0))[-1][2]
        for part in (recording.activity[:, :30], recording.activity[:, 30:])
    ]
    score = played[-1][2]
    assert score.forecasts == sum(part.forecasts for part in alone) == 2 * (30 - 11 - 4)
    errors, repetitions = (sum(getattr(part, name) for part in alone) for name in ("_error", "_repetition"))
    assert score.score == pytest.approx(1 - errors / repetitions)
    assert len(list(replay(Stream(model, "a"), model, recording, speed=0, frames=40))) == 40


@needs_core
@pytest.mark.parametrize("huge", [3e37, np.inf, np.nan])
def test_one_value_out_of_all_range_does_not_ruin_the_score(model: poco.POCO, huge: float) -> None:
    recording = recorded()
    whole = list(replay(Stream(model, "a"), model, recording, speed=0))[-1][2]
    recording.activity[1, 40] = huge
    found = list(replay(Stream(model, "a"), model, recording, speed=0))[-1][2]
    assert found.forecasts == whole.forecasts
    assert found.score == pytest.approx(whole.score, abs=0.3)
