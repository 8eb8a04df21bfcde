"""Mean squared error over a part of a split."""

from __future__ import annotations

import torch
from torch import nn

from poco.data.packed import PackedBatch
from poco.data.splits import Windows
from poco.data.windows import Packer


@torch.no_grad()
def pooled_mse(
    model: nn.Module,
    packer: Packer,
    windows: Windows,
    *,
    device: torch.device | str = "cpu",
    precision: str = "float32",
) -> float:
    """Squared error averaged over all rows and steps of all windows, sessions pooled.

    Args:
        model: the forecaster; it is put into evaluation mode and back.
        packer: cuts the windows.
        windows: windows to average over.
        device: where the model is.
        precision: ``"float32"`` or ``"bf16"`` (autocast).

    Returns:
        The error, accumulated in float64.
    """
    was_training = model.training
    model.eval()
    total, elements = torch.zeros((), dtype=torch.float64, device=device), 0
    try:
        for _, batch in packer.batches(windows):
            batch = batch.to(device)
            assert batch.target is not None
            total += (predict(model, batch, precision) - batch.target).square().sum(dtype=torch.float64)
            elements += batch.target.numel()
    finally:
        model.train(was_training)
    return float(total) / max(1, elements)


def predict(model: nn.Module, batch: PackedBatch, precision: str) -> torch.Tensor:
    """The model's forecast ``[R, H]`` in float32, computed under autocast where ``precision`` is ``"bf16"``."""
    with torch.autocast(batch.x.device.type, torch.bfloat16, enabled=precision == "bf16"):
        out: torch.Tensor = model.forward_packed(batch)  # type: ignore[operator]
    return out.float()


def training_loss(model: nn.Module, batch: PackedBatch, precision: str, loss: str = "mse") -> torch.Tensor:
    """Error of the forecast, a scalar to differentiate.

    Args:
        model: the forecaster; its ``loss_packed``, if it has one, is the mean squared error.
        batch: windows with targets.
        precision: ``"float32"`` or ``"bf16"`` (autocast).
        loss: ``"mse"`` or ``"mae"``, mean squared or absolute error.
    """
    assert batch.target is not None
    if loss == "mae":
        return (predict(model, batch, precision) - batch.target).abs().mean()
    if not hasattr(model, "loss_packed"):
        return (predict(model, batch, precision) - batch.target).square().mean()
    with torch.autocast(batch.x.device.type, torch.bfloat16, enabled=precision == "bf16"):
        error: torch.Tensor = model.loss_packed(batch)  # type: ignore[operator]
    return error
