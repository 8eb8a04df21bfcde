"""The whole model for inference as one torch custom op without a gradient: ``torch.ops.poco.inference``.

At a few hundred units the passes take less time than it takes to call all that lies before and between them one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from poco.ops import checks
from poco.ops.backends import choose
from poco.ops.parameters import ModelParameters
from poco.ops.precision import as_given, autocasts, low
from poco.ops.vmap import one_by_one

torch.library.define(
    "poco::inference",
    f"({checks.in_schema(checks.INFERENCE_NAMES)}, Tensor[] parameters, int heads, float eps, "
    "Tensor? unit_shift=None) -> Tensor",
)


def inference(
    x: Tensor,
    unit_index: Tensor,
    window_offsets: Tensor,
    unit_table: Tensor,
    initial: Tensor,
    frequencies: Tensor,
    parameters: Sequence[Tensor],
    heads: int,
    eps: float = 1e-5,
    unit_shift: Tensor | None = None,
) -> Tensor:
    """The forecasts of a model that is not in training; it has no gradient.

    The latents' queries, pass 1 (:func:`poco.ops.latent_pool`), the latent transformer, and pass 2
    (:func:`poco.ops.film_forecast`) with the shift folded; :mod:`poco.ops.model_reference` writes it out.

    Args:
        x: ``[R, C]`` activity, rows of all windows one after another.
        unit_index: ``[R]`` int32, row of ``unit_table`` for each row.
        window_offsets: ``[W + 1]`` int32; window ``w`` is rows ``window_offsets[w]:window_offsets[w + 1]``.
        unit_table: ``[V, d]`` embedding of every unit.
        initial: ``[1 or W, Q, d]`` the latents before they read.
        frequencies: ``[dh / 4]`` float32 angular frequencies of the pairs that turn.
        parameters: all tensors of :class:`poco.ops.parameters.ModelParameters` in order, layer after layer.
        heads: heads of the latents' self-attention.
        eps: added to the variance in all layer normalisations.
        unit_shift: ``[d]``, added to the embedding of every unit; None adds nothing. The sum, as large as the table,
            is not made by the kernels.

    Returns:
        ``[R, H]`` forecasts in the dtype of ``x``, which the kernels round to bfloat16 where all else is that. Under
        autocast, to whichever type, all but the frequencies is taken in bfloat16.

    Raises:
        ShapeError: if shapes, dtypes or devices do not fit together.
        BackendError: if a forced backend cannot run on these tensors.
        NotImplementedError: for derivatives in forward mode or by torch.func, and for a gradient once asked for it.
    """
    rows = (x, unit_index, window_offsets, unit_table)
    checks.only_tensors("inference", checks.INFERENCE_NAMES, (*rows, initial, frequencies, *parameters))
    shift = () if unit_shift is None else (unit_shift,)
    checks.autograd_alone("inference", (x, unit_table, initial, *parameters, *shift))
    if autocasts(x):
        x, unit_table, initial, *parameters = low((x, unit_table, initial, *parameters))
        unit_shift = low(shift)[0] if shift else None
    with as_given(x.device):
        return torch.ops.poco.inference(  # type: ignore[no-any-return]
            x, unit_index, window_offsets, unit_table, initial, frequencies, parameters, heads, eps, unit_shift
        )


@torch.library.impl("poco::inference", "CompositeExplicitAutograd")
def _forward(*inputs: Any) -> Tensor:
    unit_shift = inputs[9] if len(inputs) > 9 else None  # left out where it is None
    checks.inference(*(*inputs[:9], "inference", unit_shift))
    backend = choose(inputs[0].device, inputs[0].dtype)
    return backend.inference(*inputs[:9], unit_shift)  # type: ignore[no-any-return]


@torch.library.register_fake("poco::inference")
def _fake(x: Tensor, *rest: Any) -> Tensor:
    return x.new_empty((x.shape[0], ModelParameters.of(rest[5]).out_bias.shape[0]))


def _no_gradient(ctx: Any, grad: Tensor) -> None:
    raise NotImplementedError(
        "inference has no gradient: call the model with gradients on, or the passes one by one (poco.ops.latent_pool, "
        "latent_transformer, film_forecast)"
    )


torch.library.register_autograd("poco::inference", _no_gradient)
one_by_one(torch.ops.poco.inference)
