"""Adapting a trained model to a new session: its embeddings alone, everything, or from scratch to compare with."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from poco.data.splits import Split, split
from poco.errors import ConfigError
from poco.training.callbacks import Callback
from poco.training.config import TrainConfig
from poco.training.loop import fit
from poco.training.seeds import stream

if TYPE_CHECKING:
    from poco.data.recording import Recording
    from poco.nn import POCO

Mode = Literal["embeddings", "full", "scratch"]
MODES: tuple[str, ...] = get_args(Mode)

#: Embeddings start near zero and see few steps: they take a larger step than a network does.
LEARNING_RATES: Mapping[str, float] = {"embeddings": 2e-2, "full": 3e-4, "scratch": 3e-4}


@dataclass(frozen=True)
class Point:
    """Test score during adaptation.

    Attributes:
        step: steps done.
        seconds: time spent adapting, scoring not counted.
        score: 1 - MSE / MSE of copy on the test part.
    """

    step: int
    seconds: float
    score: float


@dataclass(frozen=True, eq=False)
class Adapted:
    """A model that knows a new session, and what it took.

    Attributes:
        model: the adapted model; the one given is as it was. Its vocabulary ends with the new session
            (``mode="scratch"``: holds nothing else).
        session: name of the new session.
        mode: what was fitted.
        history: test score from before the first step to the last one.
        before: test score with fresh embeddings (``mode="scratch"``: of the untrained model).
        after: test score of the weights with the lowest validation error.
        seconds: time spent adapting, scoring not counted.
        parameters: number of values that were fitted.
        split: the new session, cut into parts.
    """

    model: POCO
    session: str
    mode: str
    history: tuple[Point, ...]
    before: float
    after: float
    seconds: float
    parameters: int
    split: Split

    def to_json(self) -> dict[str, Any]:
        """Scores, times and the curve as plain values."""
        return {
            "session": self.session,
            "mode": self.mode,
            "protocol": self.split.protocol,
            "before": self.before,
            "after": self.after,
            "seconds": round(self.seconds, 3),
            "parameters": self.parameters,
            "history": [vars(point) for point in self.history],
        }


def adapt(
    model: POCO,
    recording: Recording,
    *,
    mode: str = "embeddings",
    steps: int = 200,
    learning_rate: float | None = None,
    batch_size: int = 64,
    protocol: str = "leak-free",
    seed: int = 0,
    score_every: int = 20,
    train_config: TrainConfig | None = None,
    callbacks: Sequence[Callback] = (),
) -> Adapted:
    """Fit a trained model to a session it has not seen.

    The new session joins the vocabulary; parameters of the other sessions stay as they are, to the bit. Scores are on
    the test part of the new session, against the forecast that repeats the last frame.

    Args:
        model: a trained model; it is left as it was.
        recording: the new session; its name must not be in the model's vocabulary.
        mode: ``"embeddings"`` fits the new session's own parameters alone, ``"full"`` everything but the other
            sessions' parameters, ``"scratch"`` a fresh model of the same shape on this session alone.
        steps: optimiser steps.
        learning_rate: default 2e-2 for embeddings, 3e-4 otherwise.
        batch_size: windows a step.
        protocol: how the session is cut and normalised, ``"leak-free"`` or ``"published"``.
        seed: seed of new embeddings, dropout and the order of the windows.
        score_every: steps from one point of the history to the next, and from one validation to the next.
        train_config: all settings of the loop, in place of the five before.
        callbacks: what may watch.

    Returns:
        The adapted model with its scores before and after.

    Raises:
        ConfigError: for an unknown mode or a setting that cannot work.
        VocabularyError: if the session is in the model's vocabulary already.
        DataError: if the recording cannot be used as it stands.
    """
    if mode not in MODES:
        raise ConfigError(f"mode must be one of {', '.join(MODES)}, got '{mode}'")
    config = train_config or TrainConfig(
        steps=steps,
        learning_rate=learning_rate if learning_rate is not None else LEARNING_RATES[mode],
        batch_size=batch_size,
        val_every=min(score_every, steps) if steps > 0 else 1,
        seed=seed,
    )
    cut = split([recording], protocol=protocol, context=model.config.context, horizon=model.config.horizon)
    adapted = _prepare(model, recording, mode, config.seed)
    adapted.set_normalisation(
        recording.session, torch.from_numpy(cut.mean[0].copy()), torch.from_numpy(cut.std[0].copy())
    )
    fitted = _choose_parameters(adapted, recording.session, mode)
    before = _score(adapted, cut)
    scorer = _Scorer(adapted, cut)
    history = fit(adapted, cut, config, callbacks=[scorer, *callbacks])
    seconds = history.seconds or scorer.elapsed
    for parameter in adapted.parameters():
        parameter.requires_grad_(True)
    return Adapted(
        model=adapted,
        session=recording.session,
        mode=mode,
        history=(Point(0, 0.0, before), *scorer.points),
        before=before,
        after=_score(adapted, cut),
        seconds=scorer.points[-1].seconds if scorer.points else seconds,
        parameters=fitted,
        split=cut,
    )


def _prepare(model: POCO, recording: Recording, mode: str, seed: int) -> POCO:
    """A copy of the model that knows the session, or a fresh model of the same shape."""
    from poco.nn import POCO, SessionSpec

    spec = SessionSpec(
        name=recording.session,
        units=recording.unit_ids,
        dataset=recording.dataset,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(seed, "weights"))
        if mode == "scratch":
            return POCO(model.config, [spec])
        adapted = copy.deepcopy(model)
        adapted.add_session(spec)
        return adapted


def _choose_parameters(model: POCO, session: str, mode: str) -> int:
    """Let only the parameters that the mode fits require a gradient; returns how many values that is."""
    own = {id(parameter) for parameter in model.session_parameters(session)}
    others = {id(p) for s in model.sessions if s.name != session for p in model.session_parameters(s.name)} - own
    count = 0
    for parameter in model.parameters():
        wanted = id(parameter) in own if mode == "embeddings" else id(parameter) not in others
        parameter.requires_grad_(wanted)
        count += parameter.numel() if wanted else 0
    return count


def _score(model: POCO, cut: Split) -> float:
    from poco.evaluation import evaluate

    was_training = model.training
    score = evaluate(model, cut, part="test", baselines=()).score
    model.train(was_training)
    return float(score)


class _Scorer(Callback):
    """Scores the test part at every validation and keeps the time that takes off the clock."""

    def __init__(self, model: POCO, cut: Split) -> None:
        self.model, self.cut = model, cut
        self.points: list[Point] = []
        self.elapsed = 0.0
        self._scoring = 0.0

    def validated(self, record: Mapping[str, Any]) -> None:
        began = time.monotonic()
        score = _score(self.model, self.cut)
        self.elapsed = float(record["seconds"]) - self._scoring
        self.points.append(Point(int(record["step"]), round(self.elapsed, 3), score))
        self._scoring += time.monotonic() - began
