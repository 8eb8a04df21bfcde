"""The kernels of pass 2 for wide tokens in float32, of which not even a few rows fit on the chip beside what they meet.

They do what those in ``film_forecast.py`` and ``film_backward_kernels.py`` do, but a product over features takes a part
of these at a time, with its factors from memory, and latents come block after block. What is made of a row on the way
is left in memory for that.
"""

from __future__ import annotations

import triton
import triton.language as tl

from poco.kernels.common import (
    dropout_factor,
    gelu,
    gelu_with_slope,
    load_matrix,
    load_units,
    load_vector,
    relu,
    standardise,
    standardise_backward,
    store_matrix,
    window_of,
)


@triton.jit
def leave(pointer, value, row, feature, rows, d: tl.constexpr):
    """Stores ``value`` where other threads of the program read it next, and may have read something else before."""
    tl.debug_barrier()
    store_matrix(pointer, value, row, feature, rows, d, d)
    tl.debug_barrier()


@triton.jit
def add_matrix(pointer, value, row, column, rows, columns, stride):
    """Adds ``value`` to a matrix that only this program touches."""
    store_matrix(
        pointer,
        load_matrix(pointer, row, column, rows, columns, stride, False) + value,
        row,
        column,
        rows,
        columns,
        stride,
    )
    tl.debug_barrier()


@triton.jit
def across(
    left, right, row, column, rows, columns, total, INNER: tl.constexpr, PART: tl.constexpr, PRECISION: tl.constexpr
):
    """``total`` plus ``left @ right.T`` of some rows of each, both ``INNER`` wide."""
    for begin in range(0, INNER, PART):
        part = begin + tl.arange(0, PART)
        a = load_matrix(left, row, part, rows, INNER, INNER, False)
        b = load_matrix(right, column, part, columns, INNER, INNER, False)
        total = tl.dot(a, tl.trans(b), total, input_precision=PRECISION)
    return total


@triton.jit
def along(
    left, right, row, column, rows, columns, total, INNER: tl.constexpr, PART: tl.constexpr, PRECISION: tl.constexpr
):
    """``total`` plus ``left @ right`` of some rows of the one, ``INNER`` wide, and some columns of the other."""
    for begin in range(0, INNER, PART):
        part = begin + tl.arange(0, PART)
        a = load_matrix(left, row, part, rows, INNER, INNER, False)
        b = load_matrix(right, part, column, INNER, columns, columns, False)
        total = tl.dot(a, b, total, input_precision=PRECISION)
    return total


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
    BLOCK_D: tl.constexpr,
    PART: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """``state`` plus what each row reads from the latents of its window, by the queries that lie at ``query``."""
    window_offsets, windows, keys, values = seen
    end = tl.minimum(first + BLOCK_R, tl.minimum(rows, tl.load(window_offsets + windows)))
    window = window_of(window_offsets, windows, first)
    begin = first
    while begin < end:  # to the last window at most, which ends there
        stop = tl.load(window_offsets + window + 1).to(tl.int64)
        own = window.to(tl.int64) * Q * d
        most = tl.full([BLOCK_R], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK_R], tl.float32)
        read = tl.zeros([BLOCK_R, BLOCK_D], tl.float32)
        for start in range(0, Q, BLOCK_Q):
            latent = start + tl.arange(0, BLOCK_Q)
            score = tl.zeros([BLOCK_R, BLOCK_Q], tl.float32)
            score = across(query, keys + own, row, latent, rows, Q, score, d, PART, PRECISION)
            score = tl.where(latent[None, :] < Q, score, float("-inf"))
            more = tl.maximum(most, tl.max(score, 1))
            share = tl.exp(score - more[:, None])
            before = tl.exp(most - more)
            total = total * before + tl.sum(share, 1)
            value = load_matrix(values + own, latent, feature, Q, d, d, False)
            read = tl.dot(share, value, read * before[:, None], input_precision=PRECISION)
            most = more
        inside = (row >= begin) & (row < stop)
        state = tl.where(inside[:, None], state + read / total[:, None], state)
        begin = tl.maximum(begin, stop)
        window += 1
    return state


@triton.jit
def ffn_hidden(
    kept_normed,
    row,
    rows,
    hidden,
    ffn,
    F: tl.constexpr,
    d: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_F: tl.constexpr,
    PART: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Values and gates of some hidden units of the feed-forward layer."""
    in_weight, in_bias, _out_weight = ffn
    nought = tl.zeros([BLOCK_R, BLOCK_F], tl.float32)
    value = across(kept_normed, in_weight, row, hidden, rows, F, nought, d, PART, PRECISION)
    gate = across(kept_normed, in_weight + F * d, row, hidden, rows, F, nought, d, PART, PRECISION)
    value += load_vector(in_bias, hidden, F)[None, :]
    gate += load_vector(in_bias + F, hidden, F)[None, :]
    return value, gate


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
    kept,
    Q: tl.constexpr,
    d: tl.constexpr,
    F: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_F: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PART: tl.constexpr,
    DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """As that of ``film_forecast.py``, but leaves queries, what the feed-forward layer takes, and ``e`` at ``kept``.

    Those are three places, or one three times. Returns the state after attention standardised, and one over its
    deviation.
    """
    kept_query, kept_normed, kept_e = kept
    unit = load_units(unit_table, unit_index, row, row < rows, feature, d, d == BLOCK_D)
    standard, _inverse_std = standardise(unit, feature, eps, d)
    query = standard * load_vector(query_norm[0], feature, d) + load_vector(query_norm[1], feature, d)
    leave(kept_query, query, row, feature, rows, d)
    state = unit + load_vector(attention_bias, feature, d)[None, :]
    state = attend(state, kept_query, row, first, rows, seen, feature, Q, d, BLOCK_R, BLOCK_Q, BLOCK_D, PART, PRECISION)
    standard, inverse_std = standardise(state, feature, eps, d)
    normed = standard * load_vector(ffn_norm[0], feature, d) + load_vector(ffn_norm[1], feature, d)
    leave(kept_normed, normed, row, feature, rows, d)
    e = state + load_vector(ffn_out_bias, feature, d)[None, :]
    for begin in range(0, F, BLOCK_F):
        hidden = begin + tl.arange(0, BLOCK_F)
        value, gate = ffn_hidden(kept_normed, row, rows, hidden, ffn, F, d, BLOCK_R, BLOCK_F, PART, PRECISION)
        gated = value * gelu(gate)
        if DROPOUT:
            gated *= dropout_factor(drop[0], row, begin, drop[1], drop[2], BLOCK_R, BLOCK_F)
        out_weight = load_matrix(ffn[2], feature, hidden, d, F, F, False)
        e = tl.dot(gated, tl.trans(out_weight), e, input_precision=PRECISION)
    leave(kept_e, e, row, feature, rows, d)
    return standard, inverse_std


@triton.jit(do_not_specialize=["rows", "windows", "threshold"])
def wide_film_forecast_kernel(
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
    kept,  # [R, d] for what is made on the way
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
    PART: tl.constexpr,
    DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Forecasts of one tile of rows."""
    first = tl.program_id(0).to(tl.int64) * BLOCK_R
    row = first + tl.arange(0, BLOCK_R)
    feature = tl.arange(0, BLOCK_D)
    step = tl.arange(0, BLOCK_H)
    embed(
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
        (kept, kept, kept),
        Q,
        d,
        F,
        BLOCK_R,
        BLOCK_F,
        BLOCK_Q,
        BLOCK_D,
        PART,
        DROPOUT,
        PRECISION,
    )
    y = tl.zeros([BLOCK_R, BLOCK_H], tl.float32) + load_vector(shift_bias, step, H)[None, :]
    y = across(kept, shift_weight, row, step, rows, H, y, d, PART, PRECISION)
    for begin in range(0, K, BLOCK_K):
        hidden = begin + tl.arange(0, BLOCK_K)
        nought = tl.zeros([BLOCK_R, BLOCK_K], tl.float32)
        own = across(x, in_weight, row, hidden, rows, K, nought, C, PART, PRECISION)
        scale = across(kept, scale_weight, row, hidden, rows, K, nought, d, PART, PRECISION)
        own += load_vector(in_bias, hidden, K)[None, :]
        scale += load_vector(scale_bias, hidden, K)[None, :]
        out = load_matrix(out_weight, step, hidden, H, K, K, False)
        y = tl.dot(relu(own) * scale, tl.trans(out), y, input_precision=PRECISION)
    store_matrix(forecast, y, row, step, rows, H, H)


@triton.jit
def ffn_hidden_backward(
    kept_normed,
    kept_grad_e,
    row,
    rows,
    begin,
    ffn,
    drop,
    F: tl.constexpr,
    d: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_F: tl.constexpr,
    PART: tl.constexpr,
    DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Of some hidden units of the feed-forward layer: what they gave, and the gradients of values and gates."""
    hidden = begin + tl.arange(0, BLOCK_F)
    value, gate = ffn_hidden(kept_normed, row, rows, hidden, ffn, F, d, BLOCK_R, BLOCK_F, PART, PRECISION)
    grad_gated = tl.zeros([BLOCK_R, BLOCK_F], tl.float32)
    grad_gated = along(kept_grad_e, ffn[2], row, hidden, rows, F, grad_gated, d, PART, PRECISION)
    activated, slope = gelu_with_slope(gate)
    gated = value * activated
    if DROPOUT:
        factor = dropout_factor(drop[0], row, begin, drop[1], drop[2], BLOCK_R, BLOCK_F)
        gated *= factor
        grad_gated *= factor
    return gated, grad_gated * activated, grad_gated * value * slope


@triton.jit(do_not_specialize=["rows", "windows", "threshold"])
def wide_film_rows_kernel(
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
    PART: tl.constexpr,
    DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
    NEEDS_X: tl.constexpr,
):
    """One tile of rows: the gradient of the state after attention, and what the sums over rows need."""
    first = tl.program_id(0).to(tl.int64) * BLOCK_R
    row = first + tl.arange(0, BLOCK_R)
    feature = tl.arange(0, BLOCK_D)
    frame = tl.arange(0, BLOCK_C)
    ffn = (ffn_in_weight, ffn_in_bias, ffn_out_weight)
    drop = (tl.load(seed_pointer) if DROPOUT else 0, threshold, dropout_scale)
    standard, inverse_std = embed(
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
        (grad_state, kept_normed, kept_e),
        Q,
        d,
        F,
        BLOCK_R,
        BLOCK_F,
        BLOCK_Q,
        BLOCK_D,
        PART,
        DROPOUT,
        PRECISION,
    )
    grad_e = tl.zeros([BLOCK_R, BLOCK_D], tl.float32)
    grad_e = along(grad, shift_weight, row, feature, rows, d, grad_e, H, 16, PRECISION)
    of_x = tl.zeros([BLOCK_R, BLOCK_C], tl.float32)
    for begin in range(0, K, BLOCK_K):
        hidden = begin + tl.arange(0, BLOCK_K)
        nought = tl.zeros([BLOCK_R, BLOCK_K], tl.float32)
        own = across(x, in_weight, row, hidden, rows, K, nought, C, PART, PRECISION)
        own += load_vector(in_bias, hidden, K)[None, :]
        grad_film = along(grad, out_weight, row, hidden, rows, K, nought, H, 16, PRECISION)
        if NEEDS_X:
            scale = across(kept_e, scale_weight, row, hidden, rows, K, nought, d, PART, PRECISION)
            scale += load_vector(scale_bias, hidden, K)[None, :]
            into = load_matrix(in_weight, hidden, frame, K, C, C, False)
            grad_own = tl.where(own <= 0, 0.0, grad_film * scale)
            of_x = tl.dot(grad_own, into, of_x, input_precision=PRECISION)
        modulation = load_matrix(scale_weight, hidden, feature, K, d, d, False)
        grad_e = tl.dot(grad_film * relu(own), modulation, grad_e, input_precision=PRECISION)
    if NEEDS_X:
        store_matrix(grad_x, of_x, row, frame, rows, C, C)

    leave(kept_grad_e, grad_e, row, feature, rows, d)
    grad_normed = tl.zeros([BLOCK_R, BLOCK_D], tl.float32)
    for begin in range(0, F, BLOCK_F):
        hidden = begin + tl.arange(0, BLOCK_F)
        _gated, grad_value, grad_gate = ffn_hidden_backward(
            kept_normed,
            kept_grad_e,
            row,
            rows,
            begin,
            ffn,
            drop,
            F,
            d,
            BLOCK_R,
            BLOCK_F,
            PART,
            DROPOUT,
            PRECISION,
        )
        value_weight = load_matrix(ffn_in_weight, hidden, feature, F, d, d, False)
        grad_normed = tl.dot(grad_value, value_weight, grad_normed, input_precision=PRECISION)
        gate_weight = load_matrix(ffn_in_weight + F * d, hidden, feature, F, d, d, False)
        grad_normed = tl.dot(grad_gate, gate_weight, grad_normed, input_precision=PRECISION)
    grad_normed = tl.where((row < rows)[:, None], grad_normed, 0.0)
    where = part_norm + tl.program_id(0).to(tl.int64) * 2 * d + feature
    tl.store(where, tl.sum(grad_normed * standard, 0), mask=feature < d)
    tl.store(where + d, tl.sum(grad_normed, 0), mask=feature < d)
    norm_weight = load_vector(ffn_norm_weight, feature, d)
    back = grad_e + standardise_backward(grad_normed * norm_weight[None, :], standard, inverse_std, feature, d)
    store_matrix(grad_state, back, row, feature, rows, d, d)


@triton.jit(do_not_specialize=["rows", "parts", "threshold"])
def wide_film_ffn_kernel(
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
    PART: tl.constexpr,
    DROPOUT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradients of the weights of some hidden units of the feed-forward, over one part of the rows."""
    part = tl.program_id(0) % parts
    begin = tl.program_id(0) // parts * BLOCK_F
    hidden = begin + tl.arange(0, BLOCK_F)
    feature = tl.arange(0, BLOCK_D)
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
        gated, grad_value, grad_gate = ffn_hidden_backward(
            kept_normed,
            kept_grad_e,
            row,
            rows,
            begin,
            ffn,
            drop,
            F,
            d,
            BLOCK_R,
            BLOCK_F,
            PART,
            DROPOUT,
            PRECISION,
        )
        bias_value += tl.sum(grad_value, 0)
        bias_gate += tl.sum(grad_gate, 0)
        normed = load_matrix(kept_normed, row, feature, rows, d, d, False)
        sum_value = tl.dot(tl.trans(grad_value), normed, sum_value, input_precision=PRECISION)
        sum_gate = tl.dot(tl.trans(grad_gate), normed, sum_gate, input_precision=PRECISION)
        grad_e = load_matrix(kept_grad_e, row, feature, rows, d, d, False)  # 0 behind the last row
        sum_out = tl.dot(tl.trans(gated), grad_e, sum_out, input_precision=PRECISION)
    into = part_in_weight + part.to(tl.int64) * 2 * F * d
    store_matrix(into, sum_value, hidden, feature, F, d, d)
    store_matrix(into + F * d, sum_gate, hidden, feature, F, d, d)
    store_matrix(part_out_weight + part.to(tl.int64) * d * F, tl.trans(sum_out), feature, hidden, d, F, F)
    tl.store(part_in_bias + part * 2 * F + hidden, bias_value, mask=hidden < F)
    tl.store(part_in_bias + part * 2 * F + F + hidden, bias_gate, mask=hidden < F)


@triton.jit(do_not_specialize=["parts"])
def wide_film_latents_kernel(
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
    kept_query,  # [R, d]
    part_keys,  # [W, parts, Q, d], 0 to begin with, as the next two
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
    PART: tl.constexpr,
    PRECISION: tl.constexpr,
    NEEDS_WEIGHTS: tl.constexpr,
):
    """Back through the attention to the latents of one window, over one part of its rows; and small sums over rows."""
    part = tl.program_id(0) % parts
    window = tl.program_id(0) // parts
    feature = tl.arange(0, BLOCK_D)
    own = window.to(tl.int64) * Q * d
    place = (window * parts + part).to(tl.int64)
    norm_weight = load_vector(query_norm_weight, feature, d)
    norm_bias = load_vector(query_norm_bias, feature, d)

    start = tl.load(window_offsets + window).to(tl.int64)
    stop = tl.load(window_offsets + window + 1).to(tl.int64)
    length = tl.cdiv(tl.cdiv(stop - start, BLOCK_R), parts) * BLOCK_R
    first = start + part * length
    stop = tl.minimum(stop, first + length)

    every = tl.arange(0, BLOCK_H)
    sum_shift_bias = tl.zeros([BLOCK_H], tl.float32)
    sum_state = tl.zeros([BLOCK_D], tl.float32)
    sum_weight = tl.zeros([BLOCK_D], tl.float32)
    sum_bias = tl.zeros([BLOCK_D], tl.float32)
    sum_e = tl.zeros([BLOCK_D], tl.float32)
    for begin in range(first, stop, BLOCK_R):
        row = begin + tl.arange(0, BLOCK_R)
        present = row < stop
        unit = load_units(unit_table, unit_index, row, present, feature, d, d == BLOCK_D)
        standard, inverse_std = standardise(unit, feature, eps, d)
        query = standard * norm_weight[None, :] + norm_bias[None, :]
        leave(kept_query, query, row, feature, stop, d)
        nought = tl.zeros([BLOCK_R, BLOCK_Q], tl.float32)
        most = tl.full([BLOCK_R], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK_R], tl.float32)
        less = tl.zeros([BLOCK_R], tl.float32)  # what the softmax takes off the gradients of its shares
        for block in range(0, Q, BLOCK_Q):
            latent = block + tl.arange(0, BLOCK_Q)
            score = across(kept_query, keys + own, row, latent, stop, Q, nought, d, PART, PRECISION)
            score = tl.where(latent[None, :] < Q, score, float("-inf"))
            grad_share = across(grad_state, values + own, row, latent, stop, Q, nought, d, PART, PRECISION)
            more = tl.maximum(most, tl.max(score, 1))
            share = tl.exp(score - more[:, None])
            before = tl.exp(most - more)
            total = total * before + tl.sum(share, 1)
            less = less * before + tl.sum(share * grad_share, 1)
            most = more
        less = less / total
        grad_query = tl.zeros([BLOCK_R, BLOCK_D], tl.float32)
        for block in range(0, Q, BLOCK_Q):
            latent = block + tl.arange(0, BLOCK_Q)
            score = across(kept_query, keys + own, row, latent, stop, Q, nought, d, PART, PRECISION)
            score = tl.where(latent[None, :] < Q, score, float("-inf"))
            grad_share = across(grad_state, values + own, row, latent, stop, Q, nought, d, PART, PRECISION)
            share = tl.exp(score - most[:, None]) / total[:, None]
            share = tl.where(present[:, None], share, 0.0)
            grad_score = share * (grad_share - less[:, None])
            back = load_matrix(grad_state, row, feature, stop, d, d, False)
            of_values = tl.dot(tl.trans(share), back, input_precision=PRECISION)
            add_matrix(part_values + place * Q * d, of_values, latent, feature, Q, d, d)
            asked = load_matrix(kept_query, row, feature, stop, d, d, False)
            of_keys = tl.dot(tl.trans(grad_score), asked, input_precision=PRECISION)
            add_matrix(part_keys + place * Q * d, of_keys, latent, feature, Q, d, d)
            key = load_matrix(keys + own, latent, feature, Q, d, d, False)
            grad_query = tl.dot(grad_score, key, grad_query, input_precision=PRECISION)
        to_unit = standardise_backward(grad_query * norm_weight[None, :], standard, inverse_std, feature, d)
        back = load_matrix(grad_state, row, feature, stop, d, d, False)
        leave(grad_state, back + to_unit, row, feature, stop, d)
        if NEEDS_WEIGHTS:
            sum_state += tl.sum(back, 0)
            sum_weight += tl.sum(grad_query * standard, 0)
            sum_bias += tl.sum(grad_query, 0)
            sum_e += tl.sum(load_matrix(kept_grad_e, row, feature, stop, d, d, False), 0)
            sum_shift_bias += tl.sum(load_matrix(grad, row, every, stop, H, H, False), 0)
            for block in range(0, H, 16):
                step = block + tl.arange(0, 16)
                grad_y = load_matrix(grad, row, step, stop, H, H, False)
                e = load_matrix(kept_e, row, feature, stop, d, d, False)
                of_shift = tl.dot(tl.trans(grad_y), e, input_precision=PRECISION)
                add_matrix(part_shift_weight + place * H * d, of_shift, step, feature, H, d, d)
    if NEEDS_WEIGHTS:
        tl.store(part_shift_bias + place * H + every, sum_shift_bias, mask=every < H)
        vectors = part_vectors + place * 4 * d + feature
        tl.store(vectors, sum_state, mask=feature < d)
        tl.store(vectors + d, sum_weight, mask=feature < d)
        tl.store(vectors + 2 * d, sum_bias, mask=feature < d)
        tl.store(vectors + 3 * d, sum_e, mask=feature < d)
