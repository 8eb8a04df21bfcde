"""The learning rate of each step."""

from __future__ import annotations

import math

from poco.training.config import TrainConfig


def learning_rate(config: TrainConfig, step: int) -> float:
    """Learning rate of a step.

    Args:
        config: settings with ``steps`` filled in.
        step: number of the step, the first is 1.
    """
    assert config.steps is not None
    if step <= config.warmup:
        return config.learning_rate * step / config.warmup
    if config.schedule == "constant":
        return config.learning_rate
    done = (step - config.warmup) / max(1, config.steps - config.warmup)
    return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
