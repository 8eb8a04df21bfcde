"""Pass 1 forward: every window is cut into parts, each pooled by a program of its own, and merged by logsumexp."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from poco.kernels import launch
from poco.kernels.common import load_matrix, load_units, load_vector, standardise, store_matrix
from poco.kernels.tiles import tile
from poco.ops.precision import common_dtype, dense

_PROGRAMS = 8  # to a multiprocessor: what they wait for is memory


@triton.jit
def tokens(
    x,
    row,
    present,
    segment,
    units,
    weight,
    token_bias,
    feature,
    eps,
    C: tl.constexpr,
    d: tl.constexpr,
    L: tl.constexpr,
    BLOCK_L: tl.constexpr,
    FACTOR: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """A segment's activity ``[rows, L]``, its standardised tokens ``[rows, d]``, and one over their deviation."""
    frame = tl.arange(0, BLOCK_L)
    where = x + row[:, None] * C + segment * L + frame[None, :]
    activity = tl.load(where, mask=present[:, None] & (frame[None, :] < L), other=0.0).to(FACTOR)
    token = tl.dot(activity, weight, input_precision=PRECISION) + units + token_bias[None, :]
    standard, inverse_std = standardise(token, feature, eps, d)
    return activity, standard, inverse_std


@triton.jit(do_not_specialize=["parts"])
def latent_pool_kernel(
    x,
    unit_index,
    window_offsets,
    unit_table,
    token_weight,
    token_bias,
    norm_weight,
    norm_bias,
    queries,
    part_pooled,
    part_logsumexp,
    eps,
    query_stride,  # elements from one window's queries to the next; 0 if all share them
    parts,
    C: tl.constexpr,
    S: tl.constexpr,
    Q: tl.constexpr,
    d: tl.constexpr,
    L: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    FACTOR: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Pools one segment of one part of a window: ``part_pooled [W, parts, S, Q, d]``, its logsumexp beside it.

    A program does so for ``BLOCK_Q`` of the latents.
    """
    QUERIES: tl.constexpr = (Q + BLOCK_Q - 1) // BLOCK_Q
    segment = tl.program_id(0) // QUERIES % S  # programs side by side read the same units
    part = tl.program_id(0) // (QUERIES * S) % parts
    window = tl.program_id(0) // (QUERIES * S * parts)
    WHOLE: tl.constexpr = d == BLOCK_D
    feature = tl.arange(0, BLOCK_D)
    latent = tl.program_id(0) % QUERIES * BLOCK_Q + tl.arange(0, BLOCK_Q)
    frame = tl.arange(0, BLOCK_L)
    row = tl.arange(0, BLOCK_R)
    weight = tl.trans(load_matrix(token_weight, feature, frame, d, L, L, WHOLE and L == BLOCK_L).to(FACTOR))
    bias = load_vector(token_bias, feature, d)
    scale = load_vector(norm_weight, feature, d)
    offset = load_vector(norm_bias, feature, d)
    own_queries = queries + window.to(tl.int64) * query_stride + segment * Q * d
    query = load_matrix(own_queries, latent, feature, Q, d, d, WHOLE and Q % BLOCK_Q == 0).to(tl.float32)
    # A normalised token is standard * scale + offset: what is asked of it is asked of `standard`.
    always = tl.sum(query * offset[None, :], 1)
    query = tl.trans((query * scale[None, :]).to(FACTOR))

    start = tl.load(window_offsets + window).to(tl.int64)
    stop = tl.load(window_offsets + window + 1).to(tl.int64)
    length = tl.cdiv(tl.cdiv(stop - start, BLOCK_R), parts) * BLOCK_R
    first = start + part * length
    stop = tl.minimum(stop, first + length)

    most = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_Q], tl.float32)
    pooled = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
    for begin in range(first, stop, BLOCK_R):
        present = row < stop - begin
        units = load_units(unit_table, unit_index + begin, row, present, feature, d, WHOLE)
        of_part = x + begin * C
        _, standard, _ = tokens(
            of_part, row, present, segment, units, weight, bias, feature, eps, C, d, L, BLOCK_L, FACTOR, PRECISION
        )
        standard = standard.to(FACTOR)
        score = tl.dot(standard, query, input_precision=PRECISION) + always[None, :]  # [BLOCK_R, BLOCK_Q]
        score = tl.where(present[:, None], score, float("-inf"))
        more = tl.maximum(most, tl.max(score, 0))
        share = tl.exp(score - more[None, :])
        before = tl.exp(most - more)
        total = total * before + tl.sum(share, 0)
        pooled = tl.dot(tl.trans(share.to(FACTOR)), standard, pooled * before[:, None], input_precision=PRECISION)
        most = more

    some = total != 0  # so is NaN
    place = (window * parts + part).to(tl.int64) * S + segment
    total = tl.where(some, total, 1.0)
    whole = tl.where(some, most + tl.log(total), float("-inf"))
    tl.store(part_logsumexp + place * Q + latent, whole, mask=latent < Q)
    pooled = pooled / total[:, None]
    pooled = tl.where(some[:, None], pooled * scale[None, :] + offset[None, :], 0.0)
    store_matrix(part_pooled + place * Q * d, pooled, latent, feature, Q, d, d)


@triton.jit(do_not_specialize=["parts"])
def latent_pool_merge_kernel(
    part_pooled,
    part_logsumexp,
    pooled,
    logsumexp,
    parts,
    S: tl.constexpr,
    Q: tl.constexpr,
    d: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_P: tl.constexpr,
):
    """Merges the parts of one latent of one segment; the first segment writes the logsumexp."""
    latent = tl.program_id(0) % Q
    segment = tl.program_id(0) // Q % S
    window = tl.program_id(0) // (Q * S)
    feature = tl.arange(0, BLOCK_D)
    most = float("-inf")
    for begin in range(0, parts * S, BLOCK_P):
        index = begin + tl.arange(0, BLOCK_P)
        where = part_logsumexp + (window.to(tl.int64) * parts * S + index) * Q + latent
        most = tl.maximum(most, tl.max(tl.load(where, mask=index < parts * S, other=float("-inf")), 0))
    safe = tl.where(most == float("-inf"), 0.0, most)
    total = 0.0
    for begin in range(0, parts * S, BLOCK_P):
        index = begin + tl.arange(0, BLOCK_P)
        where = part_logsumexp + (window.to(tl.int64) * parts * S + index) * Q + latent
        total += tl.sum(tl.exp(tl.load(where, mask=index < parts * S, other=float("-inf")) - safe), 0)
    some = total != 0  # so is NaN
    whole = tl.where(some, safe + tl.log(tl.where(some, total, 1.0)), float("-inf"))
    merged = tl.zeros([BLOCK_D], tl.float32)
    for begin in range(0, parts, BLOCK_P):
        part = begin + tl.arange(0, BLOCK_P)
        place = ((window.to(tl.int64) * parts + part) * S + segment) * Q + latent
        part_sum = tl.load(part_logsumexp + place, mask=part < parts, other=float("-inf"))
        share = tl.where(part_sum != float("-inf"), tl.exp(part_sum - tl.where(some, whole, 0.0)), 0.0)
        inside = (part[:, None] < parts) & (feature[None, :] < d)
        values = tl.load(part_pooled + place[:, None] * d + feature[None, :], mask=inside, other=0.0)
        merged += tl.sum(values * share[:, None], 0)
    place = (window * S + segment).to(tl.int64) * Q + latent
    tl.store(pooled + place * d + feature, merged, mask=feature < d)
    if segment == 0:
        tl.store(logsumexp + window * Q + latent, whole)


def arguments(inputs: tuple[Any, ...]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The inputs of the op as both directions take them: tensors, and sizes with the blocks that hold them."""
    x, unit_index, window_offsets, unit_table, token_weight, token_bias, norm_weight, norm_bias, queries, eps = inputs
    dtype = common_dtype((unit_table, token_weight, token_bias, norm_weight, norm_bias, queries))
    tensors = {
        "x": dense(x, dtype),
        "unit_index": unit_index.contiguous(),
        "window_offsets": window_offsets.contiguous(),
        "unit_table": dense(unit_table, dtype),
        "token_weight": dense(token_weight, dtype),
        "token_bias": dense(token_bias, dtype),
        "norm_weight": dense(norm_weight, dtype),
        "norm_bias": dense(norm_bias, dtype),
        "queries": dense(queries, dtype),
    }
    query_windows, segments, latents, width = queries.shape
    length = token_weight.shape[1]
    sizes = {
        "eps": eps,
        "query_stride": 0 if query_windows == 1 else segments * latents * width,
        "C": x.shape[1],
        "S": segments,
        "Q": latents,
        "d": width,
        "L": length,
        "BLOCK_D": launch.block_of(width),
        "BLOCK_L": launch.block_of(length),
        # Many queries of wide tokens do not fit on the chip, so those go block by block.
        "BLOCK_Q": launch.block_of(latents) if width <= 128 else 16,
        **launch.products(dtype, width, latents),
    }
    return tensors, sizes


def latent_pool(*inputs: Any) -> tuple[Tensor, Tensor]:
    """Pass 1 forward; see :func:`poco.ops.latent_pool`."""
    tensors, sizes = arguments(inputs)
    x, windows = tensors["x"], inputs[2].shape[0] - 1
    segments, latents, width = inputs[8].shape[1:]
    pooled = x.new_empty(windows, segments, latents, width, dtype=torch.float32)
    logsumexp = x.new_empty(windows, latents, dtype=torch.float32)
    if not windows:
        return pooled, logsumexp
    chosen = tile("latent_pool", x, rows=x.shape[0], sizes=sizes)
    programs = _PROGRAMS * launch.processors(x.device)
    parts = launch.splits(windows * segments, x.shape[0] * segments, chosen.blocks["BLOCK_R"], programs)
    part_pooled = x.new_empty(windows * parts * segments * latents * width, dtype=torch.float32)
    part_logsumexp = x.new_empty(windows * parts * segments * latents, dtype=torch.float32)
    blocks = triton.cdiv(latents, sizes["BLOCK_Q"])
    with launch.on(x, sizes):
        latent_pool_kernel[(windows * parts * segments * blocks,)](
            **tensors,
            **sizes,
            part_pooled=part_pooled,
            part_logsumexp=part_logsumexp,
            parts=parts,
            **chosen.blocks,
            **chosen.options,
        )
        latent_pool_merge_kernel[(windows * segments * latents,)](
            part_pooled,
            part_logsumexp,
            pooled,
            logsumexp,
            parts,
            S=segments,
            Q=latents,
            d=width,
            BLOCK_D=sizes["BLOCK_D"],
            BLOCK_P=16,
            num_warps=4,
        )
    return pooled, logsumexp
