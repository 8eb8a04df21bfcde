"""The table of scores that training and evaluation end with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from poco.cli.output import counted, number, print_table, say

if TYPE_CHECKING:
    from poco.evaluation import Evaluation, SessionScore

_MOST_COLUMNS = 8


def print_scores(evaluation: Evaluation, title: str | None = None) -> None:
    """Print the score of every forecaster, best first, over all sessions and session by session."""
    from poco.plots.style import label

    rows = {"poco": (evaluation.score, _by_session(evaluation.sessions))}
    rows |= {name: (scores.score, _by_session(scores.sessions)) for name, scores in evaluation.baselines.items()}
    order = sorted(rows, key=lambda name: rows[name][0], reverse=True)
    sessions = [entry.session for entry in evaluation.sessions]
    shown = sessions[:_MOST_COLUMNS] if len(sessions) > 1 else []
    part = {"val": "validation", "train": "training"}.get(evaluation.part, evaluation.part)
    print_table(
        title or f"Score on the {part} part, {evaluation.protocol} protocol (1 - MSE / MSE of copy)",
        ["forecaster", "score", *shown],
        [[label(name), number(rows[name][0]), *(number(rows[name][1].get(s)) for s in shown)] for name in order],
        bold_row=order.index("poco"),
    )
    if len(sessions) > len(shown) > 0:
        say(f"(and {counted(len(sessions) - len(shown), 'more session')}; --json shows all)")


def _by_session(sessions: tuple[SessionScore, ...]) -> Mapping[str, float]:
    return {entry.session: entry.score for entry in sessions}
