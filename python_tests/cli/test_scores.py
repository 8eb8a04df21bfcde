"""The tables of scores: what they show and how much room they take."""

from __future__ import annotations

import dataclasses

import pytest

pytest.importorskip("rich", reason="the tables need the extra 'cli'")

from poco.cli.scores import print_scores
from poco.intervals import Ahead
from poco.scores import Evaluation, Scores, SessionScore


def evaluation(names: list[str]) -> Evaluation:
    def sessions(score: float) -> tuple[SessionScore, ...]:
        return tuple(SessionScore(name, score, 1.0, 1.0, 10, 100, (score,)) for name in names)

    baselines = {
        "copy": Scores(0.0, sessions(0.0), (0.0, 0.0), Ahead(-0.5, (-0.625, -0.375))),
        "nlinear": Scores(-0.75, sessions(-0.75), (-1.125, -0.25), Ahead(0.25, None)),
        "mlp": Scores(0.25, sessions(0.25), None, None),
    }
    return Evaluation(-0.5, sessions(-0.5), baselines, "leak-free", "test", 48, 16, interval=(-0.625, -0.375))


def test_intervals_and_differences(capsys: pytest.CaptureFixture[str]) -> None:
    print_scores(evaluation(["only"]))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["MLP", "0.250", "-"] in lines
    assert ["copy", "0.000", "[0.000,", "0.000]", "-0.500", "[-0.625,", "-0.375]"] in lines
    assert ["POCO", "-0.500", "[-0.625,", "-0.375]"] in lines
    assert ["NLinear", "-0.750", "[-1.125,", "-0.250]", "+0.250", "-"] in lines
    assert ["Score", "of", "each", "session"] not in lines


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["fish-a", "fish-b"], 2),
        ([f"fish-{i}" for i in range(8)], 8),
        ([f"fish-{i}" for i in range(12)], 8),
        ([f"animal-{i}-on-monday" for i in range(5)], 4),
        (["x" * 30, "y" * 30, "z" * 30], 2),
        (["fish-a", "x" * 120], 1),
        (["x" * 120, "fish-a"], 1),  # one at least
    ],
)
def test_sessions_take_100_columns(capsys: pytest.CaptureFixture[str], names: list[str], shown: int) -> None:
    print_scores(evaluation(names))
    lines = capsys.readouterr().out.splitlines()
    (header,) = [line.split()[1:] for line in lines if names[0] in line]
    assert header == names[:shown]
    assert any("more session" in line for line in lines) == (shown < len(names))
    if len(names[0]) < 100:
        assert max(map(len, lines)) <= 100


@pytest.mark.parametrize(("horizon", "few"), [(16, True), (2, True), (1, False)])
def test_few_blocks_are_told(capsys: pytest.CaptureFixture[str], horizon: int, few: bool) -> None:
    print_scores(dataclasses.replace(evaluation(["only"]), context=24, horizon=horizon))  # 100 windows
    assert ("room for less than 4 blocks" in capsys.readouterr().out) == few


def test_without_intervals(capsys: pytest.CaptureFixture[str]) -> None:
    print_scores(dataclasses.replace(evaluation(["only"]), baselines={}, interval=None))
    out = capsys.readouterr().out
    assert "ahead by" not in out
    assert "other animals" not in out
