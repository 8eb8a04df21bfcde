"""The figures of a report, each small enough for a phone, and their form inside a page."""

from __future__ import annotations

import functools
import html
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec

import numpy as np

from poco.data.splits import PARTS, Split
from poco.files import write_atomically
from poco.models import members
from poco.plots.examples import Example
from poco.plots.figures import matplotlib_figure
from poco.plots.panels import (
    draw_adaptation,
    draw_example,
    draw_raster,
    draw_scores,
    draw_steps,
    draw_training,
    time_axis,
)
from poco.plots.style import BLUE, GREEN, GREY, INK, ORANGE, PALE, PURPLE, SKY, VERMILION
from poco.reporting.units import UnitResults
from poco.run import Run
from poco.training.validation import trained_apart

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from poco.adapted import Adapted
    from poco.data.recording import Recording
    from poco.scores import Evaluation
    from poco.unit_embeddings import SessionEmbeddings

#: Colours that a page takes over as its own, so that it can be read in light and dark.
_VARIABLES = {
    INK: "ink",
    GREY: "grey",
    PALE: "pale",
    BLUE: "blue",
    VERMILION: "vermilion",
    GREEN: "green",
    ORANGE: "orange",
    PURPLE: "purple",
    SKY: "sky",
    "#FFFFFF": "paper",
    "#000000": "ink",
}
#: Groups that are told apart by colour; others are grey.
_GROUPS = (BLUE, VERMILION, GREEN, ORANGE, PURPLE, SKY)
#: Units that a raster or a map of points shows at most.
MOST_UNITS = 2000
_MOST_SESSIONS = 12


class Drawn:
    """A figure as the page shows it and as files for a paper.

    Attributes:
        name: what its files and its elements are called.
        title: heading.
        caption: what it shows.
        svg: to be put into a page.
        tips: for each point that can be pointed at, its lines of text.
    """

    def __init__(self, figure: Figure, name: str, title: str, caption: str, tips: Sequence[Sequence[str]] = ()) -> None:
        figure.axes[0].set_title("")
        self.name, self.title, self.caption, self.tips = name, title, caption, tips
        self._files = {}
        for kind in ("svg", "png"):
            written = io.BytesIO()
            metadata = {"Date": None} if kind == "svg" else None
            figure.savefig(written, format=kind, dpi=200, metadata=metadata, transparent=kind == "svg")
            self._files[kind] = written.getvalue()
        self.svg = _inline(self._files["svg"].decode(), name, title)

    def save(self, folder: Path) -> None:
        """Write ``NAME.svg`` and ``NAME.png``."""
        folder.mkdir(parents=True, exist_ok=True)
        for kind, content in self._files.items():
            write_atomically(folder / f"{self.name}.{kind}", content)


def _inline(svg: str, name: str, title: str) -> str:
    """An SVG as part of a page: as wide as there is room, in the page's colours, its ids its own."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    head, rest = svg.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    assert box is not None
    head = f'<svg {box[0]} xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" role="img"'
    rest = re.sub(r'\bid="', f'id="{name}-', rest)
    rest = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", rest)
    for colour, variable in _VARIABLES.items():
        rest = re.sub(rf"{colour}(?=[;\"])", f"var(--{variable})", rest, flags=re.IGNORECASE)
    return f'{head} aria-label="{html.escape(title)}">{rest}'


P = ParamSpec("P")


def _styled(draw: Callable[P, Drawn]) -> Callable[P, Drawn]:
    """What draws, in the settings that all figures share."""

    @functools.wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Drawn:
        with matplotlib_figure()[1]:
            return draw(*args, **kwargs)

    return drawn


def _figure(height: float = 3.0) -> tuple[Figure, Axes]:
    """A figure with one panel; its heading is the page's."""
    figure = matplotlib_figure()[0](figsize=(4.6, height), layout="constrained")
    return figure, figure.subplots()


@_styled
def raster(recording: Recording, name: str) -> Drawn:
    """The activity of a session."""
    figure, axes = _figure()
    activity = recording.activity
    rows = drawn_rows(len(activity))
    known = np.where(np.isfinite(activity[rows]), activity[rows], np.nan)
    shown = np.nan_to_num(known - np.nanmean(known, axis=1, keepdims=True))
    draw_raster(axes, shown, recording.rate_hz, "")
    drawn = (
        "all units" if len(rows) == recording.units else f"{len(rows):,} of {recording.units:,} units, drawn at random"
    )
    return Drawn(figure, name, f"Activity of {recording.session}", f"z-scores of {drawn}, ordered by phase.")


@_styled
def split_diagram(split: Split, name: str) -> Drawn:
    """Which frames of each session are for training, validation and test."""
    shown = split.recordings[:_MOST_SESSIONS]
    figure, axes = _figure(height=1.1 + 0.24 * len(shown))
    rates = {recording.rate_hz for recording in shown}
    in_seconds = None not in rates
    for row, recording in enumerate(shown):
        frame = 1 / recording.rate_hz if in_seconds and recording.rate_hz else 1.0
        for part, colour in zip(PARTS, (GREY, ORANGE, BLUE), strict=True):
            pieces = [(a * frame, (b - a) * frame) for a, b in split.segments[part][row]]
            axes.broken_barh(pieces, (row - 0.35, 0.7), facecolors=colour, label=part if row == 0 else None)
    axes.set_yticks(range(len(shown)), [_short(recording.session) for recording in shown])
    axes.invert_yaxis()
    axes.set_xlabel("time (s)" if in_seconds else "frames")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    more = len(split.recordings) - len(shown)
    rest = f" The first {len(shown)} of {len(split.recordings)} sessions." if more else ""
    return Drawn(figure, name, "What is trained, validated and tested on", f"{split.protocol} protocol.{rest}")


@_styled
def scores(evaluation: Evaluation, name: str) -> Drawn:
    """The score of each forecaster."""
    each = evaluation.forecasters
    figure, axes = _figure(height=1.0 + 0.28 * len(each))
    draw_scores(axes, {key: (s.score, [one.score for one in s.sessions]) for key, s in each.items()}, "")
    return Drawn(
        figure,
        name,
        "Score of each forecaster",
        "Mean over sessions; a dot for each session. 0 is repeating the last frame.",
    )


@_styled
def steps(evaluation: Evaluation, rate_hz: float | None, name: str) -> Drawn:
    """The score at each step of the horizon."""
    figure, axes = _figure()
    curves = {
        key: np.array(s.score_per_step) for key, s in evaluation.forecasters.items() if key not in ("copy", "mean")
    }
    draw_steps(axes, curves, rate_hz)
    return Drawn(
        figure, name, "Score along the horizon", "Each step ahead against repeating the last frame at the same step."
    )


@_styled
def distribution(results: Sequence[UnitResults], name: str) -> Drawn:
    """The scores of all units."""
    figure, axes = _figure()
    values = np.concatenate([one.score for one in results])
    values = values[np.isfinite(values)]
    low = max(-1.0, float(values.min(initial=0.0)))
    axes.hist(np.clip(values, low, 1), bins=40, color=BLUE, alpha=0.75)
    middle = float(np.median(values)) if values.size else 0.0
    axes.axvline(middle, color=VERMILION)
    axes.axvline(0, color=INK, linewidth=0.9)
    axes.set(xlabel="score of a unit: 1 - MSE / MSE of copy", ylabel="units")
    below = int((values < low).sum())
    cut = f" {below:,} below {low:g} are in the first bar." if below else ""
    worse = 100 * float((values < 0).mean()) if values.size else 0.0
    caption = f"{values.size:,} units, median {middle:.3f} (red line), {worse:.0f}% below 0.{cut}"
    return Drawn(figure, name, "Score of each unit", caption)


@_styled
def unit_map(recording: Recording, results: UnitResults, name: str) -> Drawn:
    """Scores where the units lie."""
    assert recording.coordinates is not None
    rows = drawn_rows(recording.units)
    places, values = recording.coordinates[rows], results.score[rows]
    figure, axes = _figure(height=3.6)
    points = axes.scatter(
        places[:, 0], places[:, 1], c=np.nan_to_num(values), s=22, cmap="viridis", vmin=0, vmax=1, gid="points"
    )
    axes.set(xlabel="x", ylabel="y", aspect="equal")
    axes.invert_yaxis()
    bar = figure.colorbar(points, ax=axes, fraction=0.04)
    bar.set_label("score")
    tips = [[f"unit {recording.unit_ids[r]}", f"score {s:.3f}"] for r, s in zip(rows, values, strict=True)]
    plane = " First two of three axes." if recording.coordinates.shape[1] == 3 else ""
    return Drawn(
        figure, name, f"Where they are forecast well: {recording.session}", f"Scores below 0 as 0.{plane}", tips
    )


@_styled
def example(one: Example, which: str, name: str) -> Drawn:
    """A forecast."""
    figure, axes = _figure(height=2.4)
    draw_example(axes, one, show_x=True, show_legend=which == "best")
    caption = f"Unit {one.unit} of {one.session}, score {one.score:.3f} over the test part; a window of median error."
    for text in list(axes.texts):
        text.remove()
    return Drawn(figure, name, f"{one.session}: the {which} unit", caption)


@_styled
def autocorrelation(results: Sequence[UnitResults], rate_hz: float | None, name: str) -> Drawn:
    """What the errors one step ahead still hold."""
    figure, axes = _figure()
    least = min(one.autocorrelation.shape[1] for one in results)
    values = np.concatenate([one.autocorrelation[:, :least] for one in results])
    values = values[np.isfinite(values).all(1)]
    frame, x_label = time_axis(least, rate_hz)
    lags = np.arange(least) * frame
    low, middle, high = np.percentile(values, (10, 50, 90), axis=0) if values.size else np.zeros((3, least))
    axes.fill_between(lags, low, high, color=BLUE, alpha=0.2, linewidth=0)
    axes.plot(lags, middle, color=BLUE)
    bound = 1.96 / np.sqrt(min(one.frames for one in results))
    for edge in (-bound, bound):
        axes.axhline(edge, color=GREY, linestyle=(0, (3, 2)), linewidth=1)
    axes.axhline(0, color=INK, linewidth=0.9)
    axes.set(xlabel=x_label.replace("time", "lag"), ylabel="autocorrelation")
    caption = (
        "Errors one step ahead: median unit and the middle 80% of units. Dashed: where 95% of values lie if nothing "
        "is left to forecast, in the session with fewest windows; in others they lie closer to 0."
    )
    return Drawn(figure, name, "What the errors still hold", caption)


@_styled
def training(run: Run, name: str) -> Drawn:
    """Errors during training."""
    figure, axes = _figure()
    errors = run.training_curve
    draw_training(axes, errors.train, errors.validation, errors.best_step)
    caption = "Mean squared error of z-scores, validation: over all windows of the part, without dropout"
    if run.train_config.ema is not None:
        caption += ", of weights averaged over steps"
    if errors.train:
        caption += "; training: over the windows of the last few steps, with dropout where there is any"
    else:
        caption += ". What training made small, the mean absolute error, is not drawn"
    apart = len(trained_apart(members(run.model)[0]))
    caption += f". The mean over {apart} networks, each trained on its own error" if apart > 1 else ""
    return Drawn(figure, name, "Training", f"{caption}.")


@_styled
def adaptation(adapted: Adapted, name: str) -> Drawn:
    """The test score while a model is adapted, the step whose weights were kept marked."""
    figure, axes = _figure()
    points = [(point.step, point.seconds, point.score) for point in adapted.history]
    draw_adaptation(axes, points, title="", references={}, after=adapted.after, kept_step=adapted.kept_step)
    axes.set_xlabel("steps")
    if adapted.kept_step is None:
        kept = "Before the first step and after the last, all members together."
    elif adapted.split.validates:
        kept = f"The weights of step {adapted.kept_step} had the lowest validation error and were kept."
    else:
        kept = "The last weights were kept."
    caption = f"{kept} The curve is over about 128 windows of the test part, {adapted.after:.3f} is over all of them."
    return Drawn(figure, name, f"Adaptation to {adapted.session}", caption)


@_styled
def embedding_map(
    points: np.ndarray, names: Sequence[str], tips: Sequence[Sequence[str]], axes_label: str, caption: str, name: str
) -> Drawn:
    """Unit embeddings in a plane, the most frequent groups in colours."""
    figure, axes = _figure(height=3.6)
    found, counts = np.unique([n for n in names if n], return_counts=True)
    shown = [str(found[k]) for k in np.argsort(-counts, kind="stable")[: len(_GROUPS)]]
    colours = dict(zip(shown, _GROUPS, strict=False))
    axes.scatter(
        points[:, 0],
        points[:, 1],
        s=20,
        c=[colours.get(n, GREY) for n in names],
        alpha=0.85,
        linewidths=0,
        gid="points",
    )
    for group, colour in colours.items():
        axes.scatter([], [], s=20, color=colour, label=group)
    if colours and any(n not in colours for n in names):
        axes.scatter([], [], s=20, color=GREY, label="other or not known")
    if colours:
        axes.legend(
            loc="upper left", bbox_to_anchor=(0, 1.18), ncols=3, handletextpad=0.1, columnspacing=0.8, fontsize=7
        )
    axes.set(xlabel=f"{axes_label} 1", ylabel=f"{axes_label} 2")
    return Drawn(figure, name, f"Unit embeddings, {axes_label}{'s' * axes_label.endswith('component')}", caption, tips)


@_styled
def brain_map(entry: SessionEmbeddings, colours: np.ndarray, tips: Sequence[Sequence[str]], name: str) -> Drawn:
    """Units where they lie, in the colours of their embeddings."""
    assert entry.coordinates is not None
    figure, axes = _figure(height=3.6)
    rows = drawn_rows(len(entry.units))
    axes.scatter(entry.coordinates[rows, 0], entry.coordinates[rows, 1], c=colours[rows], s=22, gid="points")
    axes.set(xlabel="x", ylabel="y", aspect="equal")
    axes.invert_yaxis()
    caption = "Red, green and blue are the first three principal components of the embeddings: alike in colour, alike."
    return Drawn(figure, name, f"Embeddings in the brain: {entry.session}", caption, [tips[row] for row in rows])


@_styled
def similarity(regions: Sequence[str], values: np.ndarray, caption: str, name: str) -> Drawn:
    """How alike the units of each two regions are: ``[R, R]``."""
    figure, axes = _figure(height=4.4)
    image = axes.imshow(values, cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
    size = 8 if len(regions) <= 12 else 6
    axes.set_yticks(range(len(regions)), [_short(region, 12) for region in regions], fontsize=size)
    axes.set_xticks(range(len(regions)), [_short(region, 12) for region in regions], fontsize=size, rotation=90)
    bar = figure.colorbar(image, ax=axes, orientation="horizontal", fraction=0.04)
    bar.set_label("relative similarity")
    return Drawn(
        figure, name, "Similarity of regions", f"{caption} Blank: a region of one unit, or two never together."
    )


@_styled
def attention(regions: Sequence[str], values: np.ndarray, caption: str, name: str) -> Drawn:
    """How much of each latent's attention a unit of each region gets: ``[Q, R]``."""
    figure, axes = _figure(height=1.2 + 0.13 * max(12, len(regions)))
    image = axes.imshow(values.T, cmap="viridis", aspect="auto", interpolation="nearest")
    size = 8 if len(regions) <= 12 else 6
    axes.set_yticks(range(len(regions)), [_short(region, 12) for region in regions], fontsize=size)
    axes.set_xticks(range(len(values)), [str(latent + 1) for latent in range(len(values))])
    axes.set_xlabel("latent")
    figure.colorbar(image, ax=axes, fraction=0.05).set_label("share of a unit / even share")
    return Drawn(figure, name, "Attention of latents over regions", caption)


def drawn_rows(units: int) -> np.ndarray:
    """The units that are drawn: all, or :data:`MOST_UNITS` at random."""
    return np.sort(np.random.default_rng(0).permutation(units)[:MOST_UNITS])


def _short(text: str, most: int = 18) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
