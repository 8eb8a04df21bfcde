"""What cells of studies say, as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from poco.intervals import mean_text
from poco.studies import adaptation, zapbench
from poco.studies.gains import gains


def table(cells: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a row for each forecaster, training and value; mean over seeds and half the 95% t-interval.

    Studies of adaptation and of ZAPBench have a table each, below one another; where sessions were trained on alone and
    together, another table says what each gained.
    """
    kinds: dict[tuple[Callable[[Sequence[Mapping[str, Any]]], str], str], list[Mapping[str, Any]]] = {}
    for cell in cells:
        kind = adaptation.table if "curves" in cell else zapbench.table if "mae_per_step" in cell else _scores
        kinds.setdefault((kind, "" if kind is _scores else cell["study"]), []).append(cell)
    kinds[_gains, ""] = kinds.get((_scores, ""), [])
    several = sum(bool(study) for _, study in kinds) > 1  # which their tables do not name
    texts = [(study, kind(some)) for (kind, study), some in kinds.items()]
    return "\n\n".join(f"{study}\n\n{text}" if study and several else text for study, text in texts if text)


def meaning(cells: Sequence[Mapping[str, Any]]) -> str:
    """What the numbers of :func:`table` are, a line for scores and one for errors."""
    lines = []
    protocols = sorted({str(cell["protocol"]) for cell in cells if "mae_per_step" not in cell})
    if protocols:
        lines.append(
            f"Scores are 1 - MSE / MSE of copy on the test part, {' and '.join(protocols)} protocol; behind ± is half "
            "the 95% t-interval."
        )
    if any("mae_per_step" in cell for cell in cells):
        lines.append("MAE is the mean absolute error so many frames ahead, in the units of the recordings.")
    return "\n".join(lines)


def _texts(cell: Mapping[str, Any], *names: str) -> tuple[str, ...]:
    """What a cell has under these names; nothing where it has None, as a study without values has."""
    return tuple("" if cell[name] is None else str(cell[name]) for name in names)


def _scores(cells: Sequence[Mapping[str, Any]]) -> str:
    groups: dict[tuple[str, ...], list[float]] = {}
    for cell in cells:
        key = _texts(cell, "study", "value", "training", "forecaster")
        groups.setdefault(key, []).append(cell["score"])
    lines = ["| study | value | training | forecaster | score | seeds |", "|---|---|---|---|---|---|"]
    for key, scores in groups.items():
        lines.append(f"| {' | '.join(key)} | {mean_text(scores)} | {len(scores)} |")
    return "\n".join(lines)


def _gains(cells: Sequence[Mapping[str, Any]]) -> str:
    """What training together brings over training alone, a row for each that has both."""
    lines = []
    for key, each in gains(cells).items():
        names = _texts(key._asdict(), *key._fields)
        ahead = f"{sum(gain > 0 for gain in each)} of {len(each)}"
        lines.append(f"| {' | '.join(names)} | {mean_text(each)} | {median(each):.3f} | {ahead} |")
    head = "| study | value | forecaster | training | gain over single | median | sessions that gain |"
    return "\n".join([head, "|" + "---|" * 7, *lines]) if lines else ""
