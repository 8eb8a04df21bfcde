"""poco.reporting.units: errors unit by unit, by hand."""

from __future__ import annotations

import numpy as np
import torch

from poco.baselines import build
from poco.baselines.fitted import fit_baseline
from poco.data.recording import Recording
from poco.data.simulate import simulate
from poco.data.splits import split
from poco.data.windows import ROWS_A_BATCH, Packer
from poco.nn import POCO, POCOConfig, SessionSpec
from poco.plots.examples import SpacedForecasts
from poco.reporting.units import examples, unit_results
from poco.scoring import score_forecasters
from poco.training import TrainConfig

SIZES = {"context": 12, "horizon": 4, "segment_length": 4, "latents": 3, "width": 8, "heads": 2, "head_width": 8}


def test_scores_of_units_are_of_the_errors_that_make_up_the_session() -> None:
    recordings = simulate(2, 5, 240, seed=0)
    cut = split(recordings, context=12, horizon=4)
    model = POCO(POCOConfig(**SIZES, film_width=16), [SessionSpec(r.session, r.unit_ids) for r in recordings])
    whole, found = score_forecasters({"": model}, cut)[""], unit_results(model, cut)
    assert [one.session for one in found] == [one.session for one in whole.sessions]
    assert whole.unit_error is not None
    expected = 1 - whole.unit_error / whole.copy_unit_error
    np.testing.assert_allclose(np.concatenate([one.score for one in found]), expected, rtol=1e-5)


def test_autocorrelation_is_that_of_the_errors() -> None:
    # The mean forecasts 0: its error one step ahead is minus the activity.
    rng = np.random.default_rng(0)
    activity = rng.standard_normal((3, 400)).cumsum(1)
    cut = split([Recording(activity, "a")], context=8, horizon=2)
    model = build("mean", 8, 2, [SessionSpec("a", ("0", "1", "2"))])
    model.register_parameter("place", torch.nn.Parameter(torch.zeros(1)))
    one = unit_results(model, cut)[0]  # type: ignore[arg-type]
    starts = cut.windows("test").start
    z = ((activity - cut.mean[0][:, None]) / cut.std[0][:, None])[:, starts + 8]
    z -= z.mean(1, keepdims=True)
    for lag in (0, 1, 5):
        expected = (z[:, : z.shape[1] - lag] * z[:, lag:]).mean(1) / np.square(z).mean(1)
        np.testing.assert_allclose(one.autocorrelation[:, lag], expected, rtol=1e-3)


def test_examples_are_the_best_the_median_and_the_worst_unit() -> None:
    recordings = simulate(1, 7, 300, seed=1)
    cut = split(recordings, context=12, horizon=4)
    model = POCO(POCOConfig(**SIZES, film_width=16), [SessionSpec(r.session, r.unit_ids) for r in recordings])
    one = unit_results(model, cut)[0]
    found = examples(model, cut, one)
    order = np.argsort(one.score)
    chosen = {which: recordings[0].unit_ids.index(example.unit) for which, example in found.items()}
    assert chosen == {"best": order[-1], "median": order[3], "worst": order[0]}
    for which, example in found.items():
        assert example.score == one.score[chosen[which]]
        assert example.context.shape == (12,)
        assert example.truth.shape == example.forecast.shape == (4,)


def test_examples_of_many_units_are_forecast_some_windows_at_a_time() -> None:
    recordings = simulate(1, 1000, 240, seed=0, warm_up=0.0)
    cut = split(recordings, context=12, horizon=4)
    model = POCO(POCOConfig(**SIZES, film_width=4), [SessionSpec(r.session, r.unit_ids) for r in recordings])
    rows = []
    model.register_forward_pre_hook(lambda _, given: rows.append(given[0].shape[0] * given[0].shape[1]))
    shown = SpacedForecasts.of(model, cut, 0, "test", 40)
    windows = cut.spaced_windows("test", 0, 40)
    assert sum(rows) == 1000 * len(windows)
    assert max(rows) <= ROWS_A_BATCH
    assert shown.forecast.shape == shown.truth.shape == (len(windows), 1000, 4)
    batch = Packer(cut).pack(windows)
    np.testing.assert_array_equal(shown.context.reshape(-1, 12), batch.x.numpy())
    np.testing.assert_array_equal(shown.truth.reshape(-1, 4), batch.target.numpy())


def test_a_unit_that_never_moves_has_no_score() -> None:
    recordings = simulate(1, 3, 300, seed=1)
    activity = recordings[0].activity.copy()
    activity[1, 200:] = 1.0
    cut = split([Recording(activity, "a")], context=12, horizon=4)
    model = fit_baseline("nlinear", cut, config=TrainConfig(steps=1))
    one = unit_results(model, cut)[0]  # type: ignore[arg-type]
    assert np.isnan(one.score).tolist() == [False, True, False]
    config = POCOConfig(**SIZES, film_width=16)
    assert set(examples(POCO(config, [SessionSpec("a", ("0", "1", "2"))]), cut, one)) == {"best", "median", "worst"}
