"""Prediction scores of a trained forecaster and of the forecasters it is compared with.

The score of a session is 1 - MSE / MSE of repeating the last frame, over all windows, units and steps of one part, in
normalised units; the score of a forecaster is the unweighted mean over sessions. 0 is no better than repeating the last
frame, 1 is perfect. Scores and differences of scores have 95% intervals by :mod:`poco.intervals`, which speak of these
recordings, not of other animals.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from poco.baselines import FITTED, NAMES, TRAINED, build
from poco.data.splits import Split
from poco.data.windows import Packer, vocabulary
from poco.errors import CheckpointError, ConfigError, DataError
from poco.files import BASELINES
from poco.intervals import FEW_BLOCKS, Ahead, Interval, block_length, interval, interval_from_json, resampled_scores
from poco.nn import SessionSpec
from poco.training.callbacks import Callback
from poco.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from poco.training.config import BATCH_SIZE, PRECISIONS, TrainConfig
from poco.training.loop import fit
from poco.training.recipes import bounded
from poco.training.seeds import stream
from poco.training.validation import predict

if TYPE_CHECKING:
    from poco.run import Run

#: Gradient steps of the trained baselines; everything else is as published.
BASELINE_STEPS = 1000
#: Validations of the trained baselines without a new best before they stop; there is one every 100 steps.
BASELINE_PATIENCE = 3


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
        ahead: of a baseline: how far the evaluated forecaster is ahead of it; None for others and in older files.
        window_error: ``[W]`` float64, squared error of each window, summed over units and steps, session after session
            in order of time; None in an :class:`Evaluation`, which does not keep it.
        copy_window_error: the same of repeating the last frame.
    """

    score: float
    sessions: tuple[SessionScore, ...]
    interval: Interval | None = None
    ahead: Ahead | None = None
    window_error: np.ndarray | None = field(default=None, repr=False, compare=False)
    copy_window_error: np.ndarray | None = field(default=None, repr=False, compare=False)

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
        warnings: what a person should know about the split, one line each.
        forecaster: what was scored: ``"grounded"``, on the ground, or ``"poco"``, a POCO or any other module.
        interval: 95% interval of the score, by block bootstrap over time within each session: it speaks of these
            recordings, not of other animals. None if a session has a single window or a score is not finite, and for
            an evaluation stored by a version without intervals.
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
        """Whether a session has room for so few blocks that the intervals are too narrow."""
        block = block_length(self.context, self.horizon, self.stride)
        return self.interval is not None and any(one.windows < FEW_BLOCKS * block for one in self.sessions)

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values; ``split`` is the part."""
        return {
            "score": self.score,
            "interval": _interval_json(self.interval),
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
                    "interval": _interval_json(scores.interval),
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
                        interval_from_json(scores.get("interval")),
                        Ahead.from_json(scores["ahead"]) if scores.get("ahead") else None,
                    )
                    for name, scores in values["baselines"].items()
                },
                protocol=values["protocol"],
                part=values["split"],
                context=values["context"],
                horizon=values["horizon"],
                stride=values["stride"],
                precision=values.get("precision", "float32"),
                windows=values["windows"],
                warnings=tuple(values.get("warnings", ())),
                forecaster=values.get("forecaster", "poco"),
                interval=interval_from_json(values.get("interval")),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"the stored evaluation is incomplete ({error}): evaluate the run again") from error


def evaluate(
    run_or_model: Run | nn.Module,
    split: Split | None = None,
    part: str = "test",
    baselines: Sequence[str] = NAMES,
    *,
    stride: int = 1,
    precision: str = "float32",
    folder: Path | None = None,
    callbacks: Sequence[Callback] = (),
) -> Evaluation:
    """Score a forecaster and its baselines over the same windows, in one pass.

    NLinear and MLP are trained for 1000 steps, or until three validations in a row brought no new best, with the loop
    and seed of a run and 64 windows a step, fewer where units are many (:func:`poco.training.recipes.bounded`); those
    of a run are kept in its folder and not trained again for the same split. Memory is bounded:
    windows are taken in batches, and of each window one number for each forecaster is kept, from which the
    intervals are made.

    Args:
        run_or_model: a run, or a model with ``forward_packed``.
        split: recordings and parts; default for a run: the recordings it was trained on, read again.
        part: ``"train"``, ``"val"`` or ``"test"``.
        baselines: names of the baselines to score, see :data:`poco.baselines.NAMES`.
        stride: frames from one window to the next.
        precision: what the forecaster computes in, ``"float32"`` or ``"bf16"`` (autocast); baselines take float32.
        folder: where fitted baselines are kept; default for a run that is in a folder: in there.
        callbacks: what may watch the training of the baselines.

    Returns:
        The scores, with 95% intervals of the scores and of how far the forecaster is ahead of each baseline.

    Raises:
        ConfigError: for an unknown part, baseline or precision, or a split whose context or horizon is not the model's.
        VocabularyError: if the model does not know a session of the split.
        DataError: if there are no windows, or a model is given without a split.
    """
    from poco.run import Run

    if precision not in PRECISIONS:
        raise ConfigError(f"precision must be one of {', '.join(PRECISIONS)}, got '{precision}'")
    run = run_or_model if isinstance(run_or_model, Run) else None
    model = run.model if run is not None else run_or_model
    assert isinstance(model, nn.Module)
    if split is None:
        if run is None:
            raise DataError("evaluating a model needs a split: poco.split(recordings)")
        split = run.split()
    if not isinstance(split, Split):
        raise DataError(f"what is scored is a split, poco.split(recordings), got {type(split).__name__}")
    _check_sizes(model, split)
    config = getattr(run, "train_config", None) or TrainConfig()
    if folder is None and run is not None and run.folder is not None:
        folder = run.folder / BASELINES
    forecasters: dict[str, nn.Module] = {"": model}
    for name in dict.fromkeys(baselines):
        ground = _own_ground(model, split) if name == "ground" else None
        forecasters[name] = ground or fit_baseline(name, split, seed=config.seed, folder=folder, callbacks=callbacks)
    scores = score_forecasters(forecasters, split, part, stride=stride, precision={"": precision})
    scores = _with_intervals(scores, block_length(split.context, split.horizon, stride))
    own = scores.pop("")
    return Evaluation(
        score=own.score,
        sessions=own.sessions,
        baselines=scores,
        protocol=split.protocol,
        part=part,
        context=split.context,
        horizon=split.horizon,
        stride=stride,
        precision=precision,
        windows=sum(session.windows for session in own.sessions),
        warnings=split.warnings,
        interval=own.interval,
        forecaster="grounded" if _on_the_ground(model) else "poco",
    )


@torch.no_grad()
def score_forecasters(
    forecasters: Mapping[str, nn.Module],
    split: Split,
    part: str = "test",
    *,
    stride: int = 1,
    precision: Mapping[str, str] | None = None,
) -> dict[str, Scores]:
    """Score several forecasters over the same windows, in one pass.

    Args:
        forecasters: modules with ``forward_packed``, by name; each is left in evaluation mode, where it is.
        split: recordings and parts.
        part: ``"train"``, ``"val"`` or ``"test"``.
        stride: frames from one window to the next.
        precision: ``"bf16"`` by the names of those that compute under autocast.

    Returns:
        The scores of each, with the errors of its windows (which intervals can be made of) and without intervals.

    Raises:
        DataError: if a session has no window in the part.
    """
    windows = split.windows(part, stride)
    count = np.bincount(windows.session, minlength=len(split.recordings))
    if not count.all():
        missing = split.recordings[int(np.argmin(count > 0))].session
        raise DataError(f"session '{missing}' has no window in the {part} part")
    packers = {name: Packer(split, vocabulary(model)) for name, model in forecasters.items()}
    shared = Packer(split)
    devices = {name: _device(model) for name, model in forecasters.items()}
    for model in forecasters.values():
        model.eval()
    sessions, horizon = len(split.recordings), split.horizon
    errors = {name: _Errors(sessions, horizon, len(windows)) for name in forecasters}
    copy_errors = _Errors(sessions, horizon, len(windows))
    for some, batch in shared.batches(windows):
        assert batch.target is not None
        rows = shared.units[some.session]
        copy_errors.add(batch.x[:, -1:] - batch.target, some.session, rows)
        for name, model in forecasters.items():
            own = packers[name].relabel(batch, some).to(devices[name])
            assert own.target is not None
            forecast = predict(model, own, (precision or {}).get(name, "float32"))
            errors[name].add(forecast - own.target, some.session, rows)
    return {name: _scores(split, error, copy_errors, count) for name, error in errors.items()}


def ahead(one: Scores, other: Scores, split: Split) -> Ahead:
    """How far one forecaster is ahead of another that was scored over the same windows, with its 95% interval."""
    scores = _with_intervals({"": one, "other": other}, block_length(split.context, split.horizon, 1))
    found = scores["other"].ahead
    assert found is not None
    return found


def fit_baseline(
    name: str,
    split: Split,
    *,
    seed: int = 0,
    steps: int = BASELINE_STEPS,
    config: TrainConfig | None = None,
    folder: Path | None = None,
    callbacks: Iterable[Callback] = (),
) -> nn.Module:
    """A baseline fitted to the training part of a split.

    Args:
        name: one of :data:`poco.baselines.ALL`.
        split: recordings and parts.
        seed: seed of initial weights and order of windows.
        steps: gradient steps at most of one that is trained.
        config: all settings of one that is trained, seed and steps too.
        folder: where fitted baselines are kept; one fitted to the same split in the same way is taken from there.
        callbacks: what may watch the training.
    """
    if config is None:
        config = TrainConfig(steps=steps, batch_size=None, val_stride=None, patience=BASELINE_PATIENCE, seed=seed)
    config = bounded(config, split, most=BATCH_SIZE)
    sessions = [SessionSpec(r.session, r.unit_ids, r.dataset) for r in split.recordings]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(config.seed, "weights"))
        model = build(name, split.context, split.horizon, sessions)
    if name not in TRAINED + FITTED:
        return model
    made_of = {"name": name, "split": split.key(), "config": config.to_json() if name in TRAINED else None}
    path = folder / f"{name}.safetensors" if folder is not None else None
    if path is not None and path.exists():
        stored = _stored(path, made_of)
        if stored is not None:
            model.load_state_dict(dict(stored))
            return model.eval()
    if name in FITTED:
        model.fit(split)  # type: ignore[operator]
    else:
        for callback in callbacks:
            callback.message(f"training the baseline {name} for {config.steps} steps")
        fit(model, split, config, callbacks=tuple(callbacks))
    if path is not None:
        _keep(path, Checkpoint("baseline", model.state_dict(), made_of))
    return model.eval()


def _keep(path: Path, fitted: Checkpoint) -> None:
    """Save a fitted baseline; where that is impossible, it is fitted again next time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_checkpoint(path, fitted)
    except (OSError, CheckpointError) as error:
        warnings.warn(f"the baseline '{path.stem}' could not be kept: {error}", RuntimeWarning, stacklevel=3)


def _stored(path: Path, made_of: Mapping[str, Any]) -> Mapping[str, torch.Tensor] | None:
    """The tensors of a fitted baseline if they were fitted to the same thing; a damaged file is told of and left."""
    try:
        stored = load_checkpoint(path, "baseline")
    except CheckpointError:
        warnings.warn(f"the kept baseline {path} is damaged: it is fitted again", RuntimeWarning, stacklevel=3)
        return None
    return stored.tensors if stored.values == made_of else None


class _Errors:
    """Squared errors of one forecaster, added up batch by batch.

    Attributes:
        session: ``[S, H]`` float64, summed over units and windows.
        window: ``[W]`` float64, summed over units and steps.
    """

    def __init__(self, sessions: int, horizon: int, windows: int) -> None:
        self.session = np.zeros((sessions, horizon))
        self.window = np.zeros(windows)
        self._filled = 0

    def add(self, error: torch.Tensor, session: np.ndarray, rows: np.ndarray) -> None:
        """Add the errors ``[R, H]`` of the next windows, given the session and the number of rows of each."""
        of_row = torch.from_numpy(np.repeat(np.arange(rows.size), rows)).to(error.device)
        total = torch.zeros(rows.size, error.shape[1], dtype=torch.float64, device=error.device)
        sums = total.index_add_(0, of_row, error.double().square_()).cpu().numpy()
        np.add.at(self.session, session, sums)
        self.window[self._filled : self._filled + rows.size] = sums.sum(axis=1)
        self._filled += rows.size


def _scores(split: Split, errors: _Errors, copy_errors: _Errors, windows: np.ndarray) -> Scores:
    rows, error, copy_error = [], errors.session, copy_errors.session
    for index, recording in enumerate(split.recordings):
        elements = int(windows[index]) * recording.units * split.horizon
        mse, copy_mse = error[index].sum() / elements, copy_error[index].sum() / elements
        rows.append(
            SessionScore(
                session=recording.session,
                score=_ratio(mse, copy_mse),
                mse=float(mse),
                copy_mse=float(copy_mse),
                units=recording.units,
                windows=int(windows[index]),
                score_per_step=tuple(_ratio(e, c) for e, c in zip(error[index], copy_error[index], strict=True)),
            )
        )
    return Scores(
        float(np.mean([row.score for row in rows])),
        tuple(rows),
        window_error=errors.window,
        copy_window_error=copy_errors.window,
    )


def _with_intervals(scores: Mapping[str, Scores], block: int) -> dict[str, Scores]:
    """The scores with their intervals and how far the forecaster ``""`` is ahead of each; errors are left behind."""
    own = scores[""]
    assert own.copy_window_error is not None
    errors = np.stack([one.window_error for one in scores.values() if one.window_error is not None])
    windows = [session.windows for session in own.sessions]
    resampled = dict(zip(scores, resampled_scores(errors, own.copy_window_error, windows, block), strict=True))
    return {
        name: replace(
            one,
            interval=interval(resampled[name], most=1.0),
            ahead=Ahead(own.score - one.score, interval(resampled[""] - resampled[name])),
            window_error=None,
            copy_window_error=None,
        )
        for name, one in scores.items()
    }


def _ratio(mse: float, copy_mse: float) -> float:
    """1 - mse / copy_mse; where nothing changed at all, 0 for a perfect forecast is the best that can be said."""
    if copy_mse == 0:
        return 0.0
    return float(1.0 - mse / copy_mse)


def _on_the_ground(model: nn.Module) -> bool:
    from poco.ground.grounded import Grounded

    return isinstance(_member(model), Grounded)


def _member(model: nn.Module) -> nn.Module:
    """The model, or the first of those that are averaged."""
    from poco.ensemble import Ensemble

    return next(iter(model)) if isinstance(model, Ensemble) else model


def _own_ground(model: nn.Module, split: Split) -> nn.Module | None:
    """The ground that the model stands on, where the baseline would be fitted to the same in the same way."""
    from poco.ground import GroundConfig
    from poco.ground.grounded import Grounded

    member = _member(model)
    if not isinstance(member, Grounded) or not member.fitted_to(split):
        return None
    usual = GroundConfig(split.context, split.horizon, latents=member.config.latents)
    return member.ground if member.config.ground == usual else None


def _check_sizes(model: nn.Module, split: Split) -> None:
    sizes = getattr(model, "config", model)
    for name in ("context", "horizon"):
        theirs, ours = getattr(sizes, name, None), getattr(split, name)
        if theirs is not None and theirs != ours:
            raise ConfigError(f"the model has {name} {theirs}, the split {ours}: split with the model's {name}")


def _device(model: nn.Module) -> torch.device:
    tensor = next(model.parameters(), None)
    return tensor.device if tensor is not None else torch.device("cpu")


def _session_json(session: SessionScore) -> dict[str, Any]:
    return {**vars(session), "score_per_step": list(session.score_per_step)}


def _sessions_from_json(values: Iterable[Mapping[str, Any]]) -> tuple[SessionScore, ...]:
    return tuple(SessionScore(**{**value, "score_per_step": tuple(value["score_per_step"])}) for value in values)


def _interval_json(value: Interval | None) -> list[float] | None:
    return None if value is None else list(value)
