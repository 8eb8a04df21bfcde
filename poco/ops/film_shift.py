"""The shift of FiLM folded through the output, for inference: a torch custom op without a gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from poco.ops import checks
from poco.ops.backends import choose

torch.library.define(
    "poco::film_shift",
    "(Tensor output_weight, Tensor output_bias, Tensor shift_weight, Tensor shift_bias) "
    "-> (Tensor weight, Tensor bias)",
)


def film_shift(
    output_weight: Tensor, output_bias: Tensor, shift_weight: Tensor, shift_bias: Tensor
) -> tuple[Tensor, Tensor]:
    """What pass 2 takes as its shift: weight and bias of the shift, then the output. It has no gradient.

    Args:
        output_weight: ``[H, K]``.
        output_bias: ``[H]``.
        shift_weight: ``[K, d]``.
        shift_bias: ``[K]``.

    Returns:
        ``output_weight @ shift_weight [H, d]`` and ``output_weight @ shift_bias + output_bias [H]``, in the dtype of
        ``output_weight``.

    Raises:
        ShapeError: if shapes or devices do not fit together.
        BackendError: if a forced backend cannot run on these tensors.
    """
    return torch.ops.poco.film_shift(output_weight, output_bias, shift_weight, shift_bias)  # type: ignore[no-any-return]


@torch.library.impl("poco::film_shift", "CompositeExplicitAutograd")
def _forward(*inputs: Tensor) -> tuple[Tensor, Tensor]:
    checks.film_shift(*inputs)
    return choose(inputs[0].device, inputs[0].dtype).film_shift(*inputs)  # type: ignore[no-any-return]


@torch.library.register_fake("poco::film_shift")
def _fake(output_weight: Tensor, output_bias: Tensor, shift_weight: Tensor, shift_bias: Tensor) -> tuple[Tensor, ...]:
    horizon, width = output_weight.shape[0], shift_weight.shape[1]
    return output_weight.new_empty((horizon, width)), output_weight.new_empty((horizon,))
