"""Training: a plain loop that can be killed at any moment and continued exactly."""

from __future__ import annotations

from poco.training.callbacks import Callback, Progress, TensorBoard
from poco.training.config import TrainConfig
from poco.training.interrupt import Interrupted
from poco.training.job import train
from poco.training.loop import DivergedError, History, fit
from poco.training.recipes import recipe
from poco.training.validation import errors_of

__all__ = [
    "Callback",
    "DivergedError",
    "History",
    "Interrupted",
    "Progress",
    "TensorBoard",
    "TrainConfig",
    "errors_of",
    "fit",
    "recipe",
    "train",
]
