"""The panels that figures are made of: each draws one thing on the axes it is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from poco.plots.examples import Example
from poco.plots.style import BLUE, GREY, INK, PALE, colour, is_own, label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LOWEST_STEP = -0.5  # curves below leave the panel, which says so
_LOWEST_BAR = -0.25  # bars below are cut here and say so: a poor forecaster must not squeeze the others


def time_axis(frames: int, rate_hz: float | None) -> tuple[float, str]:
    """Length of a frame and the axis label: seconds (or milliseconds) where the rate is known, else frames."""
    if rate_hz is None:
        return 1.0, "frames"
    if frames / rate_hz < 1:
        return 1000 / rate_hz, "time (ms)"
    return 1 / rate_hz, "time (s)"


def draw_example(axes: Axes, example: Example, *, show_x: bool, show_legend: bool) -> None:
    """Context in grey, then truth and forecast; time 0 is the last frame seen."""
    context, horizon = len(example.context), len(example.truth)
    frame, x_label = time_axis(context + horizon, example.rate_hz)
    past = np.arange(1 - context, 1) * frame
    future = np.arange(0, horizon + 1) * frame
    last = example.context[-1:]
    axes.axvspan(0, future[-1], color=PALE, alpha=0.45, linewidth=0)
    axes.plot(past, example.context, color=GREY, label="context")
    axes.plot(future, np.concatenate([last, example.truth]), color=INK, label="truth")
    axes.plot(future, np.concatenate([last, example.forecast]), color=BLUE, linewidth=2.2, label="forecast")
    axes.plot([0, future[-1]], [last[0], last[0]], color=GREY, linestyle=(0, (2, 2)), linewidth=1.0, label="copy")
    axes.set_xlim(past[0], future[-1])
    axes.set_title(f"{example.session}, unit {example.unit}", fontsize=8.5, fontweight="normal", color=INK, pad=4.0)
    axes.text(
        1.0,
        1.02,
        f"score {example.score:.2f}",
        transform=axes.transAxes,
        ha="right",
        va="bottom",
        fontsize=8,
        color=BLUE,
    )
    axes.set_ylabel("z-score")
    axes.tick_params(labelbottom=show_x)
    if show_x:
        axes.set_xlabel(x_label + ", 0 = last frame seen")
    axes.margins(y=0.12)
    if show_legend:
        axes.legend(loc="upper left", ncols=2, handlelength=1.4, columnspacing=1.0, borderaxespad=0.1)
        low, high = axes.get_ylim()
        axes.set_ylim(low, high + 0.38 * (high - low))


def draw_scores(axes: Axes, scores: Mapping[str, tuple[float, Sequence[float]]], title: str) -> None:
    """Horizontal bars of every forecaster's score, best on top; a dot for each session, a triangle for lower ones."""
    order = sorted(scores, key=lambda name: scores[name][0])
    highest = max([0.1, *(score for score, _ in scores.values()), *(s for _, each in scores.values() for s in each)])
    lowest = min([0.0, *(score for score, _ in scores.values()), *(s for _, each in scores.values() for s in each)])
    left = max(_LOWEST_BAR, lowest) - 0.02
    for row, name in enumerate(order):
        score, each = scores[name]
        own = is_own(name)
        axes.barh(row, max(score, _LOWEST_BAR), height=0.62, color=colour(name), alpha=1.0 if own else 0.55, zorder=2)
        shown = [value for value in each if value >= _LOWEST_BAR]
        if len(each) > 1:
            lower = [_LOWEST_BAR][: len(each) - len(shown)]  # once for all that are farther down
            for at, marker, size in ((shown, "o", 11), (lower, "<", 22)):
                axes.scatter(
                    at,
                    [row] * len(at),
                    s=size,
                    marker=marker,
                    color="white",
                    edgecolors=INK,
                    linewidths=0.7,
                    zorder=3,
                    clip_on=False,
                )
        if score < _LOWEST_BAR:
            axes.text(_LOWEST_BAR + 0.01, row, "\u25c4 cut", va="center", ha="left", fontsize=7.5, color=INK, zorder=4)
        axes.text(
            highest * 1.06,
            row,
            f"{score:.3f}",
            va="center",
            ha="left",
            fontsize=9,
            color=INK,
            fontweight="bold" if own else "normal",
        )
    axes.axvline(0, color=INK, linewidth=0.9, zorder=4)
    axes.set_yticks(range(len(order)), [label(name) for name in order])
    axes.set_xlim(left, highest * 1.04)
    axes.set_ylim(-0.6, len(order) - 0.4)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=PALE, linewidth=0.8, zorder=0)
    axes.set_xlabel("score: 1 - MSE / MSE of copy")
    axes.set_title(title)


def draw_steps(axes: Axes, curves: Mapping[str, np.ndarray], rate_hz: float | None) -> None:
    """Score at each step of the horizon, one line a forecaster, named at its end."""
    horizon = max(len(curve) for curve in curves.values())
    frame, x_label = time_axis(horizon, rate_hz)
    ends: list[tuple[float, str]] = []
    for name, curve in curves.items():
        own = is_own(name)
        x = np.arange(1, len(curve) + 1) * frame
        axes.plot(x, curve, color=colour(name), linewidth=2.4 if own else 1.5, zorder=3 if own else 2)
        ends.append((float(curve[-1]), name))
    values = np.concatenate([np.asarray(curve, dtype=float) for curve in curves.values()])
    values = values[np.isfinite(values)] if np.isfinite(values).any() else np.zeros(1)  # -inf: a session stands still
    low, high = max(float(values.min()), _LOWEST_STEP), float(values.max())
    pad = 0.06 * max(high - low, 0.1)
    axes.set_ylim(low - pad, high + pad)
    axes.set_xlim(frame * 0.5, horizon * frame * 1.02)
    bottom = axes.get_ylim()[0]
    _name_lines(axes, [(y if np.isfinite(y) else bottom, name) for y, name in ends], gap=0.1)
    lowest = {name: float(np.min(curve)) for name, curve in curves.items()}
    for row, name in enumerate(name for name, value in lowest.items() if value < bottom):
        axes.text(
            0.02,
            0.03 + 0.08 * row,
            f"\u25bc {label(name)} falls to {lowest[name]:.2f}",
            transform=axes.transAxes,
            fontsize=7.5,
            color=colour(name),
        )
    axes.axhline(0, color=INK, linewidth=0.9)
    axes.grid(axis="y", color=PALE, linewidth=0.8)
    axes.set_xlabel(f"{x_label} ahead" if rate_hz is None else x_label.replace("time", "time ahead"))
    axes.set_ylabel("score")
    axes.set_title("Score along the horizon")


def _name_lines(axes: Axes, ends: Sequence[tuple[float, str]], gap: float) -> None:
    """Names of lines at their right ends, moved apart by this part of the panel's height."""
    low, high = axes.get_ylim()
    for y, name in spread(ends, gap=gap * (high - low), low=low, high=high):
        axes.annotate(
            label(name),
            (axes.get_xlim()[1], y),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=colour(name),
            fontweight="bold" if is_own(name) else "normal",
            annotation_clip=False,
        )


def spread(ends: Sequence[tuple[float, str]], *, gap: float, low: float, high: float) -> list[tuple[float, str]]:
    """Move label positions apart until neighbours are ``gap`` from each other, within ``low`` and ``high``."""
    order = sorted((min(max(y, low), high), name) for y, name in ends)
    # Labels that would touch join in a block, which is centred on the places they want.
    blocks: list[list[float]] = []
    for y, _ in order:
        blocks.append([y])
        while len(blocks) > 1 and _middle(blocks[-1], gap, low, high)[0] - _middle(blocks[-2], gap, low, high)[1] < gap:
            last = blocks.pop()
            blocks[-1] += last
    placed = [_middle(block, gap, low, high)[0] + gap * number for block in blocks for number in range(len(block))]
    return [(y, name) for y, (_, name) in zip(placed, order, strict=True)]


def _middle(block: Sequence[float], gap: float, low: float, high: float) -> tuple[float, float]:
    """Lowest and highest place of a block of labels, centred on its mean but within ``low`` and ``high``."""
    length = gap * (len(block) - 1)
    first = sum(block) / len(block) - length / 2
    first = max(low, min(first, high - length))
    return first, first + length


def draw_training(
    axes: Axes, train: Sequence[tuple[int, float]], validation: Sequence[tuple[int, float]], best_step: int | None
) -> None:
    """Training and validation error against steps, the best step marked."""
    if train:
        steps, errors = zip(*train, strict=True)
        axes.plot(steps, errors, color=GREY, linewidth=1.2, label="training")
    if validation:
        steps, errors = zip(*validation, strict=True)
        best_step = best_step if best_step in steps else None
        name = "validation" if best_step is None else f"validation, best at step {best_step:,}"
        axes.plot(steps, errors, color=BLUE, linewidth=2.0, label=name)
        if best_step is not None:
            best = errors[steps.index(best_step)]
            axes.plot([best_step], [best], marker="o", markersize=7, color=BLUE, markeredgecolor="white", zorder=5)
    axes.set_xlabel("training steps")
    axes.set_ylabel("MSE of z-scores")
    axes.set_title("Training")
    axes.grid(axis="y", color=PALE, linewidth=0.8)
    axes.legend(loc="best")


def draw_adaptation(
    axes: Axes,
    curve: Sequence[tuple[int, float, float]],
    *,
    title: str,
    references: Mapping[str, float],
    after: float,
    kept_step: int | None = None,
) -> None:
    """Score of the new animal against adaptation steps, other forecasters as lines, the score kept in words."""
    steps = np.array([row[0] for row in curve])
    seconds = np.array([row[1] for row in curve])
    scores = np.array([row[2] for row in curve])
    axes.plot(steps, scores, color=BLUE, linewidth=2.4, marker="o", markersize=3.5, zorder=4)
    top_value, bottom_value = float(scores.max()), float(scores.min())
    ends = []
    for name, value in references.items():
        if value > -0.3:
            style = "-" if "," in name else (0, (4, 2))  # solid: fitted to the new animal too
            axes.axhline(value, color=colour(name), linewidth=1.3, linestyle=style, zorder=2)
            ends.append((value, name))
            top_value, bottom_value = max(top_value, value), min(bottom_value, value)
    span = max(top_value - bottom_value, 0.05)
    axes.set_ylim(bottom_value - 0.08 * span, top_value + 0.14 * span)
    axes.set_xlim(-0.015 * steps[-1], steps[-1] * 1.02)
    _name_lines(axes, ends, gap=0.085)
    kept = next((place for place, step in enumerate(steps) if step == kept_step), len(steps) - 1)
    axes.plot(steps[kept], scores[kept], marker="o", markersize=8, color=BLUE, markeredgecolor="white", zorder=5)
    axes.annotate(
        f"{after:.3f} after {seconds[kept]:.0f} s{' (kept)' * (kept_step is not None)}",
        (0.98, 0.04),
        xycoords="axes fraction",
        ha="right",
        va="bottom",
        fontsize=9,
        fontweight="bold",
        color=BLUE,
    )
    axes.set_xlabel("adaptation steps (new animal's embeddings only; dashed: fitted to the other animals)")
    axes.set_ylabel("test score")
    axes.set_title(title)
    axes.grid(axis="y", color=PALE, linewidth=0.8)


def draw_raster(axes: Axes, activity: np.ndarray, rate_hz: float | None, title: str) -> None:
    """Population activity ``[N, T]`` as z-scores, units ordered by their phase in the leading two components."""
    from matplotlib.ticker import MaxNLocator

    z = activity - activity.mean(axis=1, keepdims=True)
    z = z / (z.std(axis=1, keepdims=True) + 1e-6)
    left = np.linalg.svd(z, full_matrices=False)[0][:, :2]
    order = np.argsort(np.arctan2(left[:, 1], left[:, 0])) if z.shape[0] > 2 else np.arange(z.shape[0])
    frame, x_label = time_axis(z.shape[1], rate_hz)
    image = axes.imshow(
        z[order],
        aspect="auto",
        cmap="RdBu_r",
        vmin=-2,
        vmax=2,
        interpolation="nearest",
        extent=(0, z.shape[1] * frame, z.shape[0], 0),
    )
    axes.set_xlabel(x_label)
    axes.set_ylabel("units, ordered by phase")
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.set_title(title)
    bar = axes.figure.colorbar(image, ax=axes, pad=0.015, fraction=0.03, ticks=[-2, 0, 2])
    bar.set_label("z-score", labelpad=1)
    bar.outline.set_visible(False)  # type: ignore[operator]
