"""Scores of each step ahead as a tidy table: of studies and of the scoreboard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from poco import cells as cells_of
from poco.errors import DataError

#: What cells may hold a value of for each step ahead, and what a figure says of it.
MEASURES = {"mae_per_step": "mean absolute error", "score_per_step": "score (1 - MSE / copy MSE)"}
#: What says which cell it is: of a scoreboard, of a study.
_OF_A_CELL = ("study", "data", "protocol", "value", "training", "forecaster", "seed")


def write_csv(cells: Sequence[Mapping[str, Any]], path: Path) -> None:
    """A row for each cell and step ahead, counted from 1; a DataError if no cell has scores by step."""
    there = measures(cells)
    known = [name for name in _OF_A_CELL if any(name in cell for cell in cells)]
    rows = []
    for cell in cells:
        same = {name: cell.get(name) for name in known}
        columns = {m.removesuffix("_per_step"): cell[m] for m in there if m in cell}
        for step, values in enumerate(zip(*columns.values(), strict=True), start=1):
            rows.append({**same, "step": step, **dict(zip(columns, values, strict=True))})
    cells_of.write_csv(rows, [*known, "step", *(m.removesuffix("_per_step") for m in there)], path)


def measures(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """Those of :data:`MEASURES` that cells have; a DataError if there is none."""
    found = [name for name in MEASURES if any(name in cell for cell in cells)]
    if not found:
        raise DataError("there are no scores of single steps: results of adaptation have none")
    return found
