"""Kernels of the way back between the passes.

As in ``latents_kernels.py`` programs take some hidden units or a head of one window. Each leaves a part of the gradient
of what it took, which is normalised latents; the next launch, of the branch before, adds the parts up and goes back
through the norm. What the gradients of weights are products of is stored. Gradients of vectors are summed over a
window's latents.
"""

# Triton reads these functions from their source: what they take are blocks, and annotations mean compile-time numbers.

from __future__ import annotations

import triton
import triton.language as tl

from poco.kernels.common import (
    dropout_factor,
    load_matrix,
    load_vector,
    product,
    standardise,
    standardise_backward,
    store_matrix,
)
from poco.kernels.film_backward_kernels import ffn_hidden_backward
from poco.kernels.latents_kernels import attend, normalise, rotate


@triton.jit
def normed_of(z, weight, bias, window, latent, feature, eps, Q: tl.constexpr, d: tl.constexpr):
    """The latents of a window, normalised; 0 where there are none."""
    own = load_matrix(z + window * Q * d, latent, feature, Q, d, d, False)
    return tl.where(latent[:, None] < Q, normalise(own, weight, bias, feature, eps, d), 0.0)


@triton.jit
def gather_back(
    behind,
    window,
    latent,
    feature,
    eps,
    Q: tl.constexpr,
    d: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_D: tl.constexpr,
    LAST: tl.constexpr,
):
    """The gradient of a window's latents, and what that of the norm behind them is made of.

    ``behind``: the latents, the weight of the norm behind them, the gradient that comes past it (none to the ``LAST``
    ones) and, in so many parts, that of what the norm gave.
    """
    of_normed = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
    for part in range(behind[4]):
        of_normed += load_matrix(behind[3] + (window * behind[4] + part) * Q * d, latent, feature, Q, d, d, False)
    z = load_matrix(behind[0] + window * Q * d, latent, feature, Q, d, d, False)
    standard, inverse_std = standardise(z, feature, eps, d)
    weight = load_vector(behind[1], feature, d)
    grad = standardise_backward(of_normed * weight[None, :], standard, inverse_std, feature, d)
    if not LAST:
        grad += load_matrix(behind[2] + window * Q * d, latent, feature, Q, d, d, False)
    return tl.where(latent[:, None] < Q, grad, 0.0), of_normed, standard


@triton.jit
def store_vectors(vectors, of_normed, standard, bias, feature, d: tl.constexpr):
    """Sums over a window's latents: the gradients of a norm's weight and bias, and of a bias."""
    mask = feature < d
    tl.store(vectors + feature, tl.sum(of_normed * standard, 0), mask=mask)
    tl.store(vectors + d + feature, tl.sum(of_normed, 0), mask=mask)
    tl.store(vectors + 2 * d + feature, tl.sum(bias, 0), mask=mask)


@triton.jit
def latent_write_backward_kernel(
    z,
    norm_weight,
    norm_bias,
    key_weight,
    value_weight,
    query_weight,
    output_weight,
    along,  # [Q, DH]
    across,
    grad_keys,
    grad_values,
    kept_normed,  # [W, Q, d]
    kept_heads,  # [W, Q, 2, DH]: turned and scaled keys, and values, as they are before they leave their head
    kept_grad_heads,  # [W, Q, 2, DH]: gradients of keys before they turn, and of values
    new_parts,  # [W, 2, Q, d]
    eps,
    scale,
    Q: tl.constexpr,
    d: tl.constexpr,
    DH: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_H: tl.constexpr,
    FACTOR: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """From keys (even programs) or values (odd ones) of pass 2 back to the normalised latents."""
    window = (tl.program_id(0) // 2).to(tl.int64)
    half = tl.program_id(0) % 2
    latent = tl.arange(0, BLOCK_Q)
    feature = tl.arange(0, BLOCK_D)
    channel = tl.arange(0, BLOCK_H)
    normed = normed_of(z, norm_weight, norm_bias, window, latent, feature, eps, Q, d)
    heads = kept_heads + (window * Q * 2 + half) * DH
    grad_heads = kept_grad_heads + (window * Q * 2 + half) * DH
    if half == 0:
        store_matrix(kept_normed + window * Q * d, normed, latent, feature, Q, d, d)
        into_key = load_matrix(key_weight, channel, feature, DH, d, d, False).to(FACTOR)
        turned = product(normed.to(FACTOR), tl.trans(into_key), PRECISION)
        turned = rotate(turned, (along, across), latent, 1.0, Q, DH, BLOCK_Q, BLOCK_H) * scale
        store_matrix(heads, turned, latent, channel, Q, DH, 2 * DH)
        grad = load_matrix(grad_keys + window * Q * d, latent, feature, Q, d, d, False).to(FACTOR)
        out_of_query = load_matrix(query_weight, channel, feature, DH, d, d, False).to(FACTOR)
        grad_turned = product(grad, tl.trans(out_of_query), PRECISION) * scale
        grad_key = rotate(grad_turned, (along, across), latent, -1.0, Q, DH, BLOCK_Q, BLOCK_H)
        store_matrix(grad_heads, grad_key, latent, channel, Q, DH, 2 * DH)
        into_key = load_matrix(key_weight, channel, feature, DH, d, d, False).to(FACTOR)  # again, to hold less
        part = product(grad_key.to(FACTOR), into_key, PRECISION)
    else:
        into_value = load_matrix(value_weight, channel, feature, DH, d, d, False).to(FACTOR)
        narrow = product(normed.to(FACTOR), tl.trans(into_value), PRECISION)
        store_matrix(heads, narrow, latent, channel, Q, DH, 2 * DH)
        grad = load_matrix(grad_values + window * Q * d, latent, feature, Q, d, d, False).to(FACTOR)
        out = load_matrix(output_weight, feature, channel, d, DH, DH, False).to(FACTOR)
        grad_narrow = product(grad, out, PRECISION)
        store_matrix(grad_heads, grad_narrow, latent, channel, Q, DH, 2 * DH)
        into_value = load_matrix(value_weight, channel, feature, DH, d, d, False).to(FACTOR)
        part = product(grad_narrow.to(FACTOR), into_value, PRECISION)
    store_matrix(new_parts + (window * 2 + half) * Q * d, part, latent, feature, Q, d, d)


@triton.jit(do_not_specialize=["count", "column", "threshold", "ffn_column", "ffn_threshold", "vectors_stride"])
def latent_ffn_backward_kernel(
    z,
    norm_weight,
    norm_bias,
    in_weight,
    in_bias,
    out_weight,
    behind_z,
    behind_weight,
    behind_grad,
    parts,
    count,
    new_grad,
    new_parts,
    kept_normed,  # [W, Q, d]
    kept_grad_branch,  # [W, Q, d]
    kept_gated,  # [W, Q, F]
    kept_grad_hidden,  # [W, Q, 2F]
    vectors,
    vectors_stride,
    seed,
    column,
    threshold,
    dropout_scale,
    ffn_column,
    ffn_threshold,
    ffn_scale,
    eps,
    Q: tl.constexpr,
    d: tl.constexpr,
    DH: tl.constexpr,
    F: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_F: tl.constexpr,
    LAST: tl.constexpr,
    DROPS: tl.constexpr,
    FFN_DROPS: tl.constexpr,
    FACTOR: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Back through some hidden units of a feed-forward layer over one window's latents."""
    COUNT: tl.constexpr = (F + BLOCK_F - 1) // BLOCK_F
    block = tl.program_id(0) % COUNT
    window = (tl.program_id(0) // COUNT).to(tl.int64)
    latent = tl.arange(0, BLOCK_Q)
    feature = tl.arange(0, BLOCK_D)
    hidden = block * BLOCK_F + tl.arange(0, BLOCK_F)
    token = window * Q + latent
    behind = (behind_z, behind_weight, behind_grad, parts, count)
    grad, of_normed, standard = gather_back(behind, window, latent, feature, eps, Q, d, BLOCK_Q, BLOCK_D, LAST)
    branch = grad
    if DROPS:
        branch *= dropout_factor(tl.load(seed), token, column, threshold, dropout_scale, BLOCK_Q, BLOCK_D)
    normed = normed_of(z, norm_weight, norm_bias, window, latent, feature, eps, Q, d)
    own = vectors + window * vectors_stride
    if block == 0:
        store_matrix(new_grad + window * Q * d, grad, latent, feature, Q, d, d)
        store_matrix(kept_normed + window * Q * d, normed, latent, feature, Q, d, d)
        store_matrix(kept_grad_branch + window * Q * d, branch, latent, feature, Q, d, d)
        store_vectors(own, of_normed, standard, branch, feature, d)
    factor = normed.to(FACTOR)
    gated, grad_value, grad_gate, _value_in, _gate_in = ffn_hidden_backward(
        factor,
        branch.to(FACTOR),
        token,
        block * BLOCK_F,
        ffn_column + block * BLOCK_F,
        (in_weight, in_bias, out_weight),
        (tl.load(seed) if FFN_DROPS else 0, ffn_threshold, ffn_scale),
        feature,
        F,
        d,
        BLOCK_Q,
        BLOCK_F,
        False,
        FFN_DROPS,
        PRECISION,
    )
    store_matrix(kept_gated + window * Q * F, gated, latent, hidden, Q, F, F)
    of_hidden = kept_grad_hidden + window * Q * 2 * F
    store_matrix(of_hidden, grad_value, latent, hidden, Q, F, 2 * F)
    store_matrix(of_hidden + F, grad_gate, latent, hidden, Q, F, 2 * F)
    tl.store(own + 3 * d + hidden, tl.sum(grad_value, 0), mask=hidden < F)
    tl.store(own + 3 * d + F + hidden, tl.sum(grad_gate, 0), mask=hidden < F)
    weight = load_matrix(in_weight, hidden, feature, F, d, d, False).to(FACTOR)  # again, to hold less
    part = product(grad_value.to(FACTOR), weight, PRECISION)
    weight = load_matrix(in_weight + F * d, hidden, feature, F, d, d, False).to(FACTOR)
    part = product(grad_gate.to(FACTOR), weight, PRECISION, part)
    store_matrix(new_parts + (window * COUNT + block) * Q * d, part, latent, feature, Q, d, d)


@triton.jit(do_not_specialize=["count", "column", "threshold", "vectors_stride"])
def latent_attention_backward_kernel(
    z,
    norm_weight,
    norm_bias,
    query_key_value_weight,
    output_weight,
    along,  # [Q, DH]
    across,
    behind_z,
    behind_weight,
    behind_grad,
    parts,
    count,
    new_grad,
    new_parts,
    kept_normed,  # [W, Q, d]
    kept_grad_branch,  # [W, Q, d]
    kept_attended,  # [W, Q, HEADS DH]: turned back
    kept_grad_heads,  # [W, Q, 3 HEADS DH]: of queries, keys and values before they turn
    vectors,
    vectors_stride,
    seed,
    column,
    threshold,
    dropout_scale,
    eps,
    scale,
    Q: tl.constexpr,
    d: tl.constexpr,
    DH: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_H: tl.constexpr,
    LAST: tl.constexpr,
    DROPS: tl.constexpr,
    FACTOR: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Back through one head of the self-attention of one window's latents."""
    head = tl.program_id(0) % HEADS
    window = (tl.program_id(0) // HEADS).to(tl.int64)
    latent = tl.arange(0, BLOCK_Q)
    feature = tl.arange(0, BLOCK_D)
    channel = tl.arange(0, BLOCK_H)
    WIDE: tl.constexpr = HEADS * DH
    behind = (behind_z, behind_weight, behind_grad, parts, count)
    grad, of_normed, standard = gather_back(behind, window, latent, feature, eps, Q, d, BLOCK_Q, BLOCK_D, LAST)
    branch = grad
    if DROPS:
        token = window * Q + latent
        branch *= dropout_factor(tl.load(seed), token, column, threshold, dropout_scale, BLOCK_Q, BLOCK_D)
    if head == 0:
        store_matrix(new_grad + window * Q * d, grad, latent, feature, Q, d, d)
        store_matrix(kept_grad_branch + window * Q * d, branch, latent, feature, Q, d, d)
        store_vectors(vectors + window * vectors_stride, of_normed, standard, branch, feature, d)

    # Only now, and the weights below once more, so that less is held at a time: registers are what it is short of.
    normed = normed_of(z, norm_weight, norm_bias, window, latent, feature, eps, Q, d)
    if head == 0:
        store_matrix(kept_normed + window * Q * d, normed, latent, feature, Q, d, d)
    factor = normed.to(FACTOR)
    into_query = query_key_value_weight + head * DH * d
    query, key, value, share, attended = attend(
        factor,
        into_query,
        (along, across),
        latent,
        feature,
        scale,
        Q,
        d,
        DH,
        HEADS,
        BLOCK_Q,
        BLOCK_H,
        FACTOR,
        PRECISION,
    )
    store_matrix(kept_attended + window * Q * WIDE + head * DH, attended, latent, channel, Q, DH, WIDE)

    out = load_matrix(output_weight + head * DH, feature, channel, d, DH, WIDE, False).to(FACTOR)
    back = product(branch.to(FACTOR), out, PRECISION)
    back = rotate(back, (along, across), latent, 1.0, Q, DH, BLOCK_Q, BLOCK_H).to(FACTOR)
    grad_share = product(back, tl.trans(value), PRECISION)
    grad_score = share * (grad_share - tl.sum(share * grad_share, 1)[:, None]) * scale
    grad_score = grad_score.to(FACTOR)
    grad_value = product(tl.trans(share.to(FACTOR)), back, PRECISION)
    grad_query = product(grad_score, key, PRECISION)
    grad_key = product(tl.trans(grad_score), query, PRECISION)
    grad_query = rotate(grad_query, (along, across), latent, -1.0, Q, DH, BLOCK_Q, BLOCK_H)
    grad_key = rotate(grad_key, (along, across), latent, -1.0, Q, DH, BLOCK_Q, BLOCK_H)
    grad_value = rotate(grad_value, (along, across), latent, -1.0, Q, DH, BLOCK_Q, BLOCK_H)
    of_heads = kept_grad_heads + window * Q * 3 * WIDE + head * DH
    store_matrix(of_heads, grad_query, latent, channel, Q, DH, 3 * WIDE)
    store_matrix(of_heads + WIDE, grad_key, latent, channel, Q, DH, 3 * WIDE)
    store_matrix(of_heads + 2 * WIDE, grad_value, latent, channel, Q, DH, 3 * WIDE)
    # One after another, from memory: held since the beginning, the weights alone would take more than some chips have.
    tl.debug_barrier()
    part = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
    for kind in range(3):
        grad_head = load_matrix(of_heads + kind * WIDE, latent, channel, Q, DH, 3 * WIDE, False).to(FACTOR)
        weight = load_matrix(into_query + kind * WIDE * d, channel, feature, DH, d, d, False).to(FACTOR)
        part = product(grad_head, weight, PRECISION, part)
    store_matrix(new_parts + (window * HEADS + head) * Q * d, part, latent, feature, Q, d, d)


@triton.jit(do_not_specialize=["count", "vectors_stride"])
def latent_read_backward_kernel(
    pooled,  # [W, S, Q, d]
    value_weight,
    output_weight,
    along,  # [S, Q, DH]
    across,
    behind_z,
    behind_weight,
    behind_grad,
    parts,
    count,
    new_grad,  # [W, Q, d]: of the latents before they read, and of what they read
    kept_read,  # [W, Q, DH]
    kept_grad_read,  # [W, S, Q, DH]
    grad_pooled,  # [W, S, Q, d]
    vectors,
    vectors_stride,
    eps,
    S: tl.constexpr,
    Q: tl.constexpr,
    d: tl.constexpr,
    DH: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_H: tl.constexpr,
    FACTOR: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Back to what was pooled of one window."""
    window = tl.program_id(0).to(tl.int64)
    latent = tl.arange(0, BLOCK_Q)
    feature = tl.arange(0, BLOCK_D)
    channel = tl.arange(0, BLOCK_H)
    behind = (behind_z, behind_weight, behind_grad, parts, count)
    grad, of_normed, standard = gather_back(behind, window, latent, feature, eps, Q, d, BLOCK_Q, BLOCK_D, False)
    store_matrix(new_grad + window * Q * d, grad, latent, feature, Q, d, d)
    store_vectors(vectors + window * vectors_stride, of_normed, standard, grad, feature, d)
    out = load_matrix(output_weight, feature, channel, d, DH, DH, False).to(FACTOR)
    back = product(grad.to(FACTOR), out, PRECISION)
    total = tl.zeros([BLOCK_Q, BLOCK_H], tl.float32)
    for segment in range(S):
        own = (along + segment * Q * DH, across + segment * Q * DH)
        place = window * S + segment
        p = load_matrix(pooled + place * Q * d, latent, feature, Q, d, d, False).to(FACTOR)
        into_value = load_matrix(value_weight, channel, feature, DH, d, d, False).to(FACTOR)
        value = product(p, tl.trans(into_value), PRECISION)
        total += rotate(value, own, latent, 1.0, Q, DH, BLOCK_Q, BLOCK_H)
        grad_value = rotate(back, own, latent, -1.0, Q, DH, BLOCK_Q, BLOCK_H)
        store_matrix(kept_grad_read + place * Q * DH, grad_value, latent, channel, Q, DH, DH)
        into_value = load_matrix(value_weight, channel, feature, DH, d, d, False).to(FACTOR)  # again, to hold one less
        of_pooled = product(grad_value.to(FACTOR), into_value, PRECISION)
        store_matrix(grad_pooled + place * Q * d, of_pooled, latent, feature, Q, d, d)
    store_matrix(kept_read + window * Q * DH, total, latent, channel, Q, DH, DH)
