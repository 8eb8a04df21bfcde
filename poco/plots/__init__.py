"""Figures of runs and of the demo. Needs the extra ``plots``; nothing here touches matplotlib's global state."""

from __future__ import annotations

from poco.plots.figures import AdaptationCurve, TrainingCurve, demo_figure, run_figure, save

__all__ = ["AdaptationCurve", "TrainingCurve", "demo_figure", "run_figure", "save"]
