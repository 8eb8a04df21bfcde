"""A session joins a POCO: as it stands, or by gradient steps."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from poco.adapted import Adapted, Point
from poco.data.recording import Recording
from poco.data.splits import Split
from poco.errors import ConfigError
from poco.ops.backends import multiplies_bfloat16
from poco.scores import Scores
from poco.scoring import ahead, score_forecasters, warnings_of
from poco.training.callbacks import Callback
from poco.training.config import BATCH_SIZE, PRECISIONS, Precision, TrainConfig
from poco.training.loop import History, fit
from poco.training.seeds import drawing

if TYPE_CHECKING:
    from poco.models import Member
    from poco.nn import POCO

#: Learning rate of what is more than embeddings.
LEARNING_RATE = 3e-4
#: Learning rate of embeddings alone, as a share of how large those that the model knows are, or began as.
EMBEDDING_STEP = 0.05
#: Windows a step of embeddings alone.
EMBEDDING_BATCH = 16
#: Steps at most where there are too few frames to validate on any: more of them learn those few by heart.
UNVALIDATED_STEPS = 20
#: Windows that a validation and a point of the curve are taken over, at most about so many, spaced evenly.
CURVE_WINDOWS = 128


def settings(
    cut: Split,
    mode: str,
    *,
    steps: int,
    learning_rate: float,
    batch_size: int | None,
    seed: int,
    precision: str,
    score_every: int,
    patience: int | None,
) -> TrainConfig:
    """What the loop is told for the steps of a mode on a session; see :func:`poco.adapt`."""
    steps = steps if cut.validates else min(steps, UNVALIDATED_STEPS)
    if precision == "auto":
        precision = "bf16" if multiplies_bfloat16(TrainConfig().torch_device()) else "float32"
    if batch_size is None:
        batch_size = EMBEDDING_BATCH if mode == "embeddings" else BATCH_SIZE
    return TrainConfig(
        steps=steps,
        learning_rate=learning_rate,
        batch_size=batch_size,
        val_every=max(1, min(score_every, steps) if cut.validates else steps),
        val_first=cut.validates,
        val_stride=_stride(cut, "val"),
        patience=patience,
        seed=seed,
        precision=cast("Precision", precision),
    )


def check_settings(options: Mapping[str, Any]) -> None:
    """Raises ConfigError if one of the options of :func:`poco.adapt` that :func:`settings` takes cannot work."""
    score_every, precision = options.get("score_every", 1), options.get("precision", "auto")
    if score_every < 1:
        raise ConfigError(f"score_every must be at least 1 step, got {score_every}")
    if precision not in (*PRECISIONS, "auto"):
        raise ConfigError(f"precision must be one of {', '.join(PRECISIONS)} or auto, got '{precision}'")
    others = ("steps", "learning_rate", "batch_size", "seed", "patience")
    TrainConfig(**{name: options[name] for name in others if options.get(name) is not None})


def usual_rate(model: POCO, mode: str) -> float:
    """The learning rate where none is given."""
    if mode != "embeddings" or not model.sessions:
        return LEARNING_RATE
    units = torch.cat([model.session_parameters(spec.name)[0].detach().flatten() for spec in model.sessions])
    return embedding_rate(units, model.config.embedding_std)


def embedding_rate(known: Tensor, start: float) -> float:
    """The learning rate of embeddings alone, from those that a model knows and the deviation that they began with."""
    return EMBEDDING_STEP * max(float(known.square().mean().sqrt()), start)


def fit_session(
    model: POCO,
    recording: Recording,
    cut: Split,
    unit_types: tuple[str, ...],
    mode: str,
    config: TrainConfig,
    callbacks: Sequence[Callback],
) -> tuple[Adapted, Callable[[], Member]]:
    """A POCO with a session added, or of that session alone, fitted by gradient steps; and what makes its start."""

    def start() -> POCO:
        return _prepare(model, recording, cut, unit_types, mode, config.seed)

    adapted = start()
    required = [parameter.requires_grad for parameter in adapted.parameters()]
    fitted = _choose_parameters(adapted, recording.session, mode)
    before = scores_of(adapted, cut)
    points, history = fit_with_curve(adapted, cut, config, callbacks)
    for parameter, flag in zip(adapted.parameters(), required, strict=True):
        parameter.requires_grad_(flag)
    after = scores_of(adapted, cut, warn=True)
    result = Adapted(
        model=adapted,
        session=recording.session,
        mode=mode,
        history=points,
        before=before.score,
        after=after.score,
        gain=ahead(after, before, cut),
        seconds=points[-1].seconds,  # there is always a validation after the last step
        parameters=fitted,
        split=cut,
        kept_step=history.best_step,
    )
    return result, start


def fit_with_curve(
    model: nn.Module, cut: Split, config: TrainConfig, callbacks: Sequence[Callback] = ()
) -> tuple[tuple[Point, ...], History]:
    """Train a model in place; the test score of the weights as they are at each validation, and how training went."""
    scorer = _Scorer(model, cut, callbacks)
    history = fit(model, cut, config, callbacks=[scorer, *callbacks])
    return tuple(scorer.points), history


def join(
    model: POCO, recording: Recording, cut: Split, unit_types: tuple[str, ...], seed: int
) -> tuple[Adapted, Callable[[], Member]]:
    """A POCO with a session added as it stands, nothing fitted; and what makes it."""

    def start() -> POCO:
        return _prepare(model, recording, cut, unit_types, "zero-shot", seed).eval()

    adapted = start()
    score = scores_of(adapted, cut, warn=True).score
    result = Adapted(adapted, recording.session, "zero-shot", (Point(0, 0.0, score),), score, score, 0.0, 0, cut)
    return result, start


def _prepare(model: POCO, recording: Recording, cut: Split, unit_types: tuple[str, ...], mode: str, seed: int) -> POCO:
    """A copy of the model that knows the session, or a fresh model of the same shape, with its normalisation."""
    from poco.nn import POCO, SessionSpec

    spec = SessionSpec.of(recording, unit_types)
    with drawing(seed, "weights"):
        if mode == "scratch":
            adapted = POCO(model.config, [spec])
        else:
            adapted = copy.deepcopy(model)
            adapted.add_session(spec)
    mean, std = (torch.from_numpy(values[0].copy()) for values in (cut.mean, cut.std))
    adapted.set_normalisation(recording.session, mean, std)
    return adapted


def _choose_parameters(model: POCO, session: str, mode: str) -> int:
    """Freeze the parameters that the mode does not fit; returns how many values it does."""
    mlp = {id(parameter) for parameter in model.film.parameters()}
    own = {id(parameter) for parameter in model.session_parameters(session)}
    others = {id(p) for s in model.sessions if s.name != session for p in model.session_parameters(s.name)} - own
    everything = {id(parameter) for parameter in model.parameters()}
    meant = {"embeddings": own, "mlp": own | mlp, "full": everything - others, "scratch": everything}[mode]
    count = 0
    for parameter in model.parameters():
        wanted = id(parameter) in meant and parameter.requires_grad
        parameter.requires_grad_(wanted)
        count += parameter.numel() if wanted else 0
    return count


def _stride(cut: Split, part: str) -> int:
    """Frames from one window of a part to the next, so that there are about :data:`CURVE_WINDOWS`."""
    return max(1, len(cut.windows(part)) // CURVE_WINDOWS)


def scores_of(model: nn.Module, cut: Split, stride: int = 1, *, warn: bool = False) -> Scores:
    """Scores over the test part, with warnings of what makes them say little; the model's mode is left as it was."""
    was_training = model.training
    scores = score_forecasters({"": model}, cut, stride=stride)[""]
    model.train(was_training)
    for line in warnings_of(scores, cut, "test") if warn else ():
        warnings.warn(line, RuntimeWarning, stacklevel=3)
    return scores


class _Scorer(Callback):
    """Scores the test part at every validation and keeps the time that takes off the clock."""

    def __init__(self, model: nn.Module, cut: Split, callbacks: Sequence[Callback]) -> None:
        self.model, self.cut, self.callbacks = model, cut, callbacks
        self._stride = _stride(cut, "test")
        self.points = [Point(0, 0.0, scores_of(model, cut, self._stride).score)]
        self._scoring = 0.0

    def validated(self, record: Mapping[str, Any]) -> None:
        if record["step"] == 0:  # scored already
            return
        began = time.monotonic()
        step, seconds = int(record["step"]), round(float(record["seconds"]) - self._scoring, 3)
        score = scores_of(self.model, self.cut, self._stride).score
        self.points.append(Point(step, seconds, score))
        self._scoring += time.monotonic() - began
        for callback in self.callbacks:
            callback.scored(step, seconds, score)
