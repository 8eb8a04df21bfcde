"""Errors over a part of a split, and the loss of training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from poco.data.packed import PackedBatch
from poco.data.splits import Windows
from poco.data.windows import Packer
from poco.errors import ConfigError, ShapeError


@dataclass(frozen=True, eq=False)
class Errors:
    """Squared errors of each part of a model that is trained apart, added up over the windows of each session.

    Attributes:
        squared: ``[P, S]`` float64.
        copy: ``[S]`` that of repeating the last frame.
        values: ``[S]`` how many were forecast.
    """

    squared: np.ndarray
    copy: np.ndarray
    values: np.ndarray

    def pooled(self) -> list[float]:
        """Mean squared error of each part, all values alike."""
        found: list[float] = (self.squared.sum(1) / max(1, self.values.sum())).tolist()
        return found

    def relative(self) -> list[float]:
        """Error of each part over that of repeating the last frame, all sessions alike: 1 less the score."""
        moved = self.copy > 0
        if not moved.any():
            return self.pooled()
        found: list[float] = (self.squared[:, moved] / self.copy[moved]).mean(1).tolist()
        return found


@torch.no_grad()
def errors_of(
    model: nn.Module,
    packer: Packer,
    windows: Windows,
    *,
    device: torch.device | str = "cpu",
    precision: str = "float32",
) -> Errors:
    """Squared errors over windows, in the order of :func:`trained_apart`.

    Args:
        model: the forecaster; it is put into evaluation mode and back.
        packer: cuts the windows.
        windows: windows to average over.
        device: where the model is.
        precision: ``"float32"`` or ``"bf16"`` (autocast).

    Returns:
        Squared errors of each part and of repeating the last frame, session by session.

    Raises:
        ShapeError: if a forecast is not ``[R, H]``.
    """
    was_training = model.training
    model.eval()
    parts, sessions = len(trained_apart(model)), len(packer.units)
    total = torch.zeros(parts + 1, sessions, dtype=torch.float64, device=device)
    values = np.zeros(sessions, dtype=np.int64)
    try:
        for some, packed in packer.batches(windows):
            batch = packed.to(device)
            assert batch.target is not None
            inside = some.session
            rows = np.repeat(inside, packer.units[inside])
            session = torch.from_numpy(rows).to(device)
            for place, forecast in enumerate([*_each(model, batch, precision), batch.x[:, -1:]]):
                error = (forecast - batch.target).square().sum(1, dtype=torch.float64)
                total[place].index_add_(0, session, error)
            values += np.bincount(rows, minlength=sessions) * batch.target.shape[1]
    finally:
        model.train(was_training)
    return Errors(total[:-1].cpu().numpy(), total[-1].cpu().numpy(), values)


def trained_apart(model: nn.Module) -> dict[str, str]:
    """Parts of a model that are trained each on its own error: name and prefix of its parameters.

    Most models are one part, without a name.
    """
    apart: Any = getattr(model, "trained_apart", None)
    found: dict[str, str] = {"": ""} if apart is None else apart()
    return found


def _each(model: nn.Module, batch: PackedBatch, precision: str) -> list[torch.Tensor]:
    """The forecasts ``[R, H]`` of the parts of a model that are trained apart."""
    parts = trained_apart(model)
    if "" in parts:
        return [predict(model, batch, precision)]
    with torch.autocast(batch.x.device.type, torch.bfloat16, enabled=precision == "bf16"):
        found = model.each_packed(batch.to_forecast(), parts)  # type: ignore[operator]
    return [_checked(forecast, batch, f"each_packed of {type(model).__name__}") for forecast in found]


def predict(model: nn.Module, batch: PackedBatch, precision: str) -> torch.Tensor:
    """The model's forecast ``[R, H]`` in float32, computed under autocast where ``precision`` is ``"bf16"``.

    The model is given a copy of the batch, without the target.

    Raises:
        ShapeError: if the forecast is not of the shape of the target.
    """
    with torch.autocast(batch.x.device.type, torch.bfloat16, enabled=precision == "bf16"):
        out = model.forward_packed(batch.to_forecast())  # type: ignore[operator]
    return _checked(out, batch, f"forward_packed of {type(model).__name__}")


def _checked(forecast: object, batch: PackedBatch, of: str) -> torch.Tensor:
    """A forecast in float32; a ShapeError unless its shape is that of the target (others would be broadcast)."""
    assert batch.target is not None
    wanted = tuple(batch.target.shape)
    got = list(forecast.shape) if isinstance(forecast, torch.Tensor) else type(forecast).__name__
    if not isinstance(forecast, torch.Tensor) or tuple(forecast.shape) != wanted:
        raise ShapeError(f"{of} must return [R, H], {wanted[0]} rows by {wanted[1]} steps here, got {got}")
    return forecast.float()


def check_forecaster(model: object, what: str = "a forecaster") -> None:
    """Raise a ConfigError unless a model is an ``nn.Module`` with a ``forward_packed``."""
    if isinstance(model, nn.Module) and callable(getattr(model, "forward_packed", None)):
        return
    got = f"a {type(model).__name__} without it" if isinstance(model, nn.Module) else f"a {type(model).__name__}"
    raise ConfigError(
        f"{what} is a torch.nn.Module with forward_packed(batch) -> [R, H], got {got}: docs/forecasters.md shows one"
    )


def training_loss(model: nn.Module, batch: PackedBatch, precision: str, loss: str = "mse") -> torch.Tensor:
    """Error of the forecast, a scalar to differentiate; of parts that are trained apart, that of each added up.

    Args:
        model: the forecaster; its ``loss_packed``, if it has one, is the mean squared error.
        batch: windows with targets.
        precision: ``"float32"`` or ``"bf16"`` (autocast).
        loss: ``"mse"`` or ``"mae"``, mean squared or absolute error.
    """
    assert batch.target is not None
    if loss == "mse" and hasattr(model, "loss_packed"):
        with torch.autocast(batch.x.device.type, torch.bfloat16, enabled=precision == "bf16"):
            error: torch.Tensor = model.loss_packed(batch)  # type: ignore[operator]
        return error
    off = [forecast - batch.target for forecast in _each(model, batch, precision)]
    return torch.stack([(each.abs() if loss == "mae" else each.square()).mean() for each in off]).sum()
