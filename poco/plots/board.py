"""Figure of a scoreboard: one panel for each data set, one row for each forecaster."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from poco.plots.figures import matplotlib_figure
from poco.plots.style import BLUE, GREY, INK, PALE, is_own, label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Most panels beside each other.
COLUMNS = 4
#: Of the title, over each of these.
LETTERS = 34
#: Scores below are drawn here, as a triangle.
LEAST = -0.3


def board_figure(
    scores: Mapping[str, Mapping[str, tuple[float, float | None]]], forecasters: Sequence[str], title: str
) -> Figure:
    """Scores with the interval over seeds, best at the top.

    Args:
        scores: by data set and forecaster: mean over seeds and half its interval, None where there is one seed.
        forecasters: order of those that score alike.
        title: of the figure.

    Raises:
        MissingExtraError: if matplotlib is missing.
    """
    make, style = matplotlib_figure()
    with style:
        rows, most = -(-len(scores) // COLUMNS), max(map(len, scores.values()))
        columns = -(-len(scores) // rows)
        lines = textwrap.wrap(title, LETTERS * columns)
        height = rows * (0.9 + 0.17 * most) + 0.25 * (len(lines) - 1)
        figure = make(figsize=(3.1 * columns, height), layout="constrained")
        figure.suptitle("\n".join(lines), x=0.01, ha="left", fontweight="bold")
        for place, (data, own) in enumerate(sorted(scores.items()), 1):
            _panel(figure.add_subplot(rows, columns, place), own, forecasters, data)
    return figure


def _panel(axes: Axes, own: Mapping[str, tuple[float, float | None]], forecasters: Sequence[str], title: str) -> None:
    order = sorted(own, key=lambda name: (own[name][0], -forecasters.index(name)))
    for row, name in enumerate(order):
        mean, half = own[name]
        colour = BLUE if is_own(name) else GREY
        if mean < LEAST:
            axes.plot(LEAST, row, marker="<", color=colour, markersize=4)
            continue
        if half:
            axes.plot([max(mean - half, LEAST), mean + half], [row, row], color=colour, linewidth=1.2)
        axes.plot(mean, row, marker="o", color=colour, markersize=4)
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(order)), [label(name) for name in order], fontsize=6.5)
    for text, name in zip(axes.get_yticklabels(), order, strict=True):
        text.set_color(BLUE if is_own(name) else INK)
    axes.set_title(title, fontsize=8)
    axes.set_xlabel("score", fontsize=7)
    axes.set_xlim(LEAST - 0.03, min(axes.get_xlim()[1], 1.05))  # no score is above 1, whatever its interval over seeds
    axes.grid(axis="x", color=PALE, linewidth=0.8)
