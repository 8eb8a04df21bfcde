"""The tables of scores that training and evaluation end with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from poco.cli.output import number, print_table, say
from poco.wording import counted

if TYPE_CHECKING:
    from poco.intervals import Ahead, Interval
    from poco.scores import Evaluation

_WIDTH = 100  # columns of text that a table may take
_MOST_SESSIONS = 8


def print_scores(evaluation: Evaluation) -> None:
    """Print the score of every forecaster, best first, over all sessions with intervals, then session by session."""
    from poco.intervals import ROUGH
    from poco.plots.style import label

    own, scores = evaluation.forecaster, evaluation.forecasters
    order = sorted(scores, key=lambda name: scores[name].score, reverse=True)
    part = {"val": "validation", "train": "training"}.get(evaluation.part, evaluation.part)
    print_table(
        f"Score on the {part} part, {evaluation.protocol} protocol (1 - MSE / MSE of copy)",
        ["forecaster", "score", "95% interval", *([f"{label(own)} ahead by"] if evaluation.baselines else [])],
        [
            [
                label(name),
                number(scores[name].score),
                _interval(scores[name].interval),
                *([_ahead(scores[name].ahead)] if evaluation.baselines else []),
            ]
            for name in order
        ],
        bold_row=order.index(own),
    )
    if evaluation.interval is not None:
        say("Intervals: block bootstrap over time; they speak of these recordings, not of other animals.")
        if evaluation.few_blocks:
            say(ROUGH)
    if evaluation.beside_mean:
        say(evaluation.beside_mean)
    if len(evaluation.sessions) > 1:
        by_session = {label(name): {one.session: one.score for one in scores[name].sessions} for name in order}
        _print_sessions(by_session, order.index(own))


def _print_sessions(scores: Mapping[str, Mapping[str, float]], bold_row: int) -> None:
    """Print the scores of each session, of as many sessions as there is room for."""
    sessions = list(next(iter(scores.values())))
    room, shown = _WIDTH - 2 - max(map(len, ["forecaster", *scores])), 0
    while shown < min(len(sessions), _MOST_SESSIONS) and (not shown or room >= _width(sessions[shown])):
        room -= _width(sessions[shown])
        shown += 1
    say()
    print_table(
        "Score of each session",
        ["forecaster", *sessions[:shown]],
        [[name, *(number(own.get(session)) for session in sessions[:shown])] for name, own in scores.items()],
        bold_row=bold_row,
    )
    if len(sessions) > shown:
        say(f"(and {counted(len(sessions) - shown, 'more session')}; --json shows all)")


def _width(session: str) -> int:
    """Columns of text that a session takes in a table, with the space before it."""
    return max(len(session), len("-0.000")) + 3


def _interval(value: Interval | None, signed: bool = False) -> str:
    return "-" if value is None else f"[{', '.join(f'{end:+.3f}' if signed else f'{end:.3f}' for end in value)}]"


def _ahead(value: Ahead | None) -> str:
    if value is None or not math.isfinite(value.difference):
        return ""
    return f"{value.difference:+.3f} {_interval(value.interval, signed=True)}"
