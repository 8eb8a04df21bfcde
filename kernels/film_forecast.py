"""Pass 2 forward: a tile of rows goes through attention, feed-forward, FiLM and output without leaving the chip."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from poco.kernels import launch
from poco.kernels.common import (
    dropout_factor,
    gelu,
    load_matrix,
    load_units,
    load_vector,
    relu,
    standardise,
    window_of,
)
from poco.kernels.film_wide_kernels import wide_film_forecast_kernel
from poco.kernels.tiles import tile
from poco.ops.parameters import FilmParameters
from poco.ops.precision import common_dtype, dense


@triton.jit
def attend(
    state,
    query,
    row,
    first,
    rows,
    seen,
    feature,
    Q: tl.constexpr,
    d: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    WHOLE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``state`` plus what each row reads from the latents of its window; a tile may span windows.

    Rows behind the last window, of offsets that do not fit ``rows``, read nothing.
    """
    window_offsets, windows, keys, values = seen
    latent = tl.arange(0, BLOCK_Q)
    end = tl.minimum(first + BLOCK_R, tl.minimum(rows, tl.load(window_offsets + windows)))
    window = window_of(window_offsets, windows, first)
    begin = first
    while begin < end:  # to the last window at most, which ends there
        stop = tl.load(window_offsets + window + 1).to(tl.int64)
        own = window.to(tl.int64) * Q * d
        key = load_matrix(keys + own, latent, feature, Q, d, d, WHOLE and Q == BLOCK_Q).to(query.dtype)
        value = load_matrix(values + own, latent, feature, Q, d, d, WHOLE and Q == BLOCK_Q).to(query.dtype)
        score = tl.dot(query, tl.trans(key), input_precision=PRECISION)
        score = tl.where(latent[None, :] < Q, score, float("-inf"))
        share = tl.exp(score - tl.max(score, 1)[:, None])
        share = share / tl.sum(share, 1)[:, None]
        inside = (row >= begin) & (row < stop)
        # Added to these rows alone: not even a NaN gets from one window into another.
        read = tl.dot(share.to(query.dtype), value, input_precision=PRECISION)
        state = tl.where(inside[:, None], state + read, state)
        begin = tl.maximum(begin, stop)
        window += 1
    return state


@triton.jit
def ffn_hidden(
    normed,
    hidden,
    ffn,
    feature,
    F: tl.constexpr,
    d: tl.constexpr,
    WHOLE: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Values and gates of some hidden units, and the weights ``[hidden, features]`` that they came by."""
    in_weight, in_bias, _out_weight = ffn
    value_weight = load_matrix(in_weight, hidden, feature, F, d, d, WHOLE).to(normed.dtype)
    gate_weight = load_matrix(in_weight + F * d, hidden, feature, F, d, d, WHOLE).to(normed.dtype)
    value = tl.dot(normed, tl.trans(value_weight), input_precision=PRECISION)
    gate = tl.dot(normed, tl.trans(gate_weight), input_precision=PRECISION)
    value += load_vector(in_bias, hidden, F)[None, :]
    gate += load_vector(in_bias + F, hidden, F)[None, :]
    return value, gate, value_weight, gate_weight


@triton.jit
def embed(
    unit_index,
    unit_table,
    row,
    first,
    rows,
    feature,
    seen,
    attention_bias,
    query_norm,
    ffn_norm,
    ffn,
    ffn_out_bias,
    drop,
    eps,
    Q: tl.constexpr,
    d: tl.constexpr,
    F: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_D: tl.constexpr,
    DROPOUT: tl.constexpr,
    FACTOR: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The embedding ``e`` of each row: its unit's, plus what it reads from the latents, plus the feed-forward layer.

    ``seen`` are offsets and number of the windows, keys and values of their latents; ``query_norm`` and ``ffn_norm``
    weight and bias of the layer norms before attention and feed-forward layer; ``ffn`` that layer's weights into it,
    biases there, and weights out of it; ``drop`` seed, threshold and scale of its dropout.

    Returns ``e``, what the feed-forward layer takes, and the state after attention standardised with one over its
    deviation.
    """
    WHOLE: tl.constexpr = d == BLOCK_D
    unit = load_units(unit_table, unit_index, row, row < rows, feature, d, WHOLE)
    standard, _inverse_std = standardise(unit, feature, eps, d)
    query = standard * load_vector(query_norm[0], feature, d) + load_vector(query_norm[1], feature, d)
    state = unit + load_vector(attention_bias, feature, d)[None, :]
    state = attend(state, query.to(FACTOR), row, first, rows, seen, feature, Q, d, BLOCK_R, BLOCK_Q, WHOLE, PRECISION)
    standard, inverse_std = standardise(state, feature, eps, d)
    normed = standard * load_vector(ffn_norm[0], feature, d) + load_vector(ffn_norm[1], feature, d)
    normed = normed.to(FACTOR)
    e = state + load_vector(ffn_out_bias, feature, d)[None, :]
    ALL: tl.constexpr = WHOLE and F % BLOCK_F == 0
    for begin in range(0, F, BLOCK_F):
        hidden = begin + tl.arange(0, BLOCK_F)
        value, gate, _value_weight, _gate_weight = ffn_hidden(normed, hidden, ffn, feature, F, d, ALL, PRECISION)
        gated = value * gelu(gate)
        if DROPOUT:
            gated *= dropout_factor(drop[0], row, begin, drop[1], drop[2], BLOCK_R, BLOCK_F)
        out_weight = load_matrix(ffn[2], feature, hidden, d, F, F, ALL).to(FACTOR)
        e = tl.dot(gated.to(FACTOR), tl.trans(out_weight), e, input_precision=PRECISION)
    return e.to(FACTOR), normed, standard, inverse_std


@triton.jit(do_not_specialize=["rows", "windows", "threshold"])
def film_forecast_kernel(
    x,
    unit_index,
    window_offsets,
    unit_table,
    keys,
    values,
    attention_bias,
    query_norm_weight,
    query_norm_bias,
    ffn_norm_weight,
    ffn_norm_bias,
    ffn_in_weight,
    ffn_in_bias,
    ffn_out_weight,
    ffn_out_bias,
    scale_weight,
    scale_bias,
    shift_weight,
    shift_bias,
    in_weight,
    in_bias,
    out_weight,
    seed_pointer,
    forecast,
    rows,
    windows,
    threshold,
    dropout_scale,
    eps,
    C: tl.constexpr,
    H: tl.constexpr,
    Q: tl.constexpr,
    d: tl.constexpr,
    F: tl.constexpr,
    K: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_D: tl.constexpr,
    DROPOUT: tl.constexpr,
    FACTOR: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Forecasts of one tile of rows."""
    first = tl.program_id(0).to(tl.int64) * BLOCK_R
    row = first + tl.arange(0, BLOCK_R)
    present = row < rows
    WHOLE: tl.constexpr = d == BLOCK_D
    feature = tl.arange(0, BLOCK_D)
    frame = tl.arange(0, BLOCK_C)
    step = tl.arange(0, BLOCK_H)

    e, _normed, _standard, _inverse_std = embed(
        unit_index,
        unit_table,
        row,
        first,
        rows,
        feature,
        (window_offsets, windows, keys, values),
        attention_bias,
        (query_norm_weight, query_norm_bias),
        (ffn_norm_weight, ffn_norm_bias),
        (ffn_in_weight, ffn_in_bias, ffn_out_weight),
        ffn_out_bias,
        (tl.load(seed_pointer) if DROPOUT else 0, threshold, dropout_scale),
        eps,
        Q,
        d,
        F,
        BLOCK_R,
        BLOCK_F,
        BLOCK_Q,
        BLOCK_D,
        DROPOUT,
        FACTOR,
        PRECISION,
    )

    activity = load_matrix(x, row, frame, rows, C, C, False).to(FACTOR)
    shift = load_matrix(shift_weight, step, feature, H, d, d, WHOLE and H == BLOCK_H).to(FACTOR)
    y = tl.dot(e, tl.trans(shift), input_precision=PRECISION) + load_vector(shift_bias, step, H)[None, :]
    ALL: tl.constexpr = K % BLOCK_K == 0
    for begin in range(0, K, BLOCK_K):
        hidden = begin + tl.arange(0, BLOCK_K)
        into = load_matrix(in_weight, hidden, frame, K, C, C, ALL and C == BLOCK_C).to(FACTOR)
        modulation = load_matrix(scale_weight, hidden, feature, K, d, d, ALL and WHOLE).to(FACTOR)
        out = load_matrix(out_weight, step, hidden, H, K, K, ALL and H == BLOCK_H).to(FACTOR)
        own = tl.dot(activity, tl.trans(into), input_precision=PRECISION) + load_vector(in_bias, hidden, K)[None, :]
        scale = tl.dot(e, tl.trans(modulation), input_precision=PRECISION) + load_vector(scale_bias, hidden, K)[None, :]
        film = (relu(own) * scale).to(FACTOR)
        y = tl.dot(film, tl.trans(out), y, input_precision=PRECISION)
    where = forecast + row[:, None] * H + step[None, :]
    tl.store(where, y, mask=present[:, None] & (step[None, :] < H))


NAMES = ("x", "unit_index", "window_offsets", "unit_table", "keys", "values", *FilmParameters._fields)


def arguments(inputs: tuple[Any, ...]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The inputs of the op as both directions take them: tensors, and sizes with the blocks that hold them."""
    x, unit_index, window_offsets, unit_table, keys, values, parameters, dropout, seed, eps = inputs
    floating = (unit_table, keys, values, *parameters)
    dtype = common_dtype(floating)
    taken = [dense(tensor, dtype) for tensor in floating]
    offsets = (
        window_offsets.contiguous() if keys.shape[0] else torch.zeros_like(window_offsets)
    )  # of no window: no rows
    given = (dense(x, dtype), unit_index.contiguous(), offsets, *taken)
    tensors = dict(zip(NAMES, given, strict=True))
    tensors["seed_pointer"] = seed
    windows, latents, width = keys.shape
    horizon, context = parameters.shift_weight.shape[0], x.shape[1]
    sizes = {
        "rows": x.shape[0],
        "windows": windows,
        "threshold": round(dropout * 2**32),
        "dropout_scale": 1.0 / (1.0 - dropout),
        "eps": eps,
        "C": context,
        "H": horizon,
        "Q": latents,
        "d": width,
        "F": parameters.ffn_out_weight.shape[1],
        "K": parameters.scale_weight.shape[0],
        "BLOCK_C": launch.block_of(context),
        "BLOCK_H": launch.block_of(horizon),
        "BLOCK_Q": launch.block_of(latents),
        "BLOCK_D": launch.block_of(width),
        "DROPOUT": dropout > 0,
        **launch.products(dtype, width, latents),
    }
    return tensors, sizes


def for_wide(sizes: dict[str, Any]) -> dict[str, Any]:
    """The sizes as the kernels for wide tokens take them: with latents and features in parts, and none but float32."""
    changed: dict[str, Any] = {"PART": 64, "PRECISION": "tf32" if launch.tf32() else "ieee"}
    if "BLOCK_Q" in sizes:
        changed["BLOCK_Q"] = 16
    return {name: size for name, size in sizes.items() if name != "FACTOR"} | changed


def film_forecast(*inputs: Any) -> Tensor:
    """Pass 2 forward; see :func:`poco.ops.film_forecast`."""
    tensors, sizes = arguments(inputs)
    x = tensors["x"]
    forecast = x.new_empty(x.shape[0], sizes["H"])
    if forecast.numel():
        chosen = tile("film_forecast", x, rows=x.shape[0], sizes=sizes)
        grid = (triton.cdiv(x.shape[0], chosen.blocks["BLOCK_R"]),)
        with launch.on(x, sizes):
            if launch.wide(x.dtype, sizes["d"], sizes["Q"]):
                kept = x.new_empty(x.shape[0], sizes["d"])
                blocks = {**for_wide(sizes), **chosen.blocks}
                wide_film_forecast_kernel[grid](**tensors, **blocks, forecast=forecast, kept=kept, **chosen.options)
            else:
                film_forecast_kernel[grid](**tensors, **sizes, forecast=forecast, **chosen.blocks, **chosen.options)
    return forecast.to(inputs[0].dtype)
