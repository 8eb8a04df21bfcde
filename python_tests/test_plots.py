"""Figures: a PNG with something on it, sensible axes, and labels that keep apart."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="figures need the extra 'plots'")

from matplotlib.figure import Figure

from poco.errors import MissingExtraError
from poco.plots import AdaptationCurve, TrainingCurve, demo_figure, run_figure, save
from poco.plots.examples import Example
from poco.plots.panels import draw_scores, draw_steps, spread, time_axis

SCORES = {"poco": (0.5, [0.4, 0.6]), "mlp": (0.4, [0.4, 0.4]), "copy": (0.0, [0.0, 0.0]), "mean": (-3.0, [-5.0, -1.0])}
STEPS = {"poco": np.linspace(0.8, 0.3, 16), "mlp": np.linspace(0.7, 0.3, 16)}
TRAINING = TrainingCurve([(1, 1.0), (2, 0.9), (3, 0.8)], [(2, 0.95), (3, 0.97)], 2)


def examples(count: int, rate_hz: float | None = 20.0) -> list[Example]:
    normal = np.random.default_rng(0).normal
    return [
        Example("animal-1", str(i), rate_hz, normal(size=48), normal(size=16), normal(size=16), 0.5)
        for i in range(count)
    ]


def png_size(path: Path) -> tuple[int, int]:
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", head[16:24])
    return width, height


@pytest.mark.parametrize(("count", "rate_hz"), [(0, 20.0), (1, None), (6, 2.5)])
def test_run_figure_is_a_png(tmp_path: Path, count: int, rate_hz: float | None) -> None:
    figure = run_figure(examples(count, rate_hz), SCORES, STEPS, TRAINING, title="A run", subtitle="leak-free")
    path = save(figure, tmp_path / "deep" / "figure.png")
    assert png_size(path) == (1500, 984)
    assert path.stat().st_size > 30_000
    assert [p.name for p in path.parent.iterdir()] == ["figure.png"]


def test_demo_figure_is_a_png(tmp_path: Path) -> None:
    adaptation = AdaptationCurve([(0, 0.0, 0.1), (10, 0.5, 0.4)], {"mlp": 0.35, "mean": -3.0}, "animal-5", 0.4)
    activity = np.random.default_rng(0).normal(size=(12, 80))
    figure = demo_figure(activity, 20.0, examples(4), SCORES, STEPS, TRAINING, adaptation, title="Demo")
    assert png_size(save(figure, tmp_path / "figure.png")) == (1620, 1260)


def test_figures_leave_global_state_alone() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    run_figure(examples(1), SCORES, STEPS, TRAINING, title="A run")
    assert dict(matplotlib.rcParams) == before


def test_all_axes_carry_units() -> None:
    figure = run_figure(examples(2), SCORES, STEPS, TRAINING, title="A run")
    labels = {axes.get_xlabel() for axes in figure.axes}
    assert {"time (s), 0 = last frame seen", "time ahead (ms)", "training steps"} <= labels
    assert "score: 1 - MSE / MSE of copy" in labels


def test_time_is_shown_in_a_fitting_unit() -> None:
    assert time_axis(64, None) == (1.0, "frames")
    assert time_axis(16, 20.0) == (50.0, "time (ms)")
    assert time_axis(64, 2.0) == (0.5, "time (s)")


def test_a_curve_that_leaves_the_panel_is_marked() -> None:
    axes = Figure().add_subplot()
    draw_steps(axes, {"poco": np.array([0.2, -3.25]), "mlp": np.array([0.1, -0.4])}, None)
    assert axes.get_ylim()[0] > -1
    assert [text.get_text() for text in axes.texts if "falls" in text.get_text()] == ["\u25bc POCO falls to -3.25"]


def test_sessions_below_the_panel_are_marked() -> None:
    axes = Figure().add_subplot()
    draw_scores(axes, {"poco": (0.1, [0.5, -0.3, -0.9, 0.2])}, "Scores")
    dots, triangle = axes.collections
    assert [len(marks.get_offsets()) for marks in (dots, triangle)] == [2, 1]
    assert triangle.get_offsets()[0][0] >= axes.get_xlim()[0]


def test_scores_that_are_not_finite_are_drawn(tmp_path: Path) -> None:
    scores = {"poco": (-np.inf, [-np.inf, 0.6]), "copy": (0.0, [0.0, 0.0])}
    for steps in ({"poco": np.full(16, -np.inf)}, {"poco": np.full(16, -np.inf), "mlp": np.linspace(0.7, 0.3, 16)}):
        figure = run_figure(examples(2), scores, steps, TRAINING, title="A run", subtitle="a session stands still")
        assert save(figure, tmp_path / "figure.png").stat().st_size > 30_000


def test_labels_keep_apart() -> None:
    ends = [(0.5, "a"), (0.5, "b"), (0.98, "c"), (1.0, "d")]
    placed = {name: y for y, name in spread(ends, gap=0.1, low=0, high=1)}
    assert sorted(placed, key=placed.__getitem__) == ["a", "b", "c", "d"]
    heights = sorted(placed.values())
    assert min(np.diff(heights)) >= 0.1 - 1e-9
    assert placed["a"] == pytest.approx(0.45)
    assert placed["b"] == pytest.approx(0.55)
    assert heights[-1] <= 1
    assert spread([], gap=1, low=0, high=1) == []


def test_without_matplotlib_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"poco-forecast\[plots\]"):
        run_figure([], SCORES, STEPS, TRAINING, title="A run")
