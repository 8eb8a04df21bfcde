"""poco.ground.selection and stretches: weights that hold where activity drifts."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from helpers.recordings import waves

from poco.data.recording import Recording
from poco.data.splits import Split, split
from poco.data.statistics import statistics
from poco.ground import Ground, fit, selection
from poco.ground.selection import FORECASTERS, INSURANCE, choose, error_products, fit_selected, mix
from poco.ground.stretches import CHAIN, forward_chained
from poco.scoring import score_forecasters


def drifting(session: str = "d", **more: Any) -> Recording:
    """Waves on a level of each unit that walks away."""
    recording = waves(session, units=8, frames=900, **more)
    steps = np.random.default_rng(1).normal(size=recording.activity.shape) * 0.15
    walk = np.cumsum(steps, axis=1) * recording.activity.std(axis=1, keepdims=True)
    return dataclasses.replace(recording, activity=(recording.activity + walk).astype(np.float32))


def cut_of(recording: Recording, protocol: str = "leak-free") -> Split:
    return split([recording], protocol=protocol, context=12, horizon=4)


def test_stretches_follow_what_is_fitted_and_lie_within_training() -> None:
    cut = cut_of(drifting())
    found = list(forward_chained(cut))
    assert [shares for shares, _ in found] == list(CHAIN)
    for (fitted, first, stop), part in found:
        assert part.segments["train"][0] == ((0, int(fitted * 540)),)
        assert part.segments["val"][0] == ((int(first * 540), int(stop * 540)),)
        mean, _ = statistics(part.recordings[0], part.segments["train"][0])
        np.testing.assert_allclose(part.mean[0], mean, rtol=1e-5)


def test_published_statistics_stay() -> None:
    cut = cut_of(drifting(), "published")
    for _, part in forward_chained(cut):
        assert part.mean[0] is cut.mean[0]
        assert max(stop for _, stop in part.segments["val"][0]) <= max(stop for _, stop in cut.segments["train"][0])


def test_a_session_too_short_for_a_stretch_is_left_out() -> None:
    cut = split([waves("a", frames=600), waves("b", frames=80)], context=12, horizon=4)
    assert all(len(part.recordings) < 2 for (share, _, _), part in forward_chained(cut) if share < 0.4)


@pytest.mark.parametrize(
    ("protocol", "frames", "stretches"), [("leak-free", 230, 0), ("leak-free", 250, 2), ("published", 230, 2)]
)
def test_statistics_are_not_taken_from_hardly_more_than_a_window(protocol: str, frames: int, stretches: int) -> None:
    cut = split(waves(frames=frames), protocol=protocol, context=24, horizon=8)  # a third of training: 46 or 50 frames
    assert len(list(forward_chained(cut))) == stretches


@pytest.mark.parametrize("units", [(6, 6), (6, 8)])
def test_sessions_left_out_of_different_stretches_are_judged_by_their_own_ground(
    units: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two judged stretches of one share, each without another session; with units as many, a mistake would not show."""
    recordings = []
    for count, (name, interrupted) in zip(units, (("a", 2), ("b", 1)), strict=True):
        thirds = [[(third * 120, third * 120 + 120)] for third in range(3)]
        thirds[interrupted] = [(first, first + 15) for first in range(interrupted * 120, interrupted * 120 + 120, 15)]
        stretches = (*(piece for third in thirds for piece in third), (360, 600))
        recordings.append(dataclasses.replace(waves(name, units=count, frames=600), stretches=stretches))
    cut = split(recordings, context=12, horizon=4)
    left = [[r.session for r in part.recordings] for (share, _, _), part in forward_chained(cut) if share < 0.4]
    assert left == [["a"], ["b"]]
    judged = []

    def products(ground: Ground, part: Split, name: str) -> np.ndarray:
        judged.append(([spec.name for spec in ground.sessions], [r.session for r in part.recordings]))
        return error_products(ground, part, name)

    monkeypatch.setattr(selection, "error_products", products)
    fit_selected(cut)
    assert all(known == asked for known, asked in judged)


def test_products_are_those_of_the_forecasters(monkeypatch: pytest.MonkeyPatch) -> None:
    cut = cut_of(drifting())
    ground = fit(cut).ground
    weights = np.array([0.1, 0.2, 0.3, 0.4])
    mix(ground, weights)
    relative = weights @ error_products(ground, cut, "val") @ weights
    assert score_forecasters({"": ground}, cut, "val")[""].score == pytest.approx(1 - relative, abs=1e-5)
    few = cut.stride("val", rows=200)
    assert 1 < few < len(cut.windows("val"))
    monkeypatch.setattr(Split, "stride", lambda self, part: few)
    relative = weights @ error_products(ground, cut, "val") @ weights
    some = score_forecasters({"": ground}, cut, "val", stride=few)[""].score
    assert some == pytest.approx(1 - relative, abs=1e-5)
    whole = weights @ error_products(ground, cut, "test") @ weights
    assert score_forecasters({"": ground}, cut)[""].score == pytest.approx(1 - whole, abs=1e-5)
    np.testing.assert_allclose(ground.shares.numpy(), [0.4, 0.6], rtol=1e-6)
    np.testing.assert_allclose(ground.gains.numpy(), [0.75, 0.4 / 0.6], rtol=1e-6)


def test_weights_have_the_least_squared_regret() -> None:
    one, other = np.diag([1.0, 4.0]), np.diag([4.0, 1.0])
    weights, least = choose([one, other])
    np.testing.assert_allclose(weights, [0.5, 0.5])
    assert least == pytest.approx([0.8, 0.8])
    weights, _ = choose([one])
    np.testing.assert_allclose(weights, [0.8, 0.2])


def test_drift_is_answered_by_the_centred_form() -> None:
    steady, drift = (fit_selected(cut_of(r))[0].ground.shares for r in (waves("s", units=8, frames=900), drifting()))
    assert drift[1] > 0.7
    assert drift[1] > steady[1] + 0.2


def test_the_reasons_are_told_and_the_test_part_is_not_read() -> None:
    recording = drifting()
    fitted, chosen = fit_selected(cut_of(recording))
    told = chosen.to_json()
    assert list(told["weights"]) == list(FORECASTERS)
    assert sum(told["weights"].values()) == pytest.approx(1.0)
    assert len(told["stretches"]) == len(CHAIN) + 1
    assert all(s["best"] >= s["chosen"] - 1e-3 for s in told["stretches"])  # the best of multiples of 1 / 20
    assert told["weights"]["centred ground"] >= INSURANCE
    activity = recording.activity.copy()
    activity[:, 720:] = 0
    again, same = fit_selected(cut_of(dataclasses.replace(recording, activity=activity)))
    assert same == chosen
    for name, value in fitted.ground.state_dict().items():
        assert torch.equal(value, again.ground.state_dict()[name])
