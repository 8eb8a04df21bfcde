"""Example forecasts for a figure, chosen by a stated rule rather than by eye."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from poco.data.splits import Split
    from poco.models import Forecaster

PERCENTILES = (90, 75, 60, 45, 30, 15)
_WINDOWS = 24  # candidates a session


@dataclass(frozen=True, eq=False)
class Example:
    """One unit in one window, as z-scores.

    Attributes:
        session: name of the session.
        unit: id of the unit.
        rate_hz: frames a second, or None.
        context: ``[C]`` frames seen.
        truth: ``[H]`` frames that followed.
        forecast: ``[H]`` frames forecast.
        score: 1 - MSE / MSE of copy, of this unit in this window.
    """

    session: str
    unit: str
    rate_hz: float | None
    context: np.ndarray
    truth: np.ndarray
    forecast: np.ndarray
    score: float


def choose_examples(
    model: Forecaster, split: Split, part: str = "test", count: int = 4, sessions: Sequence[str] | None = None
) -> list[Example]:
    """Examples of falling quality: the n-th is the n-th of :data:`PERCENTILES` among the units and windows that move.

    Sessions are taken in turn. Candidates are all units in windows spaced evenly over the part; those whose copy
    error lies below the median (nothing much happens) are left out.

    Args:
        model: the forecaster; its vocabulary holds the sessions.
        split: where the windows come from.
        part: ``"train"``, ``"val"`` or ``"test"``.
        count: number of examples, at most the number of percentiles.
        sessions: names of the sessions to take, default all of the split.
    """
    import torch

    names = list(sessions) if sessions is not None else [recording.session for recording in split.recordings]
    all_windows = split.windows(part)
    examples = []
    was_training = model.training
    model.eval()
    for number in range(min(count, len(PERCENTILES))):
        index = split.session_index(names[number % len(names)])
        recording = split.recordings[index]
        starts = all_windows.start[all_windows.session == index]
        starts = starts[np.unique(np.linspace(0, len(starts) - 1, _WINDOWS).astype(int))]
        normalised = (recording.activity - split.mean[index][:, None]) * split.inverse_std[index][:, None]
        stop = split.context + split.horizon
        windows = np.stack([normalised[:, start : start + stop] for start in starts])  # [W, N, C + H]
        context, truth = windows[..., : split.context], windows[..., split.context :]
        parameter = next(model.parameters())
        with torch.no_grad():
            x = torch.from_numpy(np.ascontiguousarray(context)).to(parameter)
            forecast = model(x, session=recording.session).float().cpu().numpy()
        copy_error = np.square(truth - context[..., -1:]).mean(-1)  # [W, N]
        score = 1 - np.square(truth - forecast).mean(-1) / np.maximum(copy_error, 1e-12)
        score[copy_error < np.median(copy_error)] = np.nan
        wanted = np.nanpercentile(score, PERCENTILES[number])
        window, unit = np.unravel_index(np.nanargmin(np.abs(score - wanted)), score.shape)
        examples.append(
            Example(
                session=recording.session,
                unit=recording.unit_ids[unit],
                rate_hz=recording.rate_hz,
                context=context[window, unit],
                truth=truth[window, unit],
                forecast=forecast[window, unit],
                score=float(score[window, unit]),
            )
        )
    model.train(was_training)
    return examples
