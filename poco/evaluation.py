"""A trained forecaster beside the forecasters that it is compared with: :func:`evaluate`."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from poco.baselines import NAMES, check_names
from poco.baselines.fitted import fit_baseline
from poco.data.splits import Split
from poco.errors import ConfigError, DataError
from poco.files import BASELINES
from poco.intervals import block_length
from poco.scores import Evaluation
from poco.scoring import score_forecasters, warnings_of, with_intervals
from poco.training.callbacks import Callback
from poco.training.config import TrainConfig, check_precision
from poco.training.validation import check_forecaster

if TYPE_CHECKING:
    from poco.run import Run


def evaluate(
    run_or_model: Run | nn.Module | str | Path,
    split: Split | None = None,
    part: str = "test",
    baselines: Sequence[str] | None = None,
    *,
    stride: int = 1,
    precision: str = "float32",
    folder: Path | None = None,
    callbacks: Sequence[Callback] = (),
    name: str | None = None,
) -> Evaluation:
    """Score a forecaster and its baselines over the same windows, in one pass.

    NLinear and MLP are trained for 1000 steps, or until three validations in a row brought no new best, with the loop
    and seed of a run and 64 windows a step, fewer where units are many (:func:`poco.training.recipes.bounded`); those
    of a run are kept in its folder and not trained again for the same split. Memory is bounded:
    windows are taken in batches, and of each window one number for each forecaster is kept, from which the
    intervals are made. The forecaster is left in evaluation mode.

    Args:
        run_or_model: a run, a model with ``forward_packed``, or a folder of a run or model.
        split: recordings and parts; default for a run: the recordings it was trained on, read again.
        part: ``"train"``, ``"val"`` or ``"test"``.
        baselines: names of the baselines to score, see :data:`poco.baselines.NAMES`; default: those that training was
            told to compare the run with, else all.
        stride: frames from one window to the next.
        precision: what the forecaster computes in, ``"float32"`` or ``"bf16"`` (autocast); baselines take float32.
        folder: where fitted baselines are kept; default for a run that is in a folder: in there.
        callbacks: what may watch the training of the baselines.
        name: what the forecaster is called in tables, JSON and figures; default ``"grounded"`` on the ground,
            ``"poco"`` for a POCO, and the name of its class for any other module.

    Returns:
        The scores, with 95% intervals of the scores and of how far the forecaster is ahead of each baseline.

    Raises:
        ConfigError: for an unknown part, baseline or precision, the name of one of the baselines, a model that is no
            forecaster, or a split whose context or horizon is not the model's.
        ShapeError: if a forecast is not ``[R, H]``.
        VocabularyError: if the model does not know a session of the split.
        DataError: if there are no windows, or a model is given without a split.
        CheckpointError: if the folder holds neither a run nor a model.
    """
    from poco.models import kind_of, open_forecaster
    from poco.run import Run

    check_precision(precision)
    if isinstance(run_or_model, (str, Path)):
        run_or_model = open_forecaster(run_or_model)
    run = run_or_model if isinstance(run_or_model, Run) else None
    model = run.model if run is not None else run_or_model
    check_forecaster(model, "what is scored")
    assert isinstance(model, nn.Module)
    if split is None:
        if run is None:
            raise DataError("evaluating a model needs a split: poco.split(recordings)")
        split = run.split()
    if not isinstance(split, Split):
        raise DataError(f"what is scored is a split, poco.split(recordings), got {type(split).__name__}")
    _check_sizes(model, split)
    if baselines is None:
        baselines = run.baselines if run is not None else NAMES
    check_names(baselines)
    name = kind_of(model) if name is None else name
    if name in ("", *baselines):
        raise ConfigError(f"name '{name}' cannot be told from a baseline: give the forecaster one of its own")
    config = getattr(run, "train_config", None) or TrainConfig()
    if folder is None and run is not None and run.folder is not None:
        folder = run.folder / BASELINES
    device = _device(config)
    forecasters: dict[str, nn.Module] = {"": model}
    for other in dict.fromkeys(baselines):
        ground = _own_ground(model, split) if other == "ground" else None
        forecasters[other] = ground or fit_baseline(
            other, split, seed=config.seed, device=device, folder=folder, callbacks=callbacks
        )
    scores = score_forecasters(forecasters, split, part, stride=stride, precision={"": precision})
    found = warnings_of(scores[""], split, part)
    for line in found:
        warnings.warn(line, RuntimeWarning, stacklevel=2)
    scores = with_intervals(scores, block_length(split.context, split.horizon, stride))
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
        warnings=(*split.warnings, *found),
        interval=own.interval,
        forecaster=name,
    )


def _own_ground(model: nn.Module, split: Split) -> nn.Module | None:
    """The ground that the model stands on, where the baseline would be fitted to the same in the same way."""
    from poco.ground import GroundConfig
    from poco.ground.grounded import Grounded
    from poco.models import members

    member = members(model)[0]
    if not isinstance(member, Grounded) or not member.fitted_to(split):
        return None
    usual = GroundConfig(split.context, split.horizon, latents=member.config.latents)
    chosen = (member.metadata.get("ground") or {}).get("latents_chosen", False)
    return member.ground if chosen and member.config.ground == usual else None


def _device(config: TrainConfig) -> str:
    """Where the run was trained, or the usual one where that is not to be had here."""
    try:
        config.torch_device()
    except ConfigError:
        return "auto"
    return config.device


def _check_sizes(model: nn.Module, split: Split) -> None:
    sizes = getattr(model, "config", model)
    for name in ("context", "horizon"):
        theirs, ours = getattr(sizes, name, None), getattr(split, name)
        if theirs is not None and theirs != ours:
            raise ConfigError(f"the model has {name} {theirs}, the split {ours}: split with the model's {name}")
