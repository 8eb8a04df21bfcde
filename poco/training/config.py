"""Settings of the training loop."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from poco.errors import ConfigError
from poco.fields import check_fields
from poco.wording import choices, counted

Precision = Literal["float32", "bf16"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
Loss = Literal["mse", "mae"]
Criterion = Literal["pooled", "relative"]
#: Windows of a step, as published.
BATCH_SIZE = 64


def check_precision(precision: str) -> None:
    """Raise a ConfigError unless it is one of :data:`PRECISIONS`."""
    if precision not in PRECISIONS:
        raise ConfigError(f"precision must be one of {', '.join(PRECISIONS)}, got '{precision}'")


@dataclass(frozen=True)
class TrainConfig:
    """Settings of the training loop; the defaults are the published ones.

    Attributes:
        steps: optimiser steps. None: the recipe's; 10,000 for several sessions and 5,000 for one without a recipe.
        batch_size: windows per data set and step. None: the recipe's, by the size of the recordings; 64 without one.
        learning_rate: AdamW's, after warm-up.
        weight_decay: AdamW's.
        amsgrad: AdamW's variant that keeps the largest second moment.
        clip: largest gradient norm; None for no clipping.
        warmup: steps over which the learning rate rises linearly from zero.
        schedule: ``"constant"`` after warm-up, or ``"cosine"`` down to zero at the last step.
        loss: what is made small: ``"mse"``, mean squared error, or ``"mae"``, mean absolute error.
        criterion: which weights are kept: those with the lowest squared error of validation, ``"pooled"`` over all
            values, or ``"relative"`` to that of repeating the last frame and averaged over sessions, as scores are.
        precision: ``"float32"``, or ``"bf16"`` for autocast to bfloat16.
        ema: decay of an exponential moving average of the weights, which is then what is validated and kept; or None.
        val_every: steps from one validation to the next; there is always one after the last step.
        val_stride: frames from one validation window to the next; windows that overlap say much the same. None: the
            recipe's, by the size of the recordings; 1 without one.
        val_first: validate before the first step too, so that what training starts from may be the best.
        patience: stop after this many validations in a row without a new best; None to never stop early.
        seed: seed of initial weights, dropout and the order of the windows.
        log_every: steps from one logged training loss to the next.
        checkpoint_seconds: a checkpoint is saved at each validation, and after this many seconds without one.
        device: ``"auto"`` (a GPU if there is one), ``"cpu"``, ``"cuda"`` or one of several GPUs, such as ``"cuda:1"``.

    Raises:
        ConfigError: if a value cannot work.
    """

    steps: int | None = None
    batch_size: int | None = BATCH_SIZE
    learning_rate: float = 3e-4
    weight_decay: float = 1e-4
    amsgrad: bool = True
    clip: float | None = 5.0
    warmup: int = 0
    schedule: Literal["constant", "cosine"] = "constant"
    loss: Loss = "mse"
    criterion: Criterion = "pooled"
    precision: Precision = "float32"
    ema: float | None = None
    val_every: int = 100
    val_stride: int | None = 1
    val_first: bool = False
    patience: int | None = None
    seed: int = 0
    log_every: int = 10
    checkpoint_seconds: float = 30.0
    device: str = "auto"

    def __post_init__(self) -> None:
        check_fields(self)
        for name, least in (
            ("val_every", 1),
            ("log_every", 1),
            ("warmup", 0),
            ("seed", 0),
        ):
            _require(getattr(self, name) >= least, name, f"at least {least}", getattr(self, name))
        for name in ("steps", "batch_size", "val_stride", "patience"):
            value = getattr(self, name)
            _require(value is None or value >= 1, name, "at least 1 or none", value)
        rate, decay, clip, ema = self.learning_rate, self.weight_decay, self.clip, self.ema
        _require(0 < rate < math.inf, "learning_rate", "a finite number above 0", rate)
        _require(0 <= decay < math.inf, "weight_decay", "a finite number, at least 0", decay)
        _require(clip is None or 0 < clip < math.inf, "clip", "a finite number above 0, or none", clip)
        _require(ema is None or 0 < ema < 1, "ema", "between 0 and 1, or none", ema)
        _require(self.checkpoint_seconds > 0, "checkpoint_seconds", "> 0", self.checkpoint_seconds)

    def for_sessions(self, sessions: int) -> TrainConfig:
        """The same settings with what is None of steps and windows as published for so many sessions."""
        return dataclasses.replace(
            self,
            steps=self.steps or (10_000 if sessions > 1 else 5_000),
            batch_size=self.batch_size or BATCH_SIZE,
            val_stride=self.val_stride or 1,
        )

    def torch_device(self) -> torch.device:
        """The device to train on; a ConfigError says why it cannot be used."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self.device)
        except RuntimeError as error:
            raise ConfigError(f"device '{self.device}' is not a torch device: use 'auto', 'cpu' or 'cuda'") from error
        if device.type not in ("cpu", "cuda"):
            raise ConfigError(f"nothing is trained on device '{self.device}': use 'auto', 'cpu' or 'cuda'")
        there = torch.cuda.device_count()
        if device.type == "cuda" and (device.index or 0) >= there:
            seen = counted(there, "GPU") if there else "no GPU"
            raise ConfigError(f"device '{self.device}' was asked for, but torch sees {seen} here: use 'auto'")
        return device

    def to_json(self) -> dict[str, Any]:
        """The settings as plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TrainConfig:
        """Settings from plain values; a ConfigError for one that does not exist or cannot work."""
        known = {field.name for field in dataclasses.fields(cls)}
        for name in values:
            if name not in known:
                raise ConfigError(f"there is no training setting '{name}': {choices(name, known)}")
        return cls(**values)


def _require(holds: bool, name: str, what: str, value: object) -> None:
    if not holds:
        raise ConfigError(f"{name} must be {what}, got {value}")
