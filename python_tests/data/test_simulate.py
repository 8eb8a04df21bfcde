"""Simulated recordings: statistics of the network, determinism, labels, refusals."""

from __future__ import annotations

import time

import numpy as np
import pytest

from poco.data.simulate import simulate
from poco.errors import ConfigError


def test_shapes_names_and_rate() -> None:
    recordings = simulate(3, 20, 50, seed=1)
    assert [r.session for r in recordings] == ["animal-1", "animal-2", "animal-3"]
    assert [r.subject for r in recordings] == ["animal-1", "animal-2", "animal-3"]
    for recording in recordings:
        assert recording.activity.shape == (20, 50)
        assert recording.activity.dtype == np.float32
        assert recording.rate_hz == 20.0
        assert recording.dataset == "simulated"
        assert recording.labels == {}


def test_same_seed_same_recordings_and_more_animals_change_nothing() -> None:
    two, three, other = simulate(2, 20, 60, seed=4), simulate(3, 20, 60, seed=4), simulate(2, 20, 60, seed=5)
    for a, b, c in zip(two, three, other, strict=False):
        assert np.array_equal(a.activity, b.activity)
        assert not np.array_equal(a.activity, c.activity)


def test_network_is_chaotic_and_its_activity_saturates_as_theory_says() -> None:
    activity = simulate(1, 300, 400, seed=0)[0].activity
    assert np.abs(activity).max() < 1
    assert 0.5 < activity.std() < 0.8  # gain 2: strong, but below saturation
    assert abs(activity.mean()) < 0.05
    lagged = np.mean(activity[:, :-20] * activity[:, 20:]) / activity.var()
    assert abs(lagged) < 0.5  # a second later little is left: neither a fixed point nor a slow cycle


def test_low_gain_dies_out() -> None:
    assert np.abs(simulate(1, 100, 50, gain=0.5, noise=0.0, seed=0)[0].activity).max() < 1e-3


def test_noise_alone_has_the_stated_spread() -> None:
    activity = simulate(1, 200, 500, gain=0.0, noise=0.1, rate_hz=100.0, seed=0)[0].activity
    assert np.arctanh(activity).std() == pytest.approx(0.1 / np.sqrt(1 - 0.1 / 2), rel=0.03)  # Euler's own factor


def test_individuality_sets_how_alike_the_networks_are() -> None:
    def alike(individuality: float) -> float:
        a, b = (
            np.corrcoef(r.activity)
            for r in simulate(2, 60, 1500, seed=0, individuality=individuality, gain=0.8, noise=1.0)
        )
        upper = np.triu_indices(60, 1)
        return float(np.corrcoef(a[upper], b[upper])[0, 1])

    same, some, none = alike(0.0), alike(0.5), alike(1.0)
    assert same > some > none
    assert same > 0.5
    assert abs(none) < 0.1


def test_regions_are_labelled_and_coupling_keeps_the_variance() -> None:
    recording = simulate(1, 90, 300, regions=3, coupling=0.3, seed=0)[0]
    labels = recording.labels["region"]
    assert [labels.count(f"region-{i}") for i in (1, 2, 3)] == [30, 30, 30]
    assert 0.4 < recording.activity.std() < 0.85


def test_calcium_kernel_smooths_and_measurement_noise_adds() -> None:
    plain = simulate(1, 50, 400, seed=2)[0].activity
    slow = simulate(1, 50, 400, seed=2, calcium_decay=0.5)[0].activity
    noisy = simulate(1, 50, 400, seed=2, measurement_noise=0.1)[0].activity
    assert np.diff(slow).std() < 0.5 * np.diff(plain).std()
    assert (noisy - plain).std() == pytest.approx(0.1, rel=0.02)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"animals": 0}, "animals must be at least 1"),
        ({"individuality": 1.5}, "individuality must lie between 0 and 1"),
        ({"rate_hz": 30.0}, "must be a whole number of"),
        ({"rate_hz": 300.0}, "must be a whole number of"),
        ({"noise": -1.0}, "noise must not be negative"),
        ({"noise": float("nan")}, "noise must be a finite number"),
        ({"gain": float("nan")}, "gain must be a finite number"),
        ({"gain": float("-inf")}, "gain must be a finite number"),
        ({"calcium_decay": float("inf")}, "calcium_decay must be a finite number"),
        ({"frames": float("nan")}, "frames must be a whole number"),
        ({"units": 10.5}, "units must be a whole number"),
        ({"rate_hz": "fast"}, "rate_hz must be a number"),
        ({"seed": -1}, "seed must not be negative"),
        ({"calcium_decay": 0.0}, "calcium_decay must be a positive"),
        ({"regions": 30}, "regions need at least"),
        ({"time_constant": 0.001}, "must not exceed time_constant"),
        ({"step": -0.01}, "step must be a positive number"),
    ],
)
def test_values_out_of_range_are_refused(option: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        simulate(**{"animals": 1, "units": 10, "frames": 10, **option})  # type: ignore[arg-type]


def test_demo_size_takes_a_second_or_two() -> None:
    begin = time.perf_counter()
    simulate(5, 64, 2000)
    assert time.perf_counter() - begin < 8  # about one second alone; room for a busy machine
