"""Baselines fitted to a split, and kept where that is wanted."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from poco.baselines import FITTED, TRAINED, build
from poco.data.splits import Split
from poco.errors import CheckpointError, ConfigError, VocabularyError
from poco.nn import SessionSpec
from poco.training.callbacks import Callback
from poco.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from poco.training.config import BATCH_SIZE, TrainConfig
from poco.training.loop import fit
from poco.training.recipes import bounded
from poco.training.seeds import drawing

#: Gradient steps of those that are trained; everything else is as published.
BASELINE_STEPS = 1000
#: Validations of those that are trained without a new best before they stop; there is one every 100 steps.
BASELINE_PATIENCE = 3


def fit_baseline(
    name: str,
    split: Split,
    *,
    seed: int = 0,
    device: str = "auto",
    config: TrainConfig | None = None,
    folder: Path | None = None,
    callbacks: Iterable[Callback] = (),
) -> nn.Module:
    """A baseline fitted to the training part of a split.

    Args:
        name: one of :data:`poco.baselines.ALL`.
        split: recordings and parts.
        seed: seed of initial weights and order of windows.
        device: where one that is trained is trained.
        config: all settings of one that is trained, seed, device and steps too.
        folder: where fitted baselines are kept; one fitted to the same split in the same way is taken from there.
        callbacks: what may watch the training.

    Returns:
        The baseline, in evaluation mode.

    Raises:
        ConfigError: if there is no such baseline.
        DivergedError: if its training loss is no longer finite.
    """
    if config is None:
        config = TrainConfig(
            steps=BASELINE_STEPS,
            batch_size=None,
            val_stride=None,
            patience=BASELINE_PATIENCE,
            seed=seed,
            device=device,
        )
    config = bounded(config, split, most=BATCH_SIZE)
    sessions = [SessionSpec.of(recording) for recording in split.recordings]
    with drawing(config.seed, "weights"):
        model = build(name, split.context, split.horizon, sessions)
    if name not in TRAINED + FITTED:
        return model
    made_of = {"name": name, "split": split.key, "config": config.to_json() if name in TRAINED else None}
    path = folder / f"{name}.safetensors" if folder is not None else None
    if path is not None and path.exists():
        stored = _stored(path, made_of)
        if stored is not None and _takes(model, stored, path):
            return model.eval()
        with drawing(config.seed, "weights"):  # anew: what did not fit may have left some of its tensors
            model = build(name, split.context, split.horizon, sessions)
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


def _takes(model: nn.Module, stored: Mapping[str, torch.Tensor], path: Path) -> bool:
    """Put kept tensors into a baseline; where they do not fit, that is told of and the answer is no."""
    try:
        model.load_state_dict(dict(stored))
    except (RuntimeError, KeyError, ConfigError, VocabularyError):
        says = (
            f"the tensors in {path} do not fit the baseline '{path.stem}': it is fitted again, and kept in their place"
        )
        warnings.warn(says, RuntimeWarning, stacklevel=4)
        return False
    return True


def _stored(path: Path, made_of: Mapping[str, Any]) -> Mapping[str, torch.Tensor] | None:
    """The tensors of a fitted baseline if they were fitted to the same thing; a damaged file is told of and left."""
    try:
        stored = load_checkpoint(path, "baseline")
    except CheckpointError:
        warnings.warn(f"the kept baseline {path} is damaged: it is fitted again", RuntimeWarning, stacklevel=3)
        return None
    return stored.tensors if stored.values == made_of else None
