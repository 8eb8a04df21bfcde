"""The benchmark ZAPBench, of its recording or any other: its cut, its error, its average.

Each condition (a stretch of a recording) is cut as :func:`poco.published.zapbench.parts` says, activity is taken as it
is, not normalised, and forecasters are trained on the mean absolute error that they are scored by.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn

from poco.baselines.fitted import fit_baseline
from poco.data.checks import check
from poco.data.recording import Recording
from poco.data.splits import PARTS, Split
from poco.errors import ConfigError
from poco.intervals import mean_text
from poco.published import zapbench as benchmark
from poco.scoring import forecasts_of, score_forecasters

PROTOCOL = "zapbench"
BATCH_SIZE = 8
#: Steps ahead that a table shows.
SHOWN = (1, 4, 8, 16, 32)


def cut(
    recordings: Sequence[Recording], context: int, horizon: int = benchmark.HORIZON, *, held_out: bool = False
) -> Split:
    """The benchmark's cut of the conditions that are trained on, or of the held-out one, which is all test part.

    Raises:
        ConfigError: if a condition has no window of that length.
        DataError: if the recordings cannot be used.
    """
    segments: dict[str, list[tuple[tuple[int, int], ...]]] = {part: [] for part in PARTS}
    for recording in recordings:
        each = zip(conditions(recording), recording.stretches, strict=True)
        found = [
            benchmark.cut(*stretch, context, horizon, name, held_out=held_out)
            for name, stretch in each
            if (name == benchmark.HELD_OUT) == held_out
        ]
        for part in PARTS:
            segments[part].append(tuple(parts[part] for parts in found if part in parts))
    checked = check(recordings, context=context, horizon=horizon)
    zeros = tuple(np.zeros(recording.units, np.float32) for recording in checked)
    ones = tuple(np.ones(recording.units, np.float32) for recording in checked)
    return Split(
        PROTOCOL, context, horizon, tuple(checked), zeros, ones, {p: tuple(found) for p, found in segments.items()}
    )


def conditions(recording: Recording) -> list[str]:
    """Names of the stretches: the benchmark's, or session and number."""
    if recording.dataset == "zapbench" and len(recording.stretches) == len(benchmark.CONDITIONS):
        return list(benchmark.CONDITIONS)
    return [f"{recording.session}/{number}" for number in range(1, len(recording.stretches) + 1)]


def misfit(recordings: Sequence[Recording], context: int) -> str:
    """Why a context does not fit the recordings; "" where it does."""
    try:
        cut(recordings, context)
    except ConfigError as error:
        return str(error)
    return ""


def score(
    forecaster: str,
    recordings: Sequence[Recording],
    sizes: Mapping[str, Any],
    seed: int,
    steps: int | None,
    epochs: int,
) -> dict[str, Any]:
    """Train a forecaster and score it on the test parts.

    Args:
        forecaster: ``"poco"`` or the name of a baseline.
        recordings: what it is trained on.
        sizes: ``context``, and other options of a POCO.
        seed: of weights and order of windows.
        steps: gradient steps; None for ``epochs``.
        epochs: passes over the windows for training.

    Returns:
        ``mae_by_condition``, mean absolute errors by step ahead in the recording's own units; ``mae_per_step``, their
        average over conditions without the held-out one; ``score`` and ``score_per_step``, the usual ones, of the same
        conditions.
    """
    from poco.nn import POCOConfig
    from poco.training import recipe
    from poco.training.trainer import Trainer

    data = cut(recordings, sizes["context"])
    epoch = math.ceil(len(data.windows("train")) / BATCH_SIZE)
    settings = dataclasses.replace(
        recipe("published")[1], seed=seed, steps=steps or epochs * epoch, batch_size=BATCH_SIZE, loss="mae"
    )
    settings = dataclasses.replace(settings, val_every=min(epoch, settings.steps or epoch))
    model: nn.Module
    if forecaster == "poco":
        model = Trainer(data, POCOConfig(horizon=data.horizon, **sizes)).train(settings)[0]
    else:
        model = fit_baseline(forecaster, data, config=settings)
    errors = absolute_errors(model, data)
    if any(benchmark.HELD_OUT in conditions(recording) for recording in recordings):
        errors |= absolute_errors(model, cut(recordings, data.context, held_out=True))
    usual = score_forecasters({"": model}, data)[""]
    return {
        "score": usual.score,
        "score_per_step": list(usual.score_per_step),
        "mae_per_step": benchmark.mean_errors(errors),
        "mae_by_condition": errors,
    }


def absolute_errors(model: nn.Module, data: Split) -> dict[str, list[float]]:
    """Mean absolute error by step ahead over all windows of the test part and all units, condition by condition."""
    names = [conditions(recording) for recording in data.recordings]
    first = [[start for start, _ in recording.stretches] for recording in data.recordings]
    found: dict[str, list[np.ndarray]] = {}
    for some, batch, forecasts in forecasts_of({"": model}, data, data.windows("test")):
        assert batch.target is not None
        error = (forecasts[""].cpu() - batch.target).abs().double()
        windows = error.split(batch.window_offsets.diff().tolist())
        for session, start, window in zip(some.session, some.start, windows, strict=True):
            place = int(np.searchsorted(first[session], start, side="right")) - 1
            found.setdefault(names[session][place], []).append(window.mean(0).numpy())
    return {name: np.mean(errors, axis=0).tolist() for name, errors in found.items()}


def table(cells: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: mean absolute errors of some steps ahead, mean over seeds and half the 95% t-interval."""
    horizon = len(cells[0]["mae_per_step"])
    shown = [step for step in SHOWN if step <= horizon]
    lines = [f"| MAE | forecaster | {' | '.join(map(str, shown))} | seeds |", "|---|---|" + "---|" * (len(shown) + 1)]
    groups: dict[tuple[str, str], list[Sequence[float]]] = {}
    for cell in cells:
        groups.setdefault((str(cell["value"]), cell["forecaster"]), []).append(cell["mae_per_step"])
    for key, seeds in groups.items():
        row = [mean_text([errors[step - 1] for errors in seeds], digits=4) for step in shown]
        lines.append(f"| {' | '.join(key)} | {' | '.join(row)} | {len(seeds)} |")
    return "\n".join(lines)
