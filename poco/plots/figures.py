"""Whole figures: what a run learned, and what the demo shows."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from poco.errors import ConfigError, optional
from poco.files import write_atomically
from poco.plots.examples import Example
from poco.plots.panels import draw_adaptation, draw_example, draw_raster, draw_scores, draw_steps, draw_training
from poco.plots.style import GREY, INK, SETTINGS

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.gridspec import SubplotSpec

Scores = Mapping[str, tuple[float, Sequence[float]]]


@dataclass(frozen=True)
class TrainingCurve:
    """Errors during training.

    Attributes:
        train: (step, MSE) pairs.
        validation: (step, MSE) pairs.
        best_step: last step that weights were kept of, or None.
    """

    train: Sequence[tuple[int, float]]
    validation: Sequence[tuple[int, float]]
    best_step: int | None = None


@dataclass(frozen=True)
class AdaptationCurve:
    """Test score of a new animal while its embeddings are fitted.

    Attributes:
        points: (step, seconds, score) triples, the first before any step.
        references: score of other forecasters on the same windows, by name.
        session: name of the animal's session.
        after: score of the weights that were kept.
        kept_step: the step of those, None where that is not known.
    """

    points: Sequence[tuple[int, float, float]]
    references: Mapping[str, float]
    session: str
    after: float
    kept_step: int | None = None


def run_figure(
    examples: Sequence[Example],
    scores: Scores,
    steps: Mapping[str, np.ndarray],
    training: TrainingCurve,
    *,
    title: str,
    subtitle: str = "",
) -> Figure:
    """Figure of one run: example forecasts, scores, score along the horizon, training.

    Args:
        examples: up to six units in windows of the test part.
        scores: for each forecaster its score and the score of every session.
        steps: for some forecasters the score at each step ahead, ``[H]``.
        training: errors during training.
        title: one line.
        subtitle: one line in small print: protocol, part, sizes.

    Raises:
        MissingExtraError: if matplotlib is missing.
    """
    figure_class, context = matplotlib_figure()
    with context:
        figure = figure_class(figsize=(12.5, 8.2), dpi=120)
        left, right = _columns(figure, (1.5, 1.0), title, subtitle)
        _examples_grid(figure, left, examples)
        grid = right.subgridspec(3, 1, hspace=0.62, height_ratios=(0.3 + 0.16 * len(scores), 1.15, 1.0))
        draw_scores(figure.add_subplot(grid[0]), scores, "Score on the test part, all sessions")
        if steps:
            draw_steps(figure.add_subplot(grid[1]), steps, examples[0].rate_hz if examples else None)
        draw_training(figure.add_subplot(grid[2]), training.train, training.validation, training.best_step)
    return figure


def demo_figure(
    activity: np.ndarray,
    rate_hz: float | None,
    examples: Sequence[Example],
    scores: Scores,
    steps: Mapping[str, np.ndarray],
    training: TrainingCurve,
    adaptation: AdaptationCurve,
    *,
    title: str,
    subtitle: str = "",
) -> Figure:
    """Figure of the demo: a population, forecasts, scores, and the adaptation to an unseen animal.

    Args:
        activity: ``[N, T]`` a stretch of one animal's activity.
        rate_hz: its frames a second.
        examples: up to four example forecasts.
        scores: see :func:`run_figure`.
        steps: see :func:`run_figure`.
        training: see :func:`run_figure`.
        adaptation: score of the unseen animal against steps and seconds.
        title: one line.
        subtitle: one line in small print.

    Raises:
        MissingExtraError: if matplotlib is missing.
    """
    figure_class, context = matplotlib_figure()
    with context:
        figure = figure_class(figsize=(13.5, 10.5), dpi=120)
        left, right = _columns(figure, (1.55, 1.0), title, subtitle)
        rows = left.subgridspec(3, 1, hspace=0.42, height_ratios=(0.85, 1.35, 1.0))
        draw_raster(figure.add_subplot(rows[0]), activity, rate_hz, "Population activity of one animal")
        _examples_grid(figure, rows[1], examples[:4])
        draw_adaptation(
            figure.add_subplot(rows[2]),
            adaptation.points,
            title=f"Adapting to an unseen animal ({adaptation.session})",
            references=adaptation.references,
            after=adaptation.after,
            kept_step=adaptation.kept_step,
        )
        grid = right.subgridspec(3, 1, hspace=0.42, height_ratios=(0.85, 1.1, 1.0))
        draw_scores(figure.add_subplot(grid[0]), scores, "Score on the test part, training animals")
        draw_steps(figure.add_subplot(grid[1]), steps, rate_hz)
        draw_training(figure.add_subplot(grid[2]), training.train, training.validation, training.best_step)
    return figure


def save(figure: Figure, path: str | Path) -> Path:
    """Save a figure as what its name ends in (.png, .svg, .pdf), whole or not at all; returns the path.

    Raises:
        ConfigError: if no figure can be written as that.
        CheckpointError: if the file cannot be written.
    """
    path = Path(path)
    kind, known = path.suffix[1:].lower(), figure.canvas.get_supported_filetypes()
    if kind not in known:
        raise ConfigError(f"{path}: a figure is written as .png, .svg or .pdf, not as '{path.suffix}'")
    path.parent.mkdir(parents=True, exist_ok=True)
    content = io.BytesIO()
    figure.savefig(content, format=kind, dpi=figure.dpi)
    write_atomically(path, content.getvalue())
    return path


def matplotlib_figure() -> tuple[Callable[..., Figure], AbstractContextManager[None]]:
    """What makes a figure drawn with Agg, and the settings to draw it in."""
    with optional("matplotlib", "plots", "drawing a figure"):
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

    def agg_figure(**options: Any) -> Figure:
        figure = Figure(**options)
        FigureCanvasAgg(figure)
        return figure

    return agg_figure, matplotlib.rc_context(SETTINGS)


def _columns(figure: Figure, widths: tuple[float, float], title: str, subtitle: str) -> tuple[SubplotSpec, SubplotSpec]:
    """Two columns under a title, with room on the right for labels at the ends of lines."""
    height = figure.get_figheight()
    figure.text(0.055, 1 - 0.22 / height, title, fontsize=14, fontweight="bold", color=INK, va="top")
    figure.text(0.055, 1 - 0.53 / height, subtitle, fontsize=9, color=GREY, va="top")
    grid = figure.add_gridspec(
        1, 2, width_ratios=widths, left=0.055, right=0.945, top=1 - 1.3 / height, bottom=0.55 / height, wspace=0.26
    )
    return grid[0], grid[1]


def _examples_grid(figure: Figure, place: SubplotSpec, examples: Sequence[Example]) -> None:
    if not examples:
        return
    columns = 2
    rows = -(-len(examples) // columns)
    grid = place.subgridspec(rows, columns, hspace=0.32, wspace=0.2)
    for number, example in enumerate(examples):
        axes = figure.add_subplot(grid[number // columns, number % columns])
        last_row = number + columns >= len(examples)
        draw_example(axes, example, show_x=last_row, show_legend=number == 0)
        if number % columns:
            axes.set_ylabel("")
        if number == 0:
            axes.annotate(
                "Forecasts of single units, from good to poor within their own session",
                (0.0, 1.0),
                xycoords="axes fraction",
                xytext=(0, 18),
                textcoords="offset points",
                fontsize=10,
                fontweight="bold",
                va="bottom",
            )
