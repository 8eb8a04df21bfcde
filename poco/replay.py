"""A recorded session played as if it were live, and how good the forecasts turned out."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from poco.data.recording import Recording
from poco.errors import DataError
from poco.forecasting import check_fits, warn_of_scale
from poco.stream import Stream, StreamForecast

if TYPE_CHECKING:
    from poco.models import Forecaster


@dataclass
class ScoreSoFar:
    """Squared errors of forecasts whose frames have come since, and of repeating the last frame.

    Attributes:
        forecasts: how many have been scored, at every step ahead.
        score: 1 - MSE / MSE of repetition, over valid units in units of their deviation; NaN before the first.
    """

    std: npt.NDArray[np.float32]
    forecasts: int = 0
    _error: float = 0.0
    _repetition: float = 0.0

    def __post_init__(self) -> None:
        self._waiting: deque[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], list[float]]] = deque()

    @property
    def score(self) -> float:
        """The score of what has been scored."""
        return 1 - self._error / self._repetition if self._repetition else float("nan")

    def come(self, frame: npt.NDArray[np.float32], found: StreamForecast) -> None:
        """A frame has come, and its forecast was made: earlier forecasts of this frame are scored.

        Args:
            frame: ``[N]``, NaN where the stream saw no value (:attr:`poco.Stream.seen`).
            found: what the stream made of it.
        """
        for values, last, scored in self._waiting:
            step = len(scored)
            seen = np.isfinite(frame) & np.isfinite(values[:, step])
            scored.append(0.0)
            self._error += float((((values[:, step] - frame) / self.std)[seen] ** 2).sum())
            self._repetition += float((((last - frame) / self.std)[seen] ** 2).sum())
        if self._waiting and len(self._waiting[0][2]) == self._waiting[0][0].shape[1]:
            self._waiting.popleft()
            self.forecasts += 1
        if found.values is not None:
            values = np.where(found.valid[:, None], found.values, np.nan)
            self._waiting.append((values, frame, []))

    def lost(self) -> None:
        """Frames are missing before the next one: earlier forecasts are not scored any further."""
        self._waiting.clear()


def replay(
    stream: Stream, model: Forecaster, recording: Recording, *, speed: float = 1.0, frames: int | None = None
) -> Iterator[tuple[int, StreamForecast, ScoreSoFar]]:
    """Pushes the frames of a recording at its rate, and scores the forecasts against what then comes.

    Where a stretch of the recording ends, the stream begins anew: no context and no score reaches across.

    Args:
        stream: where to.
        model: that of the stream: the recording must fit its session, and errors are in units of its deviations.
        recording: the session.
        speed: times the recording's rate; 0: as fast as possible.
        frames: the first ones alone; None: all.

    Returns:
        For each frame its number, the forecast after it, and the score so far.

    Raises:
        VocabularyError: if the recording has other units than the session of the stream, or in another order.
        DataError: if its rate is another than the session's, or it has none.
    """
    check_fits(model, stream.session, recording)
    if not recording.rate_hz:
        raise DataError(f"'{recording.session}' says no rate: give it (--rate)")
    mean, std = (values.cpu().numpy() for values in model.normalisation(stream.session))
    warn_of_scale(recording, mean, std)
    score = ScoreSoFar(std)
    return _play(stream, recording, recording.rate_hz, speed, recording.frames if frames is None else frames, score)


def _play(
    stream: Stream, recording: Recording, rate: float, speed: float, frames: int, score: ScoreSoFar
) -> Iterator[tuple[int, StreamForecast, ScoreSoFar]]:
    began = time.monotonic()
    for place, (start, stop) in enumerate(recording.stretches):
        if place > 0 and start < frames:
            stream.reset()
            score.lost()
        for number in range(start, min(stop, frames)):
            due = number / (rate * speed) if speed else 0.0
            wait = began + due - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            frame = np.ascontiguousarray(recording.activity[:, number], dtype=np.float32)
            found = stream.push(frame, number / rate)
            if place > 0 and number == start:
                found = replace(found, marks=found.marks | {"restarted"})
            score.come(np.where(stream.seen, frame, np.float32("nan")), found)
            yield number, found, score
