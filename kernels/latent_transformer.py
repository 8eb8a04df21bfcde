"""What happens between the passes in training, as :mod:`poco.ops.latent_transformer` calls it, by Triton kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from poco.kernels import latents, latents_backward
from poco.ops.model_reference import turns_of
from poco.ops.parameters import LatentParameters
from poco.ops.precision import cast, common_dtype


def most_latents(dtype: torch.dtype) -> tuple[tuple[int, int], ...]:
    """Pairs of a width and the most latents up to it that fit on every chip where products are of this dtype."""
    return ((128, 16),) if dtype is torch.float32 else ((64, 64), (128, 32), (256, 16))


def kept_bytes(
    windows: Any, segments: int, initial: Tensor, frequencies: Tensor, parameters: Sequence[Tensor], *_: Any
) -> Any:
    """How many bytes the backward needs to be kept of so many windows: the latents before each branch, in float32."""
    count = len(latents.branches_of(LatentParameters.of(parameters))) + 1
    return windows * (count * initial.shape[1] * initial.shape[2] * 4)


def _arguments(
    pooled: Tensor,
    initial: Tensor,
    frequencies: Tensor,
    parameters: Sequence[Tensor],
    heads: int,
    context: int,
    ffn_dropout: float,
    dropout: float,
    seed: Tensor,
    eps: float,
    low: bool,
) -> latents.Call:
    """The arguments of the op as the kernels' callers take them."""
    dtype = torch.bfloat16 if low else common_dtype([initial, *parameters])
    given = [initial.detach(), *(parameter.detach() for parameter in parameters)]
    initial, *parameters = [t.contiguous() for t in cast(given, [dtype] * len(given))]
    turns = turns_of(initial.shape[1], pooled.shape[1], context, frequencies, torch.float32)
    drops = latents.Drops(seed, ffn_dropout, dropout)
    return latents.Call(pooled.contiguous(), initial, LatentParameters.of(parameters), turns, heads, eps, drops)


def latent_transformer(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Keys, values and what the backward needs; see :func:`poco.ops.latent_transformer`."""
    keys, values, states = latents.latent_transformer(_arguments(*inputs))
    given = torch.bfloat16 if inputs[-1] else inputs[1].dtype
    return keys.to(given), values.to(given), states.flatten().view(torch.uint8)


def latent_transformer_backward(grad_keys: Tensor, grad_values: Tensor, kept: Tensor, *inputs: Any) -> list[Tensor]:
    """Gradients of pooled, initial and the parameters, float32, empty where ``needs`` says no."""
    *forward, needs = inputs
    call = _arguments(*forward)
    count = len(latents.branches_of(call.p)) + 1
    states = kept.view(torch.float32).view(count, call.pooled.shape[0], *call.initial.shape[1:])
    of_pooled, of_initial, *of_parameters = latents_backward.latent_transformer_backward(
        grad_keys.contiguous(), grad_values.contiguous(), states, call, needs_weights=needs[2]
    )
    nothing = of_pooled.new_empty(0)
    wanted = zip((of_pooled, of_initial), needs[:2], strict=True)
    return [*(one if needed else nothing.clone() for one, needed in wanted), *of_parameters]
