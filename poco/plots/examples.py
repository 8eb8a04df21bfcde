"""Example forecasts for a figure, chosen by a stated rule rather than by eye."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from poco.data.windows import Packer

if TYPE_CHECKING:
    from poco.data.recording import Recording
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
        score: 1 - MSE / MSE of copy, of this unit in this window or in all, as whoever chose it says.
    """

    session: str
    unit: str
    rate_hz: float | None
    context: np.ndarray
    truth: np.ndarray
    forecast: np.ndarray
    score: float


@dataclass(frozen=True, eq=False)
class SpacedForecasts:
    """Forecasts of one session in windows spaced evenly over a part, as z-scores.

    Attributes:
        recording: the session.
        context: ``[W, N, C]`` frames seen.
        truth: ``[W, N, H]`` frames that followed.
        forecast: ``[W, N, H]`` frames forecast.
    """

    recording: Recording
    context: np.ndarray
    truth: np.ndarray
    forecast: np.ndarray

    @classmethod
    def of(cls, model: Forecaster, split: Split, session: int, part: str, count: int) -> SpacedForecasts:
        """Forecasts of at most ``count`` windows of the session with this index; the model's mode is left as it was."""
        recording = split.recordings[session]
        batches = Packer(split).batches(split.spaced_windows(part, session, count))
        was_training = model.training
        like = next(iter(model.parameters()))
        contexts, truths, forecasts = [], [], []
        model.eval()
        for _, batch in batches:
            assert batch.target is not None
            x = batch.x.view(-1, recording.units, split.context)
            with torch.no_grad():
                forecast = model(x.to(like), session=recording.session)
            contexts.append(x.numpy())
            truths.append(batch.target.view(-1, recording.units, split.horizon).numpy())
            forecasts.append(forecast.float().cpu().numpy())
        model.train(was_training)
        return cls(recording, *(np.concatenate(parts) for parts in (contexts, truths, forecasts)))

    def example(self, window: int, unit: int, score: float) -> Example:
        """One of them; ``score`` is what it is shown with."""
        return Example(
            session=self.recording.session,
            unit=self.recording.unit_ids[unit],
            rate_hz=self.recording.rate_hz,
            context=self.context[window, unit],
            truth=self.truth[window, unit],
            forecast=self.forecast[window, unit],
            score=score,
        )


def choose_examples(model: Forecaster, split: Split, part: str = "test", count: int = 4) -> list[Example]:
    """Examples of falling quality: the n-th is the n-th of :data:`PERCENTILES` among the units and windows that move.

    Sessions are taken in turn. Candidates are all units in windows spaced evenly over the part; those whose copy
    error lies below the median (nothing much happens) are left out, and so are forecasts that are not finite.

    Args:
        model: the forecaster; its vocabulary holds the sessions.
        split: where the windows come from.
        part: ``"train"``, ``"val"`` or ``"test"``.
        count: number of examples, at most the number of percentiles.
    """
    examples: dict[int, Example] = {}
    numbers, sessions = range(min(count, len(PERCENTILES))), len(split.recordings)
    for session in numbers[:sessions]:
        shown = SpacedForecasts.of(model, split, session, part, _WINDOWS)
        copy_error = np.square(shown.truth - shown.context[..., -1:]).mean(-1)  # [W, N]
        score = 1 - np.square(shown.truth - shown.forecast).mean(-1) / np.maximum(copy_error, 1e-12)
        score[(copy_error < np.median(copy_error)) | ~np.isfinite(score)] = np.nan
        for number in numbers[session::sessions] if np.isfinite(score).any() else ():
            wanted = np.nanpercentile(score, PERCENTILES[number])
            window, unit = np.unravel_index(np.nanargmin(np.abs(score - wanted)), score.shape)
            examples[number] = shown.example(int(window), int(unit), float(score[window, unit]))
    return [examples[number] for number in sorted(examples)]
