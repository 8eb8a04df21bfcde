"""poco.online: a model is adapted beside its stream, and the stream goes on with it."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch
from helpers.parity import relative_error

import poco
from poco import core
from poco.data.recording import Recording
from poco.data.simulate import simulate
from poco.errors import ConfigError, DataError
from poco.online import AdaptationFailedError, OnlineAdaptation, Seen, without

pytestmark = pytest.mark.skipif(core.module() is None, reason="streaming needs the compiled core")

CONFIG = poco.POCOConfig(
    context=12, horizon=4, segment_length=6, latents=3, width=8, heads=2, head_width=8, film_width=16, embedding_std=0.3
)


@pytest.fixture(scope="module")
def recordings() -> list[Recording]:
    return simulate(3, 6, 400, seed=1, individuality=0.3)


@pytest.fixture(scope="module", params=["poco", "grounded"])
def joined(request: pytest.FixtureRequest, recordings: list[Recording]) -> Any:
    """A model of two animals that a third has joined by its first 200 frames."""
    if request.param == "poco":
        settings = poco.TrainConfig(steps=20, batch_size=8, val_every=10, device="cpu")
        options = {"model_config": CONFIG, "train_config": settings}
    else:
        config = poco.GroundedConfig(context=12, horizon=4, latents=0)
        settings = poco.TrainConfig(steps=4, batch_size=8, val_every=2, device="cpu")
        options = {"recipe": "grounded", "model_config": config, "train_config": settings}
    model = poco.train(recordings[:2], progress=False, **options).model
    first = Recording(recordings[2].activity[:, :200], "animal-3", rate_hz=20.0, dataset="simulated")
    return poco.adapt(model, first, mode="zero-shot" if request.param == "poco" else "embeddings").model


def finished(adaptation: OnlineAdaptation, stream: poco.Stream, frames: np.ndarray) -> tuple[int, Any]:
    """Push frames until the adapted model forecasts; the place of the frame, and its forecast."""
    deadline = time.monotonic() + 120
    for place in range(10**9):
        forecast = stream.push(frames[place % len(frames)])
        if "adapted" in forecast.marks:
            return place, forecast
        assert time.monotonic() < deadline
        if adaptation.done:
            assert adaptation.result()
        time.sleep(0.002)
    raise AssertionError


def test_the_stream_goes_on_with_the_adapted_model(joined: Any, recordings: list[Recording]) -> None:
    stream, frames = poco.Stream(joined, "animal-3", keep=1000), recordings[2].activity.T
    before = {n: p.clone() for n, p in joined.state_dict().items()}
    for frame in frames:
        stream.push(frame)
    steps = {"steps": 10, "batch_size": 8, "score_every": 5} if isinstance(joined, poco.POCO) else {}
    adaptation = stream.adapt_online(**steps)
    with pytest.raises(ConfigError, match="is going on"):
        stream.adapt_online()
    place, forecast = finished(adaptation, stream, frames)
    found = adaptation.result()
    assert found["session"] == "animal-3"
    again = poco.adapt(without(joined, "animal-3"), recordings[2], **steps)
    assert found["after"] == pytest.approx(again.after, abs=1e-6)
    # the forecast is that of the adapted model on the last frames, in the units of the recording
    window = np.stack([frames[k % len(frames)] for k in range(place - 11, place + 1)]).T
    mean, std = (value.numpy()[:, None] for value in again.model.normalisation("animal-3"))
    x = torch.from_numpy(((window - mean) / std).astype(np.float32))[None]
    with torch.no_grad():
        expected = again.model.eval()(x, session="animal-3")[0].numpy() * std + mean
    assert relative_error(torch.from_numpy(forecast.values), torch.from_numpy(expected)) < 1e-4
    for name, value in joined.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert stream.adapt_online(**steps).result(120)["session"] == "animal-3"  # and once more


def test_what_goes_wrong_leaves_the_stream_as_it_was(joined: Any, recordings: list[Recording]) -> None:
    stream, frames = poco.Stream(joined, "animal-3", keep=1000), recordings[2].activity.T
    with pytest.raises(ConfigError, match="open it with keep="):
        poco.Stream(joined, "animal-3").adapt_online()
    for frame in frames[:30]:
        stream.push(frame)
    adaptation = stream.adapt_online()
    with pytest.raises(AdaptationFailedError, match="30 frames leave no window"):
        adaptation.result(120)
    assert "adapted" not in stream.push(frames[30]).marks
    for frame in frames[31:]:
        stream.push(frame)
    with pytest.raises(AdaptationFailedError, match="unexpected keyword argument 'stepz'"):
        stream.adapt_online(stepz=3).result(120)
    cancelled = stream.adapt_online(mode="embeddings")
    cancelled.cancel()
    with pytest.raises(AdaptationFailedError, match="was cancelled"):
        cancelled.result()
    assert "adapted" not in stream.push(frames[0]).marks


def test_frames_are_kept_in_stretches_and_missing_values_held() -> None:
    seen = Seen(5, 2)
    for number in range(7):
        frame = np.array([number, np.nan if number in (2, 4) else 10 + number], np.float32)
        seen.add(frame, begins=number in (0, 4))
    recording = seen.recording("a", ("u", "v"), 2.0, "d")
    # kept: 2 to 6; the other unit is unknown in 2 (the first known one stands in) and in 4 (that of 3)
    np.testing.assert_array_equal(recording.activity, [[2, 3, 4, 5, 6], [13, 13, 13, 15, 16]])
    assert recording.stretches == ((0, 2), (2, 5))
    assert (recording.rate_hz, recording.unit_ids, recording.dataset) == (2.0, ("u", "v"), "d")
    never = Seen(5, 2)
    never.add(np.array([1, np.nan], np.float32), begins=True)
    with pytest.raises(DataError, match="unit 'v' was not seen"):
        never.recording("a", ("u", "v"), None, "d")


def test_what_the_stream_holds_as_missing_is_not_learnt() -> None:
    model = poco.POCO(CONFIG, [poco.SessionSpec("a", 2)])
    model.set_normalisation("a", np.zeros(2), np.ones(2))
    stream = poco.Stream(model, "a", keep=10)
    with pytest.raises(ConfigError, match="no frame was pushed yet"):
        stream.adapt_online()
    for frame in ([1, 2], [1e12, 3], [4, np.nan], [5, np.inf]):
        stream.push(frame)
    assert stream.stats()["held_values"] == 3
    kept = stream._seen
    assert kept is not None
    np.testing.assert_array_equal(kept.recording("a", ("u", "v"), None, "d").activity, [[1, 1, 4, 5], [2, 3, 3, 3]])


def test_a_gap_in_time_begins_a_stretch(recordings: list[Recording]) -> None:
    torch.manual_seed(0)
    model = poco.POCO(CONFIG, [poco.SessionSpec("a", 6)])
    model.set_normalisation("a", np.zeros(6), np.ones(6))
    stream = poco.Stream(model, "a", keep=100, interval=0.05)
    for number, frame in enumerate(recordings[0].activity.T[:40]):
        stream.push(frame, 0.05 * (number + (3 if number >= 20 else 0) + (100 if number >= 30 else 0)))
    kept = stream._seen
    assert kept is not None
    assert kept.recording("a", tuple("012345"), None, "d").stretches == ((0, 20), (20, 30), (30, 40))
