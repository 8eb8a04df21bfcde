"""The figures of docs/ground.md from what the benchmarks wrote: ``python -m benchmarks.figures``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from poco.plots import save
from poco.plots.style import SETTINGS

RESULTS, DOCS = Path(__file__).parent / "results", Path(__file__).parents[1] / "docs"
COLOURS = {
    "ridge": "#b5b5b5",
    "nlinear": "#8a8a8a",
    "mlp": "#d08c3c",
    "poco": "#a34b7d",
    "ground-8-latents": "#a7c8e8",
    "ground": "#5a9bd4",
    "own-residual": "#2f8f6b",
    "population-residual": "#14506b",
    "grounded": "#14506b",
}


def accuracy(report: Mapping[str, Any]) -> plt.Figure:
    """Scores by data set, one panel a protocol: means over seeds, and the interval of ours."""
    protocols = sorted({entry["protocol"] for entry in report["cells"]})
    figure, axes = plt.subplots(1, len(protocols), figsize=(10, 4), sharey=True, squeeze=False)
    order = sorted({entry["data"] for entry in report["cells"]}, reverse=True)
    for axis, protocol in zip(axes[0], protocols, strict=True):
        for entry in (e for e in report["cells"] if e["protocol"] == protocol):
            row = order.index(entry["data"])
            for name in ("ridge", "nlinear", "mlp", "poco", "ground", "grounded"):
                if name in entry["forecasters"]:
                    scores = entry["forecasters"][name]["scores"]
                    ours = name == "grounded"
                    marker, size = ("D", 34) if ours else ("o", 22)
                    axis.scatter(np.mean(scores), row, color=COLOURS[name], s=size, marker=marker, zorder=3 + ours)
            bounds = entry["forecasters"].get("grounded", {}).get("intervals", [None])[0]
            if bounds is not None:
                axis.plot(bounds, [row, row], color=COLOURS["grounded"], lw=1, alpha=0.5)
        axis.set_title(f"{protocol} protocol")
        axis.set_xlabel("score: 1 - MSE / MSE of repeating the last frame")
        axis.axvline(0, color="#cccccc", lw=0.8)
        axis.set_xlim(left=-0.1)
    axes[0][0].set_yticks(range(len(order)), order)
    _legend(axes[0][-1], ("ridge", "nlinear", "mlp", "poco", "ground", "grounded"))
    return figure


def crossover(report: Mapping[str, Any]) -> plt.Figure:
    """Score against minutes of training, on the simulated hour."""
    figure, axis = plt.subplots(figsize=(6.5, 4))
    names = [name for name in COLOURS if any(name in entry["forecasters"] for entry in report["cells"])]
    for name in names:
        points = sorted(
            (int(entry["data"]), entry["forecasters"][name]["scores"])
            for entry in report["cells"]
            if name in entry["forecasters"]
        )
        minutes = [m for m, _ in points]
        axis.plot(minutes, [np.mean(s) for _, s in points], "o-", color=COLOURS[name], ms=4)
        lows, highs = [min(s) for _, s in points], [max(s) for _, s in points]
        axis.fill_between(minutes, lows, highs, color=COLOURS[name], alpha=0.2)
    axis.set_xscale("log", base=2)
    axis.set_xticks(minutes, [str(m) for m in minutes])
    axis.set_xlabel("minutes of training")
    axis.set_ylabel("score on the last 12 minutes")
    axis.set_title("100 coupled units, simulated, 2 frames a second")
    _legend(axis, names)
    return figure


def _legend(axis: plt.Axes, names: tuple[str, ...] | list[str]) -> None:
    for name in names:
        axis.scatter([], [], color=COLOURS[name], label=name, s=22)
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def main() -> None:
    """Draw both."""
    with plt.rc_context({**SETTINGS, "figure.constrained_layout.use": True, "figure.dpi": 130}):
        save(accuracy(json.loads((RESULTS / "accuracy.json").read_text())), DOCS / "ground-accuracy.png")
        save(crossover(json.loads((RESULTS / "crossover.json").read_text())), DOCS / "ground-crossover.png")


if __name__ == "__main__":
    main()
