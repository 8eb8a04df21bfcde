"""Kernels of what lies between the passes: the latents read, attend to each other, and write.

One window's latents are too little work for one program to wait for all the weights, so each step is cut: programs
take some hidden units or a head, and leave a part of the branch, which the next step's programs add up.
"""

# Triton reads these functions from their source: what they take are blocks, and annotations mean compile-time numbers.

from __future__ import annotations

import triton
import triton.language as tl

from poco.kernels.common import (
    PARTS,
    dropout_factor,
    gelu,
    halves,
    load_matrix,
    load_vector,
    product,
    standardise,
    store_matrix,
)
from poco.kernels.film_forecast import ffn_hidden


@triton.jit
def rotate(x, turn, latent, back, Q: tl.constexpr, DH: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_H: tl.constexpr):
    """Interleaved pairs of ``x [BLOCK_Q, BLOCK_H]`` turned by ``turn``, the tensors ``[Q, DH]`` of a ``Turn``.

    ``back`` is 1, or -1 to turn the other way.
    """
    pair = 2 * tl.arange(0, BLOCK_H // 2)
    cos = load_matrix(turn[0], latent, pair, Q, DH, DH, False)
    sin = load_matrix(turn[1], latent, pair + 1, Q, DH, DH, False) * back
    first, second = tl.split(tl.reshape(x, [BLOCK_Q, BLOCK_H // 2, 2]))
    turned = tl.join(first * cos - second * sin, second * cos + first * sin)
    return tl.reshape(turned, [BLOCK_Q, BLOCK_H])


@triton.jit
def read(
    pooled,
    initial,
    value_weight,
    output_weight,
    output_bias,
    turn,  # [S, Q, DH] each
    latent,
    feature,
    S: tl.constexpr,
    Q: tl.constexpr,
    d: tl.constexpr,
    DH: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_H: tl.constexpr,
    FACTOR: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """The latents of one window after they have read what was pooled."""
    head = tl.arange(0, BLOCK_H)
    weight = load_matrix(value_weight, head, feature, DH, d, d, False).to(FACTOR)
    total = tl.zeros([BLOCK_Q, BLOCK_H], tl.float32)
    for segment in range(S):
        p = load_matrix(pooled + segment * Q * d, latent, feature, Q, d, d, False).to(FACTOR)
        value = product(p, tl.trans(weight), PRECISION)
        own = (turn[0] + segment * Q * DH, turn[1] + segment * Q * DH)
        total += rotate(value, own, latent, 1.0, Q, DH, BLOCK_Q, BLOCK_H)
    out = load_matrix(output_weight, feature, head, d, DH, DH, False).to(FACTOR)
    z = load_matrix(initial, latent, feature, Q, d, d, False).to(tl.float32)
    z += load_vector(output_bias, feature, d)[None, :]
    return product(total.to(FACTOR), tl.trans(out), PRECISION, z)


@triton.jit
def gather(
    base,
    parts,
    count,
    bias,
    drop,
    window,
    latent,
    feature,
    Q: tl.constexpr,
    d: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_D: tl.constexpr,
    DROPS: tl.constexpr,
):
    """The latents ``base`` of a window plus a branch that was left in ``count`` parts, and its bias.

    ``drop``: the seed of dropout, the first of the branch's random words, the threshold and the scale.
    """
    branch = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32) + load_vector(bias, feature, d)[None, :]
    for part in range(count):
        branch += load_matrix(parts + (window * count + part) * Q * d, latent, feature, Q, d, d, False)
    if DROPS:
        branch *= dropout_factor(drop[0], window * Q + latent, drop[1], drop[2], drop[3], BLOCK_Q, BLOCK_D)
    return load_matrix(base + window * Q * d, latent, feature, Q, d, d, False) + branch


@triton.jit
def normalise(z, weight, bias, feature, eps, d: tl.constexpr):
    """Layer normalisation of ``z``, 0 from feature ``d`` on."""
    standard, _ = standardise(z, feature, eps, d)
    return standard * load_vector(weight, feature, d)[None, :] + load_vector(bias, feature, d)[None, :]


@triton.jit
def project(
    normed,
    weights,
    channel,
    feature,
    query,
    key,
    value,
    DH: tl.constexpr,
    d: tl.constexpr,
    HEADS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Queries, keys and values of a head, plus what some features make of them."""
    weight = load_matrix(weights, channel, feature, DH, d, d, False).to(normed.dtype)
    query = tl.dot(normed, tl.trans(weight), query, input_precision=PRECISION)
    weight = load_matrix(weights + HEADS * DH * d, channel, feature, DH, d, d, False).to(normed.dtype)
    key = tl.dot(normed, tl.trans(weight), key, input_precision=PRECISION)
    weight = load_matrix(weights + 2 * HEADS * DH * d, channel, feature, DH, d, d, False).to(normed.dtype)
    value = tl.dot(normed, tl.trans(weight), value, input_precision=PRECISION)
    return query, key, value


@triton.jit
def attend(
    normed,
    weights,
    turn,
    latent,
    feature,
    scale,
    Q: tl.constexpr,
    d: tl.constexpr,
    DH: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_H: tl.constexpr,
    FACTOR: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One head: queries, keys and values, turned; their shares; and what they attend to, turned back.

    ``weights`` points at those of the head's queries.
    """
    channel = tl.arange(0, BLOCK_H)
    query = tl.zeros([BLOCK_Q, BLOCK_H], tl.float32)
    key, value = query, query
    if PRECISION == PARTS and normed.shape[1] >= 64:  # as `product` does it
        first, second = halves(normed)
        half = tl.arange(0, normed.shape[1] // 2)
        query, key, value = project(first, weights, channel, half, query, key, value, DH, d, HEADS, PRECISION)
        half += normed.shape[1] // 2
        query, key, value = project(second, weights, channel, half, query, key, value, DH, d, HEADS, PRECISION)
    else:
        query, key, value = project(normed, weights, channel, feature, query, key, value, DH, d, HEADS, PRECISION)
    query = rotate(query, turn, latent, 1.0, Q, DH, BLOCK_Q, BLOCK_H).to(FACTOR)
    key = rotate(key, turn, latent, 1.0, Q, DH, BLOCK_Q, BLOCK_H).to(FACTOR)
    value = rotate(value, turn, latent, 1.0, Q, DH, BLOCK_Q, BLOCK_H).to(FACTOR)
    score = product(query, tl.trans(key), PRECISION) * scale
    score = tl.where(latent[None, :] < Q, score, float("-inf"))
    share = tl.exp(score - tl.max(score, 1)[:, None])
    share = share / tl.sum(share, 1)[:, None]
    attended = product(share.to(FACTOR), value, PRECISION)
    return query, key, value, share, rotate(attended, turn, latent, -1.0, Q, DH, BLOCK_Q, BLOCK_H)


@triton.jit(do_not_specialize=["count", "column", "threshold", "ffn_column", "ffn_threshold"])
def latent_ffn_kernel(
    pooled,
    initial,
    value_weight,
    output_weight,
    output_bias,
    along,  # [S, Q, DH]
    across,
    base,
    parts,
    count,
    branch_bias,
    seed,
    column,
    threshold,
    dropout_scale,
    norm_weight,
    norm_bias,
    in_weight,
    in_bias,
    out_weight,
    new_base,
    new_parts,
    initial_stride,
    ffn_column,
    ffn_threshold,
    ffn_scale,
    eps,
    S: tl.constexpr,
    Q: tl.constexpr,
    d: tl.constexpr,
    DH: tl.constexpr,
    F: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_H: tl.constexpr,
    BLOCK_F: tl.constexpr,
    FIRST: tl.constexpr,
    DROPS: tl.constexpr,
    FFN_DROPS: tl.constexpr,
    FACTOR: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Some hidden units of a feed-forward layer over one window's latents; the first layer reads them itself."""
    COUNT: tl.constexpr = (F + BLOCK_F - 1) // BLOCK_F
    block = tl.program_id(0) % COUNT
    window = (tl.program_id(0) // COUNT).to(tl.int64)
    latent = tl.arange(0, BLOCK_Q)
    feature = tl.arange(0, BLOCK_D)
    hidden = block * BLOCK_F + tl.arange(0, BLOCK_F)
    if FIRST:
        z = read(
            pooled + window * S * Q * d,
            initial + window * initial_stride,
            value_weight,
            output_weight,
            output_bias,
            (along, across),
            latent,
            feature,
            S,
            Q,
            d,
            DH,
            BLOCK_Q,
            BLOCK_H,
            FACTOR,
            PRECISION,
        )
    else:
        drop = (tl.load(seed) if DROPS else 0, column, threshold, dropout_scale)
        z = gather(base, parts, count, branch_bias, drop, window, latent, feature, Q, d, BLOCK_Q, BLOCK_D, DROPS)
    if block == 0:
        store_matrix(new_base + window * Q * d, z, latent, feature, Q, d, d)
    normed = normalise(z, norm_weight, norm_bias, feature, eps, d).to(FACTOR)
    ffn = (in_weight, in_bias, out_weight)
    value, gate, _value_weight, _gate_weight = ffn_hidden(normed, hidden, ffn, feature, F, d, False, PRECISION)
    out = load_matrix(out_weight, feature, hidden, d, F, F, False).to(FACTOR)
    gated = value * gelu(gate)
    if FFN_DROPS:
        first = ffn_column + block * BLOCK_F
        gated *= dropout_factor(tl.load(seed), window * Q + latent, first, ffn_threshold, ffn_scale, BLOCK_Q, BLOCK_F)
    part = product(gated.to(FACTOR), tl.trans(out), PRECISION)
    store_matrix(new_parts + (window * COUNT + block) * Q * d, part, latent, feature, Q, d, d)


@triton.jit(do_not_specialize=["count", "column", "threshold"])
def latent_attention_kernel(
    base,
    parts,
    count,
    branch_bias,
    seed,
    column,
    threshold,
    dropout_scale,
    norm_weight,
    norm_bias,
    query_key_value_weight,
    output_weight,
    along,  # [Q, DH]
    across,
    new_base,
    new_parts,
    eps,
    scale,
    Q: tl.constexpr,
    d: tl.constexpr,
    DH: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_H: tl.constexpr,
    DROPS: tl.constexpr,
    FACTOR: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One head of the self-attention of one window's latents."""
    head = tl.program_id(0) % HEADS
    window = (tl.program_id(0) // HEADS).to(tl.int64)
    latent = tl.arange(0, BLOCK_Q)
    feature = tl.arange(0, BLOCK_D)
    channel = tl.arange(0, BLOCK_H)
    drop = (tl.load(seed) if DROPS else 0, column, threshold, dropout_scale)
    z = gather(base, parts, count, branch_bias, drop, window, latent, feature, Q, d, BLOCK_Q, BLOCK_D, DROPS)
    if head == 0:
        store_matrix(new_base + window * Q * d, z, latent, feature, Q, d, d)
    normed = normalise(z, norm_weight, norm_bias, feature, eps, d).to(FACTOR)
    own = query_key_value_weight + head * DH * d
    _query, _key, _value, _share, attended = attend(
        normed, own, (along, across), latent, feature, scale, Q, d, DH, HEADS, BLOCK_Q, BLOCK_H, FACTOR, PRECISION
    )
    attended = attended.to(FACTOR)
    out = load_matrix(output_weight + head * DH, feature, channel, d, DH, HEADS * DH, False).to(FACTOR)
    part = product(attended, tl.trans(out), PRECISION)
    store_matrix(new_parts + (window * HEADS + head) * Q * d, part, latent, feature, Q, d, d)


@triton.jit(do_not_specialize=["count", "column", "threshold"])
def latent_write_kernel(
    base,
    parts,
    count,
    branch_bias,
    seed,
    column,
    threshold,
    dropout_scale,
    norm_weight,
    norm_bias,
    key_weight,
    value_weight,
    query_weight,
    output_weight,
    along,  # [Q, DH]
    across,
    new_base,
    keys,
    values,
    eps,
    scale,
    Q: tl.constexpr,
    d: tl.constexpr,
    DH: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_H: tl.constexpr,
    DROPS: tl.constexpr,
    FACTOR: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Keys (even programs) or values (odd ones) of one window's latents for pass 2."""
    window = (tl.program_id(0) // 2).to(tl.int64)
    latent = tl.arange(0, BLOCK_Q)
    feature = tl.arange(0, BLOCK_D)
    channel = tl.arange(0, BLOCK_H)
    drop = (tl.load(seed) if DROPS else 0, column, threshold, dropout_scale)
    z = gather(base, parts, count, branch_bias, drop, window, latent, feature, Q, d, BLOCK_Q, BLOCK_D, DROPS)
    normed = normalise(z, norm_weight, norm_bias, feature, eps, d).to(FACTOR)
    if tl.program_id(0) % 2 == 0:
        store_matrix(new_base + window * Q * d, z, latent, feature, Q, d, d)
        into_key = load_matrix(key_weight, channel, feature, DH, d, d, False).to(FACTOR)
        turned = product(normed, tl.trans(into_key), PRECISION)
        turned = rotate(turned, (along, across), latent, 1.0, Q, DH, BLOCK_Q, BLOCK_H).to(FACTOR)
        out_of_query = load_matrix(query_weight, channel, feature, DH, d, d, False).to(FACTOR)
        key = product(turned, out_of_query, PRECISION) * scale
        store_matrix(keys + window * Q * d, key, latent, feature, Q, d, d)
    else:
        into_value = load_matrix(value_weight, channel, feature, DH, d, d, False).to(FACTOR)
        narrow = product(normed, tl.trans(into_value), PRECISION).to(FACTOR)
        out = load_matrix(output_weight, feature, channel, d, DH, DH, False).to(FACTOR)
        value = product(narrow, tl.trans(out), PRECISION)
        store_matrix(values + window * Q * d, value, latent, feature, Q, d, d)
