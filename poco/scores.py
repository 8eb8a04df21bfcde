"""Scores of forecasters, as they are handed on and kept.

The score of a session is 1 - MSE / MSE of repeating the last frame, over all windows, units and steps of one part, in
normalised units; the score of a forecaster is the unweighted mean over sessions. 0 is no better than repeating the last
frame, 1 is perfect. Of a session that stands still in the part it is -inf for a forecast with any error, and so is the
mean. Scores and differences of scores have 95% intervals by :mod:`poco.intervals`, which speak of these
recordings, not of other animals.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from poco.errors import CheckpointError
from poco.files import read_json
from poco.intervals import FEW_BLOCKS, Ahead, Interval, block_length, interval_from_json, interval_to_json


@dataclass(frozen=True)
class SessionScore:
    """Errors of one forecaster on one session.

    Attributes:
        session: name of the session.
        score: 1 - mse / copy_mse.
        mse: mean squared error in normalised units.
        copy_mse: that of repeating the last frame.
        units: number of units.
        windows: number of windows.
        score_per_step: ``H`` scores, one for each step ahead, each against copy at the same step.
    """

    session: str
    score: float
    mse: float
    copy_mse: float
    units: int
    windows: int
    score_per_step: tuple[float, ...]


@dataclass(frozen=True)
class Scores:
    """Errors of one forecaster.

    Attributes:
        score: unweighted mean over sessions.
        sessions: one entry per session, in the order of the split.
        interval: 95% interval of the score; None where there is none, see :attr:`Evaluation.interval`.
        ahead: of a baseline: how far the evaluated forecaster is ahead of it; None for others.
        window_error: ``[W]`` float64, squared error of each window, summed over units and steps, session after session
            in order of time; None in an :class:`Evaluation`, which does not keep it.
        copy_window_error: the same of repeating the last frame.
        unit_error: ``[U]`` float64, squared error of each unit, session after session, summed over windows and steps;
            None like that of the windows.
        copy_unit_error: the same of repeating the last frame.
    """

    score: float
    sessions: tuple[SessionScore, ...]
    interval: Interval | None = None
    ahead: Ahead | None = None
    window_error: np.ndarray | None = field(default=None, repr=False, compare=False)
    copy_window_error: np.ndarray | None = field(default=None, repr=False, compare=False)
    unit_error: np.ndarray | None = field(default=None, repr=False, compare=False)
    copy_unit_error: np.ndarray | None = field(default=None, repr=False, compare=False)

    @property
    def score_per_step(self) -> tuple[float, ...]:
        """``H`` scores, one for each step ahead, averaged over sessions."""
        return tuple(np.mean([s.score_per_step for s in self.sessions], axis=0).tolist())


@dataclass(frozen=True)
class Evaluation:
    """Scores of a forecaster and of its baselines over the same windows.

    Attributes:
        score: the forecaster's score, the unweighted mean over sessions.
        sessions: its errors, session by session.
        baselines: the same for each baseline, by name.
        protocol: how the recordings were cut and normalised.
        part: ``"train"``, ``"val"`` or ``"test"``.
        context: frames a forecast is made from.
        horizon: frames that are forecast.
        stride: frames from one window to the next.
        precision: what the forecaster computed in.
        windows: number of windows, all sessions.
        warnings: what a person should know about the split and the scores, one line each.
        forecaster: what was scored, by the name it was given: ``"grounded"``, on the ground, ``"poco"``, a POCO, or for
            any other module the name of its class.
        interval: 95% interval of the score, by block bootstrap over time within each session: it speaks of these
            recordings, not of other animals. None if a session has a single window or a score is not finite.
    """

    score: float
    sessions: tuple[SessionScore, ...]
    baselines: Mapping[str, Scores]
    protocol: str
    part: str
    context: int
    horizon: int
    stride: int = 1
    precision: str = "float32"
    windows: int = 0
    warnings: tuple[str, ...] = field(default=())
    interval: Interval | None = None
    forecaster: str = "poco"

    @property
    def forecasters(self) -> dict[str, Scores]:
        """The scores of every forecaster by name: the evaluated one, then its baselines."""
        return {self.forecaster: Scores(self.score, self.sessions, self.interval), **self.baselines}

    @property
    def score_per_step(self) -> tuple[float, ...]:
        """``H`` scores, one for each step ahead, averaged over sessions."""
        return self.forecasters[self.forecaster].score_per_step

    @property
    def few_blocks(self) -> bool:
        """Whether a session has room for so few blocks that the intervals are rough."""
        block = block_length(self.context, self.horizon, self.stride)
        return self.interval is not None and any(one.windows < FEW_BLOCKS * block for one in self.sessions)

    @property
    def beside_mean(self) -> str:
        """A line that says so where the forecaster is not clearly ahead of each unit's mean; else nothing."""
        ahead = self.baselines["mean"].ahead if "mean" in self.baselines else None
        if ahead is None or np.isnan(ahead.difference):
            return ""
        if (ahead.difference if ahead.interval is None else ahead.interval[0]) > 0:
            return ""
        return (
            f"{self.forecaster} is not {'clearly ' if ahead.difference > 0 else ''}ahead of mean, which forecasts each "
            "unit's mean whatever came before, and scores 0.5 on white noise."
        )

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values; ``split`` is the part."""
        return {
            "score": self.score,
            "interval": interval_to_json(self.interval),
            "protocol": self.protocol,
            "split": self.part,
            "context": self.context,
            "horizon": self.horizon,
            "stride": self.stride,
            "precision": self.precision,
            "windows": self.windows,
            "score_per_step": list(self.score_per_step),
            "sessions": [_session_json(session) for session in self.sessions],
            "baselines": {
                name: {
                    "score": scores.score,
                    "interval": interval_to_json(scores.interval),
                    "ahead": None if scores.ahead is None else scores.ahead.to_json(),
                    "score_per_step": list(scores.score_per_step),
                    "sessions": [_session_json(session) for session in scores.sessions],
                }
                for name, scores in self.baselines.items()
            },
            "warnings": list(self.warnings),
            "forecaster": self.forecaster,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Evaluation:
        """The evaluation that :meth:`to_json` wrote; a CheckpointError if it is not one."""
        try:
            return cls(
                score=values["score"],
                sessions=_sessions_from_json(values["sessions"]),
                baselines={
                    name: Scores(
                        scores["score"],
                        _sessions_from_json(scores["sessions"]),
                        interval_from_json(scores["interval"]),
                        Ahead.from_json(scores["ahead"]) if scores["ahead"] else None,
                    )
                    for name, scores in values["baselines"].items()
                },
                protocol=values["protocol"],
                part=values["split"],
                context=values["context"],
                horizon=values["horizon"],
                stride=values["stride"],
                precision=values["precision"],
                windows=values["windows"],
                warnings=tuple(values["warnings"]),
                forecaster=values["forecaster"],
                interval=interval_from_json(values["interval"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"the stored evaluation is incomplete ({error}): evaluate the run again") from error

    @classmethod
    def kept(cls, file: Path) -> Evaluation | None:
        """The evaluation that a file was written of, None if there is no file; a CheckpointError if it is damaged."""
        return cls.from_json(read_json(file, "scores")) if file.exists() else None


def _session_json(session: SessionScore) -> dict[str, Any]:
    return {**vars(session), "score_per_step": list(session.score_per_step)}


def _sessions_from_json(values: Iterable[Mapping[str, Any]]) -> tuple[SessionScore, ...]:
    return tuple(SessionScore(**{**value, "score_per_step": tuple(value["score_per_step"])}) for value in values)
