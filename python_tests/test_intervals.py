"""Intervals: against known standard errors, against a plain bootstrap, and how often they hold the truth."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest

from poco.intervals import block_length, interval, lasting_block, mean_interval, mean_text, resampled_scores, t_quantile


def width(scores: np.ndarray) -> float:
    ends = interval(scores)
    assert ends is not None
    return ends[1] - ends[0]


def autoregressive(rng: np.random.Generator, phi: float, *shape: int) -> np.ndarray:
    """Stationary series of unit variance along the last axis, correlated by ``phi`` from one step to the next."""
    noise = rng.normal(size=shape) * np.sqrt(1 - phi**2)
    series = np.empty(shape)
    series[..., 0] = rng.normal(size=shape[:-1])
    for step in range(1, shape[-1]):
        series[..., step] = phi * series[..., step - 1] + noise[..., step]
    return series


def test_a_block_is_as_long_as_a_window() -> None:
    assert block_length(48, 16) == 64
    assert block_length(48, 16, stride=10) == 7
    assert block_length(48, 16, stride=100) == 1


@pytest.mark.parametrize("block", [1, 20])
def test_independent_errors_have_the_analytic_standard_error(block: int) -> None:
    rng = np.random.default_rng(0)
    count, error = 4000, rng.chisquare(4, 4000) / 8  # copy has error 1 on every window: the score is 1 - mean error
    scores = resampled_scores(error[None], np.ones(count), [count], block)[0]
    standard = error.std() / np.sqrt(count)
    assert scores.std() == pytest.approx(standard, rel=0.1)
    assert scores.mean() == pytest.approx(1 - error.mean(), abs=0.1 * standard)
    assert width(scores) == pytest.approx(2 * 1.96 * standard, rel=0.12)


def test_a_ratio_of_two_errors_has_the_analytic_standard_error() -> None:
    rng = np.random.default_rng(1)
    copy = rng.chisquare(4, 4000)
    error = copy / 2 + rng.chisquare(2, 4000) / 4
    ratio = error.sum() / copy.sum()
    standard = (error - ratio * copy).std() / copy.mean() / np.sqrt(copy.size)  # the delta method
    scores = resampled_scores(error[None], copy, [copy.size], 10)[0]
    assert scores.std() == pytest.approx(standard, rel=0.1)


def test_the_mean_over_sessions() -> None:
    rng = np.random.default_rng(2)
    error = rng.chisquare(4, 3000) / 8
    sessions = [1000, 1000, 1000]
    together = resampled_scores(error[None], np.ones(3000), sessions, 1)[0]
    each = [error[i * 1000 : (i + 1) * 1000].std() / np.sqrt(1000) for i in range(3)]
    assert together.std() == pytest.approx(np.sqrt(np.square(each).sum()) / 3, rel=0.1)
    unequal = resampled_scores(error[None], np.ones(3000), [100, 2900], 1)[0]  # the small session counts as much
    assert unequal.std() == pytest.approx(np.hypot(error[:100].std() / 10, error[100:].std() / 2900**0.5) / 2, rel=0.1)


def test_errors_that_last_widen_the_interval() -> None:
    rng = np.random.default_rng(3)
    error = np.exp(autoregressive(rng, 0.95, 1, 2000))
    plain, blocks = (resampled_scores(error, np.ones(2000), [2000], block)[0] for block in (1, 64))
    assert width(blocks) > 3 * width(plain)


def test_resamples_are_paired() -> None:
    rng = np.random.default_rng(4)
    copy = np.exp(autoregressive(rng, 0.9, 700))
    error = copy * np.exp(0.3 * rng.normal(size=700))
    better = 0.9 * error
    scores = resampled_scores(np.stack([error, better, error, copy]), copy, [300, 400], 64)
    assert interval(scores[0] - scores[2]) == (0, 0)
    assert interval(scores[3]) == (0, 0)
    assert width(scores[1] - scores[0]) < 0.5 * width(scores[0])
    low, _ = interval(scores[1] - scores[0]) or (0, 0)
    assert low > 0


def test_the_rest_of_the_windows_is_drawn_too() -> None:
    """Blocks of 3 in 7 windows: two whole ones and a third of one, enumerated."""
    error, copy = np.arange(1.0, 8) ** 2, np.array([3.0, 1, 4, 1, 5, 9, 2])

    def total(values: np.ndarray, starts: tuple[int, int, int]) -> float:
        first, second, third = (np.roll(values, -start) for start in starts)
        return float(first[:3].sum() + second[:3].sum() + third[0])

    every = [(i, j, k) for i in range(7) for j in range(7) for k in range(7)]
    possible = np.array([1 - total(error, starts) / total(copy, starts) for starts in every])
    score = 1 - error.sum() / copy.sum()
    drawn = resampled_scores(error[None], copy, [7], 3, resamples=50_000)[0]
    stretch = np.sqrt(7 / 4) * 2.94 / 1.96  # 2.94 is the quantile 0.975 of t with 1.5 * 7 / 3 degrees of freedom
    assert drawn.std() == pytest.approx(stretch * possible.std(), rel=0.02)
    assert drawn.mean() - score == pytest.approx(stretch * (possible.mean() - score), abs=0.03 * possible.std())


def test_the_same_seed_gives_the_same_result() -> None:
    error = np.random.default_rng(5).chisquare(4, (2, 500))
    first, again, other = (resampled_scores(error, np.ones(500), [200, 300], 64, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    alone = resampled_scores(error[:1], np.ones(500), [200, 300], 64)  # whoever else is scored
    assert np.array_equal(first[0], alone[0])


def test_a_single_window_has_no_interval() -> None:
    assert np.isnan(resampled_scores(np.ones((2, 1)), np.ones(1), [1], 64)).all()
    scores = resampled_scores(np.ones((1, 11)), np.ones(11), [10, 1], 64)
    assert interval(scores[0]) is None
    assert interval(resampled_scores(np.ones((1, 2)), np.full(2, 2.0), [2], 1)[0]) == (0.5, 0.5)


def test_an_interval_of_less_than_two_blocks_is_wide() -> None:
    errors = np.random.default_rng(9).chisquare(4, (1, 512))
    widths = []
    for count in (512, 256, 128, 64, 32, 2):
        low, high = interval(resampled_scores(errors[:, :count], np.ones(count), [count], 64)[0]) or (0, 0)
        widths.append(high - low)
    assert widths[2] > 2 * widths[1]
    assert widths[3] > 2 * widths[2]
    assert widths[4] > widths[3]
    assert np.isfinite(widths).all()


def test_where_a_copy_has_no_error_nothing_but_it_has_an_interval() -> None:
    errors = np.stack([np.ones(50), np.zeros(50)])
    one, copy = resampled_scores(errors, np.zeros(50), [50], 8)
    assert interval(one) is None
    assert interval(copy) == (0, 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_error_that_is_not_finite_has_no_interval_and_harms_no_other(bad: float) -> None:
    error = np.random.default_rng(6).chisquare(4, (2, 200))
    error[0, 77] = bad
    scores = resampled_scores(error, np.ones(200), [200], 16)
    assert interval(scores[0]) is None
    assert interval(scores[0] - scores[1]) is None
    assert interval(scores[1]) is not None


def test_a_block_lasts_as_long_as_errors_do() -> None:
    rng = np.random.default_rng(10)
    copy = np.ones(4000)
    found = [lasting_block(autoregressive(rng, phi, 4000), copy, [4000], 10) for phi in (0.0, 0.9, 0.99)]
    assert found[0] < 20
    # Their block is (6 phi^2 / (1 - phi^2)^2 * W)^(1/3): 81 and, at most 3 sqrt(W), 190.
    assert found[1] == pytest.approx(10 + 1.5 * 81, rel=0.25)
    assert found[2] == pytest.approx(10 + 1.5 * 190, rel=0.05)
    slow = autoregressive(rng, 0.99, 4000)
    assert lasting_block(slow, copy, [1000] * 4, 10) > 100  # all sessions together
    assert lasting_block(slow[:300], copy[:300], [300], 140) == 150  # two blocks are left
    assert lasting_block(slow[:100], copy[:100], [100], 64) == 64
    assert lasting_block(np.zeros(300), copy[:300], [300], 64) == 64
    assert lasting_block(np.where(np.arange(300) == 7, np.nan, slow[:300]), copy[:300], [300], 64) == 64
    assert lasting_block(slow[:300], np.zeros(300), [300], 64) == 64


@pytest.mark.parametrize(
    ("phi", "windows"), [(0.97, [2937]), (0.9, [97] * 6), (0.95, [9, 337]), (0.95, [3000, 200]), (0.97, [37])]
)
def test_how_often_an_interval_holds_the_true_score_of_slow_activity(phi: float, windows: list[int]) -> None:
    """The mean as a forecast of an autoregressive process: in long blocks, in short, very short and uneven parts."""
    rng = np.random.default_rng(11)
    context, horizon, held, trials = 48, 16, 0, 150
    steps = np.arange(1, horizon + 1)
    truth = 1 - horizon / (2 * (1 - phi**steps)).sum()
    for _ in range(trials):
        error, copy = [], []
        for count in windows:
            series = autoregressive(rng, phi, 8, count + context + horizon - 1)
            later = np.lib.stride_tricks.sliding_window_view(series, horizon, axis=1)[:, context:]
            error.append(np.square(later).sum(axis=(0, 2)))
            copy.append(np.square(later - series[:, context - 1 : -horizon, None]).sum(axis=(0, 2)))
        errors, copies = np.concatenate(error), np.concatenate(copy)
        block = lasting_block(errors, copies, windows, context + horizon)
        low, high = interval(resampled_scores(errors[None], copies, windows, block, resamples=400)[0]) or (1, 0)
        held += low <= truth <= high
    assert held / trials >= 0.88


@pytest.mark.parametrize(("windows", "sessions", "lowest"), [(1000, 1, 0.89), (300, 1, 0.87), (300, 4, 0.87)])
def test_how_often_an_interval_holds_the_true_score(windows: int, sessions: int, lowest: float) -> None:
    """Errors of overlapping windows of a process with memory; 0.95 is the aim, few blocks fall short of it a little."""
    rng = np.random.default_rng(7)
    trials, horizon = 300, 16
    squares = autoregressive(rng, 0.8, 2, trials, sessions, windows + horizon - 1) ** 2
    sums = np.cumsum(np.concatenate([np.zeros((2, trials, sessions, 1)), squares], axis=-1), axis=-1)
    copy, other = sums[..., horizon:] - sums[..., :-horizon]
    error = 0.6 * copy + 0.2 * other  # the expectation of the score is 0.2
    held = 0
    for trial in range(trials):
        scores = resampled_scores(
            error[trial].reshape(1, -1), copy[trial].ravel(), [windows] * sessions, 64, resamples=400
        )
        low, high = interval(scores[0]) or (1, 0)
        held += low <= 0.2 <= high
    assert lowest <= held / trials <= 0.98


def test_speed_and_memory() -> None:
    errors = np.random.default_rng(8).chisquare(4, (9, 10_000))
    began = time.perf_counter()
    resampled_scores(errors[:8], errors[8], [10_000], 64)
    assert time.perf_counter() - began < 2  # 0.1 s; other tests may run beside this one
    tracemalloc.start()
    resampled_scores(errors[:8], errors[8], [10_000], 64)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * errors.nbytes


def test_no_score_is_better_than_perfect() -> None:
    errors = np.array([np.r_[np.full(50, 1e-6), np.full(50, 30.0)]])
    copy = np.r_[np.ones(50), np.zeros(50)]
    drawn = resampled_scores(errors, copy, [100], 50)[0]
    assert drawn.max() > 1
    found = interval(drawn, most=1.0)
    assert found is not None
    assert found[0] < found[1] == 1


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.7062), (1.5, 6.01666), (2, 4.30265), (3, 3.18245), (3.5, 2.94009), (15, 2.13145), (1e6, 1.95997)],
)
def test_the_quantile_is_students(freedom: float, quantile: float) -> None:
    assert t_quantile(freedom) == pytest.approx(quantile, rel=2e-5)


def test_both_kinds_of_interval_take_the_same_quantile() -> None:
    """Two windows of error 0 and 2 in blocks of one, of which there are two: three degrees of freedom."""
    drawn = resampled_scores(np.array([[0.0, 2.0]]), np.ones(2), [2], 1)[0]
    assert drawn.max() == pytest.approx(2**0.5 * t_quantile(3) / 1.959964)


def test_the_mean_and_its_interval() -> None:
    assert mean_interval([1.0, 2.0, 3.0]) == pytest.approx((2.0, 4.30265 / 3**0.5))
    assert mean_interval([1.0]) == (1.0, None)
    values = [float(i % 4) for i in range(16)]
    assert mean_interval(values)[1] == pytest.approx(2.13145 * np.std(values, ddof=1) / 4)
    assert (mean_text([0.1234]), mean_text([-1234.5]), mean_text([])) == ("0.123", "-1.2e+03", "")


@pytest.mark.parametrize(
    ("values", "text"),
    [([0.1, np.nan], "nan"), ([-np.inf, 0.1], "-inf"), ([np.inf, -np.inf], "nan"), ([1e300, 0.0], "5e+299")],
)
def test_means_of_numbers_that_are_not_finite(values: list[float], text: str) -> None:
    assert mean_text(values) == text
