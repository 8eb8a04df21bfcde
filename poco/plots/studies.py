"""Figures of studies: scores as bars or against what was varied, against the step ahead, and while a model adapts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

from poco.errors import ConfigError
from poco.intervals import mean_interval
from poco.plots.figures import matplotlib_figure
from poco.plots.style import BLUE, GREEN, GREY, INK, ORANGE, PALE, PURPLE, SKY, VERMILION, is_own, label
from poco.studies.adaptation import MODES, by_animal, forecasters, points, sources
from poco.studies.gains import Trained, gains
from poco.studies.steps import MEASURES, measures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Cells = Sequence[Mapping[str, Any]]
Intervals = Sequence[tuple[float, float | None]]

SCORE = MEASURES["score_per_step"]
_MODE_COLOURS = dict(zip(MODES, (GREY, BLUE, GREEN, VERMILION, PURPLE), strict=True))
_OTHERS = (VERMILION, GREEN, ORANGE, PURPLE, SKY, GREY)
#: How a model that learnt from all sessions, those of a data set, or one alone is drawn.
_DASHES = {"multi": "-", "dataset": "-.", "single": "--"}
#: Panels of a figure beside one another.
_PANELS = 4
#: Where some gains are many times as large, those larger than this are drawn on a logarithmic axis.
_SMALL_GAIN = 0.05
#: Numbers that are so many times apart are drawn on a logarithmic axis.
_WIDE = 8


def study_figure(cells: Cells) -> Figure:
    """Scores against what was varied where that is a number, else as bars; of adaptation, curves.

    Where sessions were trained on alone and together, beside the numbers what each session gains.

    Raises:
        ConfigError: for results of several studies.
        MissingExtraError: if matplotlib is missing.
    """
    title, (make, style) = _one_study(cells), matplotlib_figure()
    with style:
        if "curves" in cells[0]:
            figure = make(figsize=(8, 3.5), dpi=120, layout="constrained")
            _adaptation(cells, figure)
            return figure
        values = dict.fromkeys(cell["value"] for cell in cells)
        if all(isinstance(value, (int, float)) for value in values):
            gained = gains(cells)
            figure = make(figsize=(11 if gained else 6, 4), dpi=120, layout="constrained")
            left = figure.add_subplot(1, 2 if gained else 1, 1)
            _against_value(cells, left)
            if gained:
                right = figure.add_subplot(1, 2, 2)
                _gains(gained, right)
                right.set_xlabel(left.get_xlabel())
        else:
            figure = make(figsize=(6, 1.3 + 0.24 * len(_groups(cells))), dpi=120, layout="constrained")
            _bars(cells, figure.subplots())
        figure.axes[0].set_title(title)
    return figure


def steps_figure(cells: Cells) -> Figure:
    """Against the step ahead: mean absolute errors where cells have them, else scores; mean and 95% t-interval.

    Raises:
        ConfigError: for results of several studies.
        DataError: if no cell has scores by step.
        MissingExtraError: if matplotlib is missing.
    """
    measure, title, (make, style) = measures(cells)[0], _one_study(cells), matplotlib_figure()
    with style:
        figure = make(figsize=(6, 4), dpi=120, layout="constrained")
        axes = figure.subplots()
        groups = _groups([cell for cell in cells if measure in cell])
        colours = _colours([" ".join(group) for group in groups])
        for place, (group, some) in enumerate(groups.items()):
            seeds = [cell[measure] for cell in some]
            found = [mean_interval(values) for values in zip(*seeds, strict=True)]
            dashes = tuple(_DASHES.values())[place // len(_OTHERS) % len(_DASHES)]
            _line(axes, range(1, len(found) + 1), found, colours[" ".join(group)], _name(group), dashes)
        axes.set(title=title, xlabel="frames ahead", ylabel=MEASURES[measure])
        axes.legend()
    return figure


def _one_study(cells: Cells) -> str:
    """Name of the study that all cells are of."""
    if len({cell["study"] for cell in cells}) > 1:
        raise ConfigError("the folder has results of several studies: plot a folder with one")
    return str(cells[0]["study"])


def _groups(cells: Cells, *, by_value: bool = True) -> dict[tuple[str, ...], list[Mapping[str, Any]]]:
    """Cells that differ in their seed alone, by forecaster, training and (where there is one) value."""
    found: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for cell in cells:
        value = [] if cell["value"] is None or not by_value else [str(cell["value"])]
        found.setdefault((cell["forecaster"], cell["training"], *value), []).append(cell)
    return found


def _name(group: Sequence[str]) -> str:
    """A group as a figure shows it."""
    return ", ".join([label(group[0]), *group[1:]])


def _colours(forecasters: Sequence[str]) -> dict[str, str]:
    """Blue for the forecaster that is shown, where it is one; others take turns."""
    names = list(dict.fromkeys(forecasters))
    own = [name for name in names if is_own(name)][:1]
    others = itertools.cycle(_OTHERS)
    return {name: BLUE if name in own else next(others) for name in names}


def _bars(cells: Cells, axes: Axes) -> None:
    """A bar for each forecaster, training and value, best at the top; none where the score is not finite."""
    found = {group: mean_interval([cell["score"] for cell in some]) for group, some in _groups(cells).items()}
    order = sorted(found, key=lambda group: found[group][0])
    for row, group in enumerate(order):
        mean, half = found[group]
        axes.barh(row, mean if math.isfinite(mean) else math.nan, height=0.7, color=BLUE if is_own(group[0]) else GREY)
        if half:
            axes.plot([mean - half, mean + half], [row, row], color=INK, linewidth=1.0)
    axes.set_yticks(range(len(order)), [_name(group) for group in order])
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.grid(axis="x", color=PALE)
    axes.set_axisbelow(True)
    axes.set_xlabel(SCORE)


def _against_value(cells: Cells, axes: Axes) -> None:
    """A line for each forecaster and training against the number that was varied."""
    groups = _groups(cells, by_value=False)
    colours = _colours([forecaster for forecaster, _ in groups])
    for (forecaster, training), some in groups.items():
        values = sorted({cell["value"] for cell in some})
        found = [mean_interval([cell["score"] for cell in some if cell["value"] == value]) for value in values]
        name = _name((forecaster, training))
        _line(axes, values, found, colours[forecaster], name, _DASHES.get(training, "-"))
    every = sorted({cell["value"] for cell in cells})
    least = min((value for value in every if value > 0), default=1)
    if every[0] >= 0 and every[-1] >= _WIDE * least:
        axes.set_xscale("symlog", linthresh=least) if every[0] == 0 else axes.set_xscale("log")
        axes.minorticks_off()
    axes.set_xticks(every, [f"{value:g}" for value in every])
    axes.set(xlabel=str(cells[0].get("vary", "value")).rpartition(".")[2].replace("_", " "), ylabel=SCORE)
    axes.legend()


def _gains(gained: Mapping[Trained, Sequence[float]], axes: Axes) -> None:
    """A dot for each session and a line for their median, side by side where there are several forecasters or ways."""
    values = sorted({key.value for key in gained})
    kinds = list(dict.fromkeys((key.forecaster, key.training) for key in gained))
    colours = _colours([forecaster for forecaster, _ in kinds])
    width = 0.7 / len(kinds)
    most = max(abs(gain) for each in gained.values() for gain in each)
    if most > _WIDE * _SMALL_GAIN:
        axes.set_yscale("symlog", linthresh=_SMALL_GAIN)
        axes.yaxis.set_major_formatter("{x:g}")
    for key, each in gained.items():
        place, colour = kinds.index((key.forecaster, key.training)), colours[key.forecaster]
        middle = values.index(key.value) + (place - (len(kinds) - 1) / 2) * width
        spread = [middle + width * (0.7 * (row + 0.5) / len(each) - 0.35) for row in range(len(each))]
        axes.plot(spread, sorted(each), "o", color=colour, alpha=0.4, markersize=3)
        axes.hlines(median(each), middle - 0.4 * width, middle + 0.4 * width, color=colour, linewidth=2)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.set_xticks(range(len(values)), [f"{value:g}" for value in values])
    axes.set(title="together over alone: sessions, median", ylabel="gain in score")


def _line(axes: Axes, x: Sequence[float], found: Intervals, colour: str, name: str, dashes: str = "-") -> None:
    """Means with their intervals shaded."""
    axes.plot(x, [m for m, _ in found], dashes, color=colour, label=name, marker="o", markersize=3)
    low, high = ([m + sign * (half or 0) for m, half in found] for sign in (-1, 1))
    axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)


def _adaptation(cells: Cells, figure: Figure) -> None:
    """Test score against steps and against seconds, or, with several numbers of frames, against these.

    Where there are several forecasters or sources that models learnt from, a panel for each, against steps alone. Lines
    are means over animals, shades 95% t-intervals.
    """
    panels = {
        _of_a_panel(source, forecaster if len(forecasters(cells)) > 1 else ""): some
        for source, forecaster in itertools.product(sources(cells), forecasters(cells))
        if (some := [c for c in cells if (c.get("source"), c["forecaster"]) == (source, forecaster)])
    }
    columns = min(len(panels), _PANELS)
    rows = -(-len(panels) // columns)
    every = sorted({c["frames"] for c in cells if c["frames"] is not None})
    if len(panels) == 1 and len(every) <= 1:
        left, right = figure.subplots(1, 2, sharey=True)
        _curves(cells, left, right)
        right.set(xlabel="seconds")
        drawn = [left]
    else:
        figure.set_size_inches(8, 3.5 if rows == 1 else 2.6 * rows)
        drawn = list(figure.subplots(rows, columns, sharey=True, squeeze=False).flat)
        for axes in drawn[len(panels) :]:
            axes.remove()
        for axes, (title, some) in zip(drawn, panels.items(), strict=False):
            if len(every) > 1:
                _against_frames(some, every, axes)
            else:
                _curves(some, axes)
            axes.set_title(title)
    figure.suptitle(cells[0]["study"])
    for axes in drawn[: len(panels)]:
        axes.set_xlabel("steps" if len(every) <= 1 else "frames learnt from")
    for axes in drawn[: len(panels) : columns]:
        axes.set_ylabel("test score")
    if len(every) <= 1:
        drawn[0].set_ylim(bottom=-0.3)  # an untrained model begins far below
    drawn[0].legend()


def _of_a_panel(source: str | None, forecaster: str) -> str:
    """The title of one of several panels."""
    return ", ".join([*([label(forecaster)] if forecaster else []), *([f"learnt from {source}"] if source else [])])


def _against_frames(cells: Cells, every: Sequence[int], axes: Axes) -> None:
    """A line for each mode against the frames that were learnt from."""
    for mode in MODES:
        own = {n: by_animal([c for c in cells if c["frames"] == n], mode, lambda c: c["after"]) for n in every}
        values = {n: mean_interval(list(animals.values())) for n, animals in own.items() if animals}
        if values:
            _line(axes, list(values), list(values.values()), _MODE_COLOURS[mode], mode)
    axes.set_xscale("log")
    axes.set_xticks(every, [str(n) for n in every])
    axes.minorticks_off()


def _curves(cells: Cells, by_steps: Axes, by_seconds: Axes | None = None) -> None:
    """A line for each mode."""
    for mode in MODES:
        steps = sorted({p[0] for c in cells if c["training"] == mode for one in c["curves"] for p in one["history"]})
        if not steps:
            continue
        colour = _MODE_COLOURS[mode]
        if mode == "zero-shot":
            mean, _ = mean_interval(points(cells, mode, 0, 2))
            for axes in (by_steps, by_seconds):
                if axes is not None:
                    axes.axhline(mean, color=colour, linestyle="--", label=mode)
            continue
        scores = [mean_interval(points(cells, mode, place, 2)) for place in range(len(steps))]
        _line(by_steps, steps, scores, colour, mode)
        if by_seconds is not None:
            seconds = [mean_interval(points(cells, mode, place, 1))[0] for place in range(len(steps))]
            _line(by_seconds, seconds, scores, colour, mode)
