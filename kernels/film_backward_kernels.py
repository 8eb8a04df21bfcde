"""The kernels of pass 2 backward, which recompute what they need; ``film_forecast_backward.py`` calls them.

``rows`` takes a tile of rows all the way back to the state after attention; ``ffn`` and ``film`` hold some hidden units
still and sum the gradients of their weights over the rows; ``latents`` goes back through the attention, a part of a
window at a time.
"""

from __future__ import annotations

import triton
import triton.language as tl

from poco.kernels.common import (
    dropout_factor,
    gelu_with_slope,
    load_matrix,
    load_units,
    load_vector,
    relu,
    standardise,
    standardise_backward,
    store_matrix,
)
from poco.kernels.film_forecast import embed, ffn_hidden


@triton.jit
def ffn_hidden_backward(
    normed,
    grad_e,
    row,
    begin,
    column,
    ffn,
    drop,
    feature,
    F: tl.constexpr,
    d: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_F: tl.constexpr,
    WHOLE: tl.constexpr,
    DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Of some hidden units: what they gave, the gradients of values and gates, and the weights they came by.

    Their random words begin at ``column``, a multiple of 4. ``ffn`` and ``drop`` as
    :func:`poco.kernels.film_forecast.embed` takes them.
    """
    hidden = begin + tl.arange(0, BLOCK_F)
    value, gate, value_weight, gate_weight = ffn_hidden(normed, hidden, ffn, feature, F, d, WHOLE, PRECISION)
    out_weight = load_matrix(ffn[2], feature, hidden, d, F, F, WHOLE).to(normed.dtype)
    grad_gated = tl.dot(grad_e, out_weight, input_precision=PRECISION)
    activated, slope = gelu_with_slope(gate)
    gated = value * activated
    if DROPOUT:
        factor = dropout_factor(drop[0], row, column, drop[1], drop[2], BLOCK_R, BLOCK_F)
        gated *= factor
        grad_gated *= factor
    grad_value = grad_gated * activated
    grad_gate = grad_gated * value * slope
    return gated, grad_value, grad_gate, value_weight, gate_weight


@triton.jit(do_not_specialize=["rows", "windows", "threshold"])
def film_backward_rows_kernel(
    grad,
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
    in_weight,
    in_bias,
    out_weight,
    seed_pointer,
    kept_normed,
    kept_e,
    kept_grad_e,
    grad_state,
    grad_x,
    part_norm,  # [tiles, 2, d]: gradients of the feed-forward's norm
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
    NEEDS_X: tl.constexpr,
    NEEDS_WEIGHTS: tl.constexpr,
):
    """One tile of rows: the gradient of the state after attention, and what the sums over rows need."""
    first = tl.program_id(0).to(tl.int64) * BLOCK_R
    row = first + tl.arange(0, BLOCK_R)
    present = row < rows
    WHOLE: tl.constexpr = d == BLOCK_D
    feature = tl.arange(0, BLOCK_D)
    frame = tl.arange(0, BLOCK_C)
    step = tl.arange(0, BLOCK_H)

    ffn = (ffn_in_weight, ffn_in_bias, ffn_out_weight)
    drop = (tl.load(seed_pointer) if DROPOUT else 0, threshold, dropout_scale)
    e, normed, standard, inverse_std = embed(
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
        ffn,
        ffn_out_bias,
        drop,
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
    norm_weight = load_vector(ffn_norm_weight, feature, d)

    activity = load_matrix(x, row, frame, rows, C, C, False).to(FACTOR)
    grad_y = load_matrix(grad, row, step, rows, H, H, False).to(FACTOR)
    shift = load_matrix(shift_weight, step, feature, H, d, d, WHOLE and H == BLOCK_H).to(FACTOR)
    grad_e = tl.dot(grad_y, shift, input_precision=PRECISION)
    of_x = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    ALL: tl.constexpr = K % BLOCK_K == 0
    for begin in range(0, K, BLOCK_K):
        hidden = begin + tl.arange(0, BLOCK_K)
        into = load_matrix(in_weight, hidden, frame, K, C, C, ALL and C == BLOCK_C).to(FACTOR)
        modulation = load_matrix(scale_weight, hidden, feature, K, d, d, ALL and WHOLE).to(FACTOR)
        out = load_matrix(out_weight, step, hidden, H, K, K, ALL and H == BLOCK_H).to(FACTOR)
        own = tl.dot(activity, tl.trans(into), input_precision=PRECISION) + load_vector(in_bias, hidden, K)[None, :]
        grad_film = tl.dot(grad_y, out, input_precision=PRECISION)
        grad_scale = (grad_film * relu(own)).to(FACTOR)
        grad_e = tl.dot(grad_scale, modulation, grad_e, input_precision=PRECISION)
        if NEEDS_X:
            scale = tl.dot(e, tl.trans(modulation), input_precision=PRECISION)
            scale += load_vector(scale_bias, hidden, K)[None, :]
            grad_own = tl.where(own <= 0, 0.0, grad_film * scale).to(FACTOR)
            of_x = tl.dot(grad_own, into, of_x, input_precision=PRECISION)
    if NEEDS_X:
        store_matrix(grad_x, of_x, row, frame, rows, C, C)

    through = grad_e.to(FACTOR)
    if NEEDS_WEIGHTS:
        store_matrix(kept_normed, normed, row, feature, rows, d, d)
        store_matrix(kept_e, e, row, feature, rows, d, d)
        store_matrix(kept_grad_e, through, row, feature, rows, d, d)
    grad_normed = tl.zeros([BLOCK_R, BLOCK_D], tl.float32)
    for begin in tl.range(0, F, BLOCK_F, disable_licm=True):
        _gated, grad_value, grad_gate, value_weight, gate_weight = ffn_hidden_backward(
            normed,
            through,
            row,
            begin,
            begin,
            ffn,
            drop,
            feature,
            F,
            d,
            BLOCK_R,
            BLOCK_F,
            WHOLE and F % BLOCK_F == 0,
            DROPOUT,
            PRECISION,
        )
        grad_normed = tl.dot(grad_value.to(FACTOR), value_weight, grad_normed, input_precision=PRECISION)
        grad_normed = tl.dot(grad_gate.to(FACTOR), gate_weight, grad_normed, input_precision=PRECISION)
    grad_normed = tl.where(present[:, None], grad_normed, 0.0)
    if NEEDS_WEIGHTS:
        where = part_norm + tl.program_id(0).to(tl.int64) * 2 * d + feature
        tl.store(where, tl.sum(grad_normed * standard, 0), mask=feature < d)
        tl.store(where + d, tl.sum(grad_normed, 0), mask=feature < d)
    back = grad_e + standardise_backward(grad_normed * norm_weight[None, :], standard, inverse_std, feature, d)
    store_matrix(grad_state, back, row, feature, rows, d, d)


@triton.jit(do_not_specialize=["rows", "parts", "threshold"])
def film_backward_ffn_kernel(
    kept_normed,
    kept_grad_e,
    ffn_in_weight,
    ffn_in_bias,
    ffn_out_weight,
    seed_pointer,
    part_in_weight,  # [parts, 2F, d]
    part_in_bias,  # [parts, 2F]
    part_out_weight,  # [parts, d, F]
    rows,
    parts,
    threshold,
    dropout_scale,
    d: tl.constexpr,
    F: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_D: tl.constexpr,
    DROPOUT: tl.constexpr,
    FACTOR: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradients of the weights of some hidden units of the feed-forward, over one part of the rows."""
    part = tl.program_id(0) % parts
    begin = tl.program_id(0) // parts * BLOCK_F
    hidden = begin + tl.arange(0, BLOCK_F)
    feature = tl.arange(0, BLOCK_D)
    WHOLE: tl.constexpr = d == BLOCK_D and F % BLOCK_F == 0
    ffn = (ffn_in_weight, ffn_in_bias, ffn_out_weight)
    drop = (tl.load(seed_pointer) if DROPOUT else 0, threshold, dropout_scale)
    length = tl.cdiv(tl.cdiv(rows, BLOCK_R), parts) * BLOCK_R
    sum_value = tl.zeros([BLOCK_F, BLOCK_D], tl.float32)
    sum_gate = tl.zeros([BLOCK_F, BLOCK_D], tl.float32)
    sum_out = tl.zeros([BLOCK_F, BLOCK_D], tl.float32)
    bias_value = tl.zeros([BLOCK_F], tl.float32)
    bias_gate = tl.zeros([BLOCK_F], tl.float32)
    for first in range(part * length, tl.minimum(rows, (part + 1) * length), BLOCK_R):
        row = first + tl.arange(0, BLOCK_R).to(tl.int64)
        normed = load_matrix(kept_normed, row, feature, rows, d, d, False).to(FACTOR)
        grad_e = load_matrix(kept_grad_e, row, feature, rows, d, d, False).to(FACTOR)  # 0 behind the last row
        gated, grad_value, grad_gate, _value_weight, _gate_weight = ffn_hidden_backward(
            normed,
            grad_e,
            row,
            begin,
            begin,
            ffn,
            drop,
            feature,
            F,
            d,
            BLOCK_R,
            BLOCK_F,
            WHOLE,
            DROPOUT,
            PRECISION,
        )
        bias_value += tl.sum(grad_value, 0)
        bias_gate += tl.sum(grad_gate, 0)
        sum_value = tl.dot(tl.trans(grad_value.to(FACTOR)), normed, sum_value, input_precision=PRECISION)
        sum_gate = tl.dot(tl.trans(grad_gate.to(FACTOR)), normed, sum_gate, input_precision=PRECISION)
        sum_out = tl.dot(tl.trans(gated.to(FACTOR)), grad_e, sum_out, input_precision=PRECISION)
    into = part_in_weight + part.to(tl.int64) * 2 * F * d
    store_matrix(into, sum_value, hidden, feature, F, d, d)
    store_matrix(into + F * d, sum_gate, hidden, feature, F, d, d)
    store_matrix(part_out_weight + part.to(tl.int64) * d * F, tl.trans(sum_out), feature, hidden, d, F, F)
    tl.store(part_in_bias + part * 2 * F + hidden, bias_value, mask=hidden < F)
    tl.store(part_in_bias + part * 2 * F + F + hidden, bias_gate, mask=hidden < F)


@triton.jit(do_not_specialize=["rows", "parts"])
def film_backward_film_kernel(
    grad,
    x,
    kept_e,
    scale_weight,
    scale_bias,
    in_weight,
    in_bias,
    out_weight,
    part_scale_weight,  # [parts, K, d]
    part_in_weight,  # [parts, K, C]
    part_out_weight,  # [parts, H, K]
    part_bias,  # [parts, 2, K]: of scale and in
    rows,
    parts,
    C: tl.constexpr,
    H: tl.constexpr,
    d: tl.constexpr,
    K: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_D: tl.constexpr,
    FACTOR: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradients of the weights of some hidden units of the MLP, over one part of the rows."""
    part = tl.program_id(0) % parts
    hidden = tl.program_id(0) // parts * BLOCK_K + tl.arange(0, BLOCK_K)
    feature = tl.arange(0, BLOCK_D)
    frame = tl.arange(0, BLOCK_C)
    step = tl.arange(0, BLOCK_H)
    ALL: tl.constexpr = K % BLOCK_K == 0
    into = load_matrix(in_weight, hidden, frame, K, C, C, ALL and C == BLOCK_C).to(FACTOR)
    modulation = load_matrix(scale_weight, hidden, feature, K, d, d, ALL and d == BLOCK_D).to(FACTOR)
    out = load_matrix(out_weight, step, hidden, H, K, K, ALL and H == BLOCK_H).to(FACTOR)
    bias_in = load_vector(in_bias, hidden, K)
    bias_scale = load_vector(scale_bias, hidden, K)
    length = tl.cdiv(tl.cdiv(rows, BLOCK_R), parts) * BLOCK_R
    sum_scale = tl.zeros([BLOCK_K, BLOCK_D], tl.float32)
    sum_in = tl.zeros([BLOCK_K, BLOCK_C], tl.float32)
    sum_out = tl.zeros([BLOCK_K, BLOCK_H], tl.float32)
    sum_bias_scale = tl.zeros([BLOCK_K], tl.float32)
    sum_bias_in = tl.zeros([BLOCK_K], tl.float32)
    for first in tl.range(part * length, tl.minimum(rows, (part + 1) * length), BLOCK_R, disable_licm=True):
        row = first + tl.arange(0, BLOCK_R).to(tl.int64)
        activity = load_matrix(x, row, frame, rows, C, C, False).to(FACTOR)
        e = load_matrix(kept_e, row, feature, rows, d, d, False).to(FACTOR)
        grad_y = load_matrix(grad, row, step, rows, H, H, False).to(FACTOR)  # 0 behind the last row
        own = tl.dot(activity, tl.trans(into), input_precision=PRECISION) + bias_in[None, :]
        scale = tl.dot(e, tl.trans(modulation), input_precision=PRECISION) + bias_scale[None, :]
        grad_film = tl.dot(grad_y, out, input_precision=PRECISION)
        positive = relu(own)
        grad_scale = grad_film * positive
        grad_own = tl.where(own <= 0, 0.0, grad_film * scale)
        sum_bias_scale += tl.sum(grad_scale, 0)
        sum_bias_in += tl.sum(grad_own, 0)
        sum_scale = tl.dot(tl.trans(grad_scale.to(FACTOR)), e, sum_scale, input_precision=PRECISION)
        sum_in = tl.dot(tl.trans(grad_own.to(FACTOR)), activity, sum_in, input_precision=PRECISION)
        sum_out = tl.dot(tl.trans((positive * scale).to(FACTOR)), grad_y, sum_out, input_precision=PRECISION)
    place = part.to(tl.int64) * K
    store_matrix(part_scale_weight + place * d, sum_scale, hidden, feature, K, d, d)
    store_matrix(part_in_weight + place * C, sum_in, hidden, frame, K, C, C)
    store_matrix(part_out_weight + place * H, tl.trans(sum_out), step, hidden, H, K, K)
    tl.store(part_bias + place * 2 + hidden, sum_bias_scale, mask=hidden < K)
    tl.store(part_bias + place * 2 + K + hidden, sum_bias_in, mask=hidden < K)


@triton.jit(do_not_specialize=["parts"])
def film_backward_latents_kernel(
    grad,
    unit_index,
    window_offsets,
    unit_table,
    keys,
    values,
    query_norm_weight,
    query_norm_bias,
    kept_e,
    kept_grad_e,
    grad_state,  # becomes the gradient of each row's embedding
    part_keys,  # [W, parts, Q, d]
    part_values,
    part_shift_weight,  # [W, parts, H, d]
    part_vectors,  # [W, parts, 4, d]: attention bias, query norm's weight and bias, feed-forward's output bias
    part_shift_bias,  # [W, parts, H]
    eps,
    parts,
    H: tl.constexpr,
    Q: tl.constexpr,
    d: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_D: tl.constexpr,
    FACTOR: tl.constexpr,
    PRECISION: tl.constexpr,
    NEEDS_WEIGHTS: tl.constexpr,
):
    """Back through the attention to the latents of one window, over one part of its rows; and small sums over rows."""
    part = tl.program_id(0) % parts
    window = tl.program_id(0) // parts
    WHOLE: tl.constexpr = d == BLOCK_D
    feature = tl.arange(0, BLOCK_D)
    latent = tl.arange(0, BLOCK_Q)
    step = tl.arange(0, BLOCK_H)
    own = window.to(tl.int64) * Q * d
    # Many keys and values of wide tokens do not fit on the chip side by side, so those are loaded for each use.
    AGAIN: tl.constexpr = BLOCK_Q * BLOCK_D > 8192
    if not AGAIN:
        key = load_matrix(keys + own, latent, feature, Q, d, d, WHOLE and Q == BLOCK_Q).to(FACTOR)
        value = load_matrix(values + own, latent, feature, Q, d, d, WHOLE and Q == BLOCK_Q).to(FACTOR)
    norm_weight = load_vector(query_norm_weight, feature, d)
    norm_bias = load_vector(query_norm_bias, feature, d)

    start = tl.load(window_offsets + window).to(tl.int64)
    stop = tl.load(window_offsets + window + 1).to(tl.int64)
    length = tl.cdiv(tl.cdiv(stop - start, BLOCK_R), parts) * BLOCK_R
    first = start + part * length
    stop = tl.minimum(stop, first + length)

    sum_key = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
    sum_value = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
    sum_shift = tl.zeros([BLOCK_H, BLOCK_D], tl.float32)
    sum_shift_bias = tl.zeros([BLOCK_H], tl.float32)
    sum_state = tl.zeros([BLOCK_D], tl.float32)
    sum_weight = tl.zeros([BLOCK_D], tl.float32)
    sum_bias = tl.zeros([BLOCK_D], tl.float32)
    sum_e = tl.zeros([BLOCK_D], tl.float32)
    for begin in tl.range(first, stop, BLOCK_R, disable_licm=True):
        row = begin + tl.arange(0, BLOCK_R)
        present = row < stop
        unit = load_units(unit_table, unit_index, row, present, feature, d, WHOLE)
        standard, inverse_std = standardise(unit, feature, eps, d)
        query = (standard * norm_weight[None, :] + norm_bias[None, :]).to(FACTOR)
        if AGAIN:
            key = load_matrix(keys + own, latent, feature, Q, d, d, WHOLE and Q == BLOCK_Q).to(FACTOR)
            value = load_matrix(values + own, latent, feature, Q, d, d, WHOLE and Q == BLOCK_Q).to(FACTOR)
        score = tl.dot(query, tl.trans(key), input_precision=PRECISION)
        score = tl.where(latent[None, :] < Q, score, float("-inf"))
        share = tl.exp(score - tl.max(score, 1)[:, None])
        share = share / tl.sum(share, 1)[:, None]
        share = tl.where(present[:, None], share, 0.0)
        where = grad_state + row[:, None] * d + feature[None, :]
        mask = present[:, None] & (feature[None, :] < d)
        back = tl.load(where, mask=mask, other=0.0).to(tl.float32)
        grad_share = tl.dot(back.to(FACTOR), tl.trans(value), input_precision=PRECISION)
        grad_score = share * (grad_share - tl.sum(share * grad_share, 1)[:, None])
        sum_value = tl.dot(tl.trans(share.to(FACTOR)), back.to(FACTOR), sum_value, input_precision=PRECISION)
        sum_key = tl.dot(tl.trans(grad_score.to(FACTOR)), query, sum_key, input_precision=PRECISION)
        grad_query = tl.dot(grad_score.to(FACTOR), key, input_precision=PRECISION)
        to_unit = standardise_backward(grad_query * norm_weight[None, :], standard, inverse_std, feature, d)
        tl.store(where, back + to_unit, mask=mask)
        if NEEDS_WEIGHTS:
            sum_state += tl.sum(back, 0)
            sum_weight += tl.sum(grad_query * standard, 0)
            sum_bias += tl.sum(grad_query, 0)
            in_part = row[:, None] * d + feature[None, :]
            e = tl.load(kept_e + in_part, mask=mask, other=0.0).to(FACTOR)
            sum_e += tl.sum(tl.load(kept_grad_e + in_part, mask=mask, other=0.0).to(tl.float32), 0)
            of_step = row[:, None] * H + step[None, :]
            grad_y = tl.load(grad + of_step, mask=present[:, None] & (step[None, :] < H), other=0.0)
            sum_shift = tl.dot(tl.trans(grad_y.to(FACTOR)), e, sum_shift, input_precision=PRECISION)
            sum_shift_bias += tl.sum(grad_y.to(tl.float32), 0)
    place = (window * parts + part).to(tl.int64)
    store_matrix(part_keys + place * Q * d, sum_key, latent, feature, Q, d, d)
    store_matrix(part_values + place * Q * d, sum_value, latent, feature, Q, d, d)
    if NEEDS_WEIGHTS:
        store_matrix(part_shift_weight + place * H * d, sum_shift, step, feature, H, d, d)
        tl.store(part_shift_bias + place * H + step, sum_shift_bias, mask=step < H)
        vectors = part_vectors + place * 4 * d + feature
        tl.store(vectors, sum_state, mask=feature < d)
        tl.store(vectors + d, sum_weight, mask=feature < d)
        tl.store(vectors + 2 * d, sum_bias, mask=feature < d)
        tl.store(vectors + 3 * d, sum_e, mask=feature < d)
