"""Pass 2 and the mean squared error of its forecasts in one visit to every row: ``film_loss``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from poco.ops import checks, cpu
from poco.ops.backends import by_cpu_kernels
from poco.ops.film_forecast import DIFFERENTIABLE, TENSORS, film_forecast
from poco.ops.parameters import FilmParameters
from poco.ops.precision import low, transforms_active
from poco.ops.reference import accumulation_dtype, mean_squared_error


def film_loss(
    x: Tensor,
    unit_index: Tensor,
    window_offsets: Tensor,
    unit_table: Tensor,
    keys: Tensor,
    values: Tensor,
    parameters: FilmParameters,
    target: Tensor,
    dropout: float = 0.0,
    seed: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """The mean of ``(film_forecast(...) - target) ** 2`` over all rows and steps.

    Where the CPU kernels run, a gradient is wanted and nothing is being compiled, the forecast, its error and all
    gradients are made together, which takes less time than the forecast and its backward; nothing but the loss and the
    gradients is kept. It can be differentiated once.

    Args:
        x: ``[R, C]`` activity; this and all but the target as in :func:`poco.ops.film_forecast`.
        unit_index: ``[R]`` int32.
        window_offsets: ``[W + 1]`` int32.
        unit_table: ``[V, d]``.
        keys: ``[W, Q, d]``.
        values: ``[W, Q, d]``.
        parameters: the parameters of the pass.
        target: ``[R, H]`` what should have been forecast; it has no gradient.
        dropout: probability in ``[0, 1)`` of dropping a feed-forward activation.
        seed: one int64, needed if ``dropout > 0``.
        eps: added to the variance in both layer normalisations.

    Returns:
        The loss, a scalar in float32 (float64 for float64 input). Without rows or steps it is 0, and so are its
        gradients. Under autocast the inputs are taken in bfloat16, the target is not.

    Raises:
        ShapeError: if shapes, dtypes or devices do not fit together, or a seed is missing.
        BackendError: if a forced backend cannot run on these tensors.
        NotImplementedError: for derivatives in forward mode or by a transform of ``torch.func``; in its backward by the
            CPU kernels, under ``create_graph=True``.
    """
    parameters = checks.film_parameters("film_loss", parameters)
    tensors = (x, unit_index, window_offsets, unit_table, keys, values, *parameters, target)
    checks.only_tensors("film_loss", (*checks.FILM_NAMES, "target"), tensors)
    seed = checks.given_seed("film_loss", seed, dropout, x)
    inputs = (x, unit_index, window_offsets, unit_table, keys, values, parameters, dropout, seed, eps)
    flat = (*inputs[:6], *parameters)
    checks.autograd_alone("film_loss", flat)
    checks.film_loss(*inputs, target)
    target = target.detach()
    wanted = torch.is_grad_enabled() and any(t.requires_grad for t in flat)
    if wanted and not transforms_active() and by_cpu_kernels(x.device, x.dtype):
        return _FilmLoss.apply(target, dropout, seed, eps, *flat)  # type: ignore[no-any-return, no-untyped-call]
    return mean_squared_error(film_forecast(*inputs), target, accumulation_dtype(x))


class _FilmLoss(torch.autograd.Function):
    """By the CPU kernels: the forward makes the gradients too."""

    @staticmethod
    def forward(ctx: Any, target: Tensor, dropout: float, seed: Tensor, eps: float, *inputs: Tensor) -> Tensor:
        needs = [ctx.needs_input_grad[4 + i] for i in DIFFERENTIABLE]
        taken = low(inputs)
        bundled = (*taken[:6], FilmParameters(*taken[6:]), dropout, seed, eps)
        loss, gradients = cpu.film_loss(target, *bundled, needs)
        ctx.needs, ctx.dtypes = needs, [t.dtype for t in inputs]
        ctx.save_for_backward(*(g for g in gradients if g is not None))
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        checks.not_again("film_loss")
        gradients = iter(ctx.saved_tensors)
        placed: list[Tensor | None] = [None] * (4 + TENSORS)
        for i, needed in zip(DIFFERENTIABLE, ctx.needs, strict=True):
            if needed:
                placed[4 + i] = (next(gradients) * grad).to(ctx.dtypes[i])
        return tuple(placed)
