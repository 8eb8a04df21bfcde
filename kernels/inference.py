"""Inference by the whole model: what does not depend on the activity is prepared once, the rest is a few launches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from poco.kernels.film_forecast import film_forecast
from poco.kernels.latent_pool import latent_pool
from poco.kernels.latents import Call, fits, latent_transformer
from poco.ops.model_reference import Turns, latent_queries
from poco.ops.model_reference import latent_transformer as by_torch
from poco.ops.parameters import FilmParameters, LatentParameters, ModelParameters
from poco.ops.precision import all_dense, common_dtype, dense
from poco.ops.reference import film_shift


@dataclass(frozen=True)
class Prepared:
    """A model for inference, less the activity: dense tensors of one dtype.

    Attributes:
        dtype: of activity and weights in the kernels, float32 or bfloat16.
        unit_table: ``[V, d]`` the whole embedding of every unit.
        initial: ``[1 or W, Q, d]`` the latents before they read.
        queries: ``[1 or W, S, Q, d]`` those latents' queries, absorbed into token space.
        token: weight and bias of the tokens, weight and bias of their norm.
        latents: parameters of the latent transformer, and ``flat`` the same as the op takes them.
        frequencies: that its rotations go by.
        turns: what the latents turn by, float32.
        film: parameters of pass 2, the shift folded through the output.
        heads: of the latents' self-attention.
        eps: added to the variance in all layer normalisations.
        seed: what pass 2 takes where nothing is dropped.
    """

    dtype: torch.dtype
    unit_table: Tensor
    initial: Tensor
    queries: Tensor
    token: tuple[Tensor, Tensor, Tensor, Tensor]
    latents: LatentParameters
    flat: Sequence[Tensor]
    frequencies: Tensor
    turns: Turns
    film: FilmParameters
    heads: int
    eps: float
    seed: Tensor


def prepare(
    unit_table: Tensor,
    initial: Tensor,
    frequencies: Tensor,
    parameters: Sequence[Tensor],
    heads: int,
    eps: float,
    unit_shift: Tensor | None,
    *,
    context: int,
) -> Prepared:
    """Makes what :func:`run` needs; arguments as :func:`poco.ops.inference` takes them, ``context`` in frames."""
    dtype = common_dtype([unit_table, initial, *parameters])
    table = unit_table if unit_shift is None else unit_table + unit_shift
    p = ModelParameters.of(all_dense(parameters, dtype))
    initial = dense(initial, dtype)
    segments = context // p.token_weight.shape[1]
    return Prepared(
        dtype,
        dense(table, dtype),
        initial,
        latent_queries(initial, *p.asking, frequencies, segments, context, eps),
        p.token,
        LatentParameters.of(p.latents),
        p.latents,
        frequencies,
        Turns.of(initial.shape[1], segments, context, frequencies, torch.float32),
        p.film(*film_shift(p.out_weight, p.out_bias, p.shift_weight, p.shift_bias)),
        heads,
        eps,
        torch.zeros((), dtype=torch.int64, device=table.device),
    )


def run(model: Prepared, x: Tensor, unit_index: Tensor, window_offsets: Tensor) -> Tensor:
    """``[R, H]`` forecasts, in the dtype of ``x``, of packed rows ``x [R, C]``."""
    rows = (dense(x, model.dtype), unit_index, window_offsets, model.unit_table)
    pooled, _ = latent_pool(*rows, *model.token, model.queries, model.eps)
    if fits(model.initial.dtype, *model.initial.shape[1:]):
        call = Call(pooled, model.initial, model.latents, model.turns, model.heads, model.eps)
        keys, values, _ = latent_transformer(call)
    else:
        rest = (model.flat, model.frequencies, model.heads, x.shape[1], model.eps)
        keys, values = by_torch(pooled, model.initial, *rest)
    return film_forecast(*rows, keys, values, model.film, 0.0, model.seed, model.eps).to(x.dtype)


def inference(x: Tensor, unit_index: Tensor, window_offsets: Tensor, *rest: Any) -> Tensor:
    """The forecasts of a model that is not in training; see :func:`poco.ops.inference`."""
    prepared = prepare(*rest, context=x.shape[1])
    return run(prepared, x, unit_index, window_offsets)
