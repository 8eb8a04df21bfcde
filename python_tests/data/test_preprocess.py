"""poco.data.preprocess: by hand, and against what a filter or a component is."""

from __future__ import annotations

import re
import tracemalloc

import numpy as np
import pytest
from helpers.recordings import waves

from poco.data import preprocess
from poco.data.preprocess import butterworth, components, downsample
from poco.data.recording import Recording
from poco.errors import ConfigError, DataError

signal = pytest.importorskip("scipy.signal", reason="needs the extra 'formats'")


def test_downsampling_by_hand() -> None:
    recording = Recording(
        np.arange(22.0).reshape(2, 11),
        "a",
        rate_hz=6.0,
        stretches=((0, 5), (5, 6), (7, 11)),
        channels={"x": np.arange(11.0, dtype=np.float32)},
    )
    found = downsample(recording, 2)
    np.testing.assert_array_equal(found.activity, [[0.5, 2.5, 7.5, 9.5], [11.5, 13.5, 18.5, 20.5]])
    np.testing.assert_array_equal(found.channels["x"], [0.5, 2.5, 7.5, 9.5])
    assert (found.rate_hz, found.stretches) == (3.0, ((0, 2), (2, 4)))
    assert found.provenance["preprocessing"] == "means of 2 frames"
    with pytest.raises(ConfigError, match="got 0"):
        downsample(recording, 0)
    with pytest.raises(DataError, match="no stretch has 6 frames"):
        downsample(recording, 6)


def tone(frequency: float, frames: int = 2000) -> np.ndarray:
    return np.sin(2 * np.pi * frequency * np.arange(frames))


@pytest.mark.parametrize(("causal", "half"), [(False, 0.5), (True, np.sqrt(0.5))])
def test_filters_let_through_what_they_should(causal: bool, half: float) -> None:
    tones = Recording(np.stack([tone(0.01), tone(0.1), tone(0.3)]), "a")

    def kept(**cuts: float) -> np.ndarray:
        middle = butterworth(tones, causal=causal, **cuts).activity[:, 500:1500]
        return np.sqrt(2 * np.square(middle).mean(1))

    # a Butterworth filter has half of the power at its cut-off; twice applied, a quarter
    np.testing.assert_allclose(kept(high=0.1), [1, half, 0], atol=0.02)
    np.testing.assert_allclose(kept(low=0.1), [0, half, 1], atol=0.02)
    np.testing.assert_allclose(kept(low=0.05, high=0.2), [0, 1, 0], atol=0.06)


@pytest.mark.parametrize("cuts", [{"high": 0.1}, {"low": 0.0005, "high": 0.1}, {"low": 0.05}])
def test_filters_as_published(cuts: dict[str, float]) -> None:
    recording = Recording(waves("a", units=3, frames=200).activity * 5 + 7, "a")
    values = recording.activity.astype(float)
    mean, std = values.mean(1, keepdims=True), values.std(1, keepdims=True)
    # z-scores, twice through second-order sections from rest
    kind = "bandpass" if len(cuts) == 2 else {"high": "lowpass", "low": "highpass"}[next(iter(cuts))]
    sections = signal.butter(4, np.squeeze(list(cuts.values())), kind, fs=1, output="sos")
    once = signal.sosfilt(sections, (values - mean) / std)
    expected = signal.sosfilt(sections, once[:, ::-1])[:, ::-1]
    found = butterworth(recording, padded=False, **cuts)
    through = mean if "low" not in cuts else 0
    np.testing.assert_allclose((found.activity - through) / std, expected, rtol=1e-4, atol=1e-5)
    other = butterworth(recording, **cuts)
    assert not np.allclose(found.activity[:, :10], other.activity[:, :10], atol=0.05)
    assert found.provenance["preprocessing"].endswith("forwards and backwards, from the mean")
    assert other.provenance["preprocessing"].endswith("forwards and backwards, padded")
    butterworth(waves("a", frames=20), padded=False, **cuts)  # nothing has to be padded


def test_causal_filters_do_not_see_the_future_and_others_do() -> None:
    recording = waves("a", units=2, frames=200)
    changed = recording.activity.copy()
    changed[:, 120:] += 5
    other = Recording(changed, "a")
    for causal in (True, False):
        a, b = (butterworth(r, high=0.1, causal=causal).activity[:, :120] for r in (recording, other))
        assert np.array_equal(a, b) == causal


def test_stretches_are_filtered_apart() -> None:
    recording = waves("a", units=2, frames=200, stretches=((0, 80), (80, 200)))
    alone = Recording(recording.activity[:, 80:], "b")
    found = butterworth(recording, high=0.1).activity[:, 80:]
    np.testing.assert_allclose(found, butterworth(alone, high=0.1).activity, rtol=1e-6)
    with pytest.raises(DataError, match="a stretch of 10 frames is too short"):
        butterworth(waves("a", frames=200, stretches=((0, 190), (190, 200))), high=0.1)
    for cuts in ({}, {"high": 0.5}, {"low": 0.2, "high": 0.1}, {"low": -1.0}):
        with pytest.raises(ConfigError, match=r"0 < low < high < 0\.5"):
            butterworth(recording, **cuts)


@pytest.mark.parametrize("options", [{}, {"padded": False}, {"causal": True}])
def test_many_units_are_filtered_some_at_a_time(options: dict[str, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    recording = Recording(np.random.default_rng(0).standard_normal((7, 400)), "a", stretches=((0, 150), (160, 400)))
    whole = butterworth(recording, high=0.1, **options).activity
    monkeypatch.setattr(preprocess, "_VALUES_AT_ONCE", 900)
    np.testing.assert_array_equal(butterworth(recording, high=0.1, **options).activity, whole)


def test_large_recordings_are_not_copied_often() -> None:
    recording = Recording(np.random.default_rng(0).standard_normal((8000, 600)), "a")
    size = recording.activity.nbytes
    for make in (lambda: butterworth(recording, high=0.1), lambda: components(recording, 20)):
        tracemalloc.start()
        make()
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert most < 5 * size


@pytest.mark.parametrize("frames", [300, 12])
def test_components_are_those_of_a_singular_value_decomposition(frames: int) -> None:
    recording = waves("a", units=20, frames=frames)
    z = recording.activity.astype(float)
    z = (z - z.mean(1, keepdims=True)) / z.std(1, keepdims=True)
    _, singular, right = np.linalg.svd(z, full_matrices=False)
    found = components(recording, 5)
    np.testing.assert_allclose(np.abs(found.activity), np.abs(singular[:5, None] * right[:5]), rtol=1e-3, atol=1e-4)
    assert found.unit_ids == ("pc0", "pc1", "pc2", "pc3", "pc4")
    held = np.square(singular[:5]).sum() / np.square(singular).sum()
    assert f"{held:.1%} of the variance" in found.provenance["preprocessing"]
    np.testing.assert_array_equal(found.activity, components(recording, 5).activity)


def test_components_of_the_training_part_do_not_know_the_rest() -> None:
    recording = waves("a", units=6, frames=300)
    changed = recording.activity.copy()
    changed[:, 200:] *= 3
    a, b = (
        components(r, 3, frames=[(0, 150), (150, 200)]).activity[:, :200] for r in (recording, Recording(changed, "a"))
    )
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(components(Recording(changed, "a"), 3).activity[:, :200], a)
    with pytest.raises(ConfigError, match="6 units in 300 frames have no 7 components"):
        components(recording, 7)
    assert components(recording, 3, frames=np.array([[0, 150]])).units == 3
    for frames in ([], [(200, 400)], [(5, 5)]):
        with pytest.raises(ConfigError, match=rf"ranges \(start, stop\) of its 300, got {re.escape(str(frames))}"):
            components(recording, 3, frames=frames)
    changed[2] = 1
    with pytest.raises(DataError, match="unit '2' is constant"):
        components(Recording(changed, "a"), 2)
    twins = Recording(np.repeat(recording.activity[:2], 2, axis=0), "a")
    with pytest.raises(ConfigError, match="make no more than 2 components"):
        components(twins, 3)


def test_frames_outside_of_stretches_do_not_count() -> None:
    recording = waves("a", units=4, frames=200)
    holed = recording.activity.copy()
    holed[:, 80:90] = np.nan
    cut = Recording(holed, "a", stretches=((0, 80), (90, 200)))
    for options in ({}, {"padded": False}, {"causal": True}):
        found = butterworth(cut, high=0.1, **options)
        assert np.isfinite(found.activity[:, :80]).all()
        assert np.isfinite(found.activity[:, 90:]).all()
    without = Recording(np.delete(recording.activity, np.s_[80:90], axis=1), "a")
    found, wanted = components(cut, 2).activity, components(without, 2).activity
    np.testing.assert_allclose(found[:, 90:], wanted[:, 80:], rtol=1e-5, atol=1e-6)
    with pytest.raises(DataError, match="4 units have values that are no numbers"):
        components(Recording(holed, "a"), 2)
    with pytest.raises(DataError, match="a filter would spread them"):
        butterworth(Recording(holed, "a"), high=0.1)
