"""Scores of each step ahead, as a tidy table and a figure: of studies and of the scoreboard."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from poco.errors import ConfigError, DataError, MissingExtraError
from poco.scoreboard import mean_interval

#: What cells may hold a value of for each step ahead, and what a figure says of it.
MEASURES = {"mae_per_step": "mean absolute error", "score_per_step": "score (1 - MSE / copy MSE)"}
#: What says which cell it is: of a scoreboard, of a study.
_OF_A_CELL = ("study", "data", "protocol", "value", "training", "forecaster", "seed")


def write_csv(cells: Sequence[Mapping[str, Any]], path: Path) -> None:
    """A row for each cell and step ahead, counted from 1; a DataError if no cell has scores by step."""
    measures = _measures(cells)
    known = [name for name in _OF_A_CELL if any(name in cell for cell in cells)]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(
            file, [*known, "step", *(m.removesuffix("_per_step") for m in measures)], lineterminator="\n"
        )
        writer.writeheader()
        for cell in cells:
            same = {name: cell[name] for name in known if name in cell}
            columns = {m.removesuffix("_per_step"): cell[m] for m in measures if m in cell}
            for step, values in enumerate(zip(*columns.values(), strict=True), start=1):
                writer.writerow({**same, "step": step, **dict(zip(columns, values, strict=True))})


def plot(cells: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Against the step ahead: mean absolute errors where cells have them, else scores.

    A line for each value, training and forecaster: mean over seeds, its 95% t-interval shaded.

    Raises:
        ConfigError: for results of several studies.
        DataError: if no cell has scores by step.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError.of("matplotlib", "plots", "drawing a study") from None
    measure, title = _measures(cells)[0], one_study(cells)
    lines: dict[str, list[Sequence[float]]] = {}
    for cell in cells:
        if measure in cell:
            what = [str(cell[name]) for name in ("forecaster", "training", "value") if cell.get(name) is not None]
            lines.setdefault(", ".join(what), []).append(cell[measure])
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for label, seeds in lines.items():
        steps = range(1, len(seeds[0]) + 1)
        found = [mean_interval(values) for values in zip(*seeds, strict=True)]
        (line,) = axes.plot(steps, [m for m, _ in found], marker="o", markersize=3, label=label)
        low, high = ([m + sign * (h or 0) for m, h in found] for sign in (-1, 1))
        axes.fill_between(steps, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set(title=title, xlabel="frames ahead", ylabel=MEASURES[measure])
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)


def one_study(cells: Sequence[Mapping[str, Any]]) -> str:
    """Name of the study that all cells are of; a ConfigError if they are of several."""
    if len({cell["study"] for cell in cells}) > 1:
        raise ConfigError("the folder has results of several studies: plot a folder with one")
    return str(cells[0]["study"])


def _measures(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    found = [name for name in MEASURES if any(name in cell for cell in cells)]
    if not found:
        raise DataError("there are no scores of single steps: results of an older version, or of adaptation, have none")
    return found
