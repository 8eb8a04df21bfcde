"""Pass 1 backward: recomputes the tokens of a part of a window, and sums the gradients of parts in a fixed order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from poco.kernels import launch
from poco.kernels.common import load_matrix, load_units, load_vector, standardise_backward, store_matrix
from poco.kernels.latent_pool import arguments, tokens
from poco.kernels.tiles import tile
from poco.kernels.unit_sums import unit_sums
from poco.ops.precision import dense


@triton.jit(do_not_specialize=["parts"])
def latent_pool_backward_kernel(
    x,
    unit_index,
    window_offsets,
    unit_table,
    token_weight,
    token_bias,
    norm_weight,
    norm_bias,
    queries,
    grad_pooled,
    mean,  # [W, Q]: what the softmax takes off the gradients of its weights
    logsumexp,
    grad_x,
    grad_units,  # [R, d] float32: of each row's embedding
    part_token_weight,
    part_vectors,  # [W, parts, 3, d]: of the token bias, the norm's weight and bias
    part_queries,
    eps,
    query_stride,
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
    NEEDS_X: tl.constexpr,
):
    """All gradients of one part of a window, segment after segment, and of each one block of latents after another."""
    QUERIES: tl.constexpr = (Q + BLOCK_Q - 1) // BLOCK_Q
    part = tl.program_id(0) % parts
    window = tl.program_id(0) // parts
    WHOLE: tl.constexpr = d == BLOCK_D
    feature = tl.arange(0, BLOCK_D)
    frame = tl.arange(0, BLOCK_L)
    AGAIN: tl.constexpr = BLOCK_D > 256  # what the loops hold does not fit on every chip: loaded for each use
    if not AGAIN:
        token = load_matrix(token_weight, feature, frame, d, L, L, WHOLE and L == BLOCK_L).to(FACTOR)  # [D, L]
    bias = load_vector(token_bias, feature, d)
    scale = load_vector(norm_weight, feature, d)
    offset = load_vector(norm_bias, feature, d)

    start = tl.load(window_offsets + window).to(tl.int64)
    stop = tl.load(window_offsets + window + 1).to(tl.int64)
    length = tl.cdiv(tl.cdiv(stop - start, BLOCK_R), parts) * BLOCK_R
    first = start + part * length
    stop = tl.minimum(stop, first + length)

    sum_weight = tl.zeros([BLOCK_D, BLOCK_L], tl.float32)
    sum_bias = tl.zeros([BLOCK_D], tl.float32)
    sum_scale = tl.zeros([BLOCK_D], tl.float32)
    sum_offset = tl.zeros([BLOCK_D], tl.float32)
    for step in range(S * QUERIES):
        segment = step // QUERIES
        latent = step % QUERIES * BLOCK_Q + tl.arange(0, BLOCK_Q)
        total = tl.load(logsumexp + window * Q + latent, mask=latent < Q, other=0.0)
        total = tl.where(total != float("-inf"), total, 0.0)  # of an empty window
        less = tl.load(mean + window * Q + latent, mask=latent < Q, other=0.0)
        EVEN: tl.constexpr = WHOLE and Q % BLOCK_Q == 0
        asked = queries + window.to(tl.int64) * query_stride + segment * Q * d
        own = grad_pooled + (window * S + segment).to(tl.int64) * Q * d
        if not AGAIN:
            query = load_matrix(asked, latent, feature, Q, d, d, EVEN).to(FACTOR)
            grad = load_matrix(own, latent, feature, Q, d, d, EVEN).to(FACTOR)
        sum_query = tl.zeros([BLOCK_Q, BLOCK_D], tl.float32)
        for begin in range(first, stop, BLOCK_R):
            row = begin + tl.arange(0, BLOCK_R)
            present = row < stop
            if AGAIN:
                token = load_matrix(token_weight, feature, frame, d, L, L, WHOLE and L == BLOCK_L).to(FACTOR)
                query = load_matrix(asked, latent, feature, Q, d, d, EVEN).to(FACTOR)
                grad = load_matrix(own, latent, feature, Q, d, d, EVEN).to(FACTOR)
            units = load_units(unit_table, unit_index, row, present, feature, d, WHOLE)
            activity, standard, inverse_std = tokens(
                x,
                row,
                present,
                segment,
                units,
                tl.trans(token),
                bias,
                feature,
                eps,
                C,
                d,
                L,
                BLOCK_L,
                FACTOR,
                PRECISION,
            )
            y = (standard * scale[None, :] + offset[None, :]).to(FACTOR)
            score = tl.dot(y, tl.trans(query), input_precision=PRECISION)
            inside = present[:, None] & (latent[None, :] < Q)
            weight = tl.where(inside, tl.exp(score - total[None, :]), 0.0)
            grad_weight = tl.dot(y, tl.trans(grad), input_precision=PRECISION)
            grad_score = (weight * (grad_weight - less[None, :])).to(FACTOR)
            grad_y = tl.dot(weight.to(FACTOR), grad, input_precision=PRECISION)
            grad_y = tl.dot(grad_score, query, grad_y, input_precision=PRECISION)
            sum_query = tl.dot(tl.trans(grad_score), y, sum_query, input_precision=PRECISION)
            sum_scale += tl.sum(grad_y * standard, 0)
            sum_offset += tl.sum(grad_y, 0)
            grad_token = standardise_backward(grad_y * scale[None, :], standard, inverse_std, feature, d)
            grad_token = tl.where(present[:, None], grad_token, 0.0)
            sum_bias += tl.sum(grad_token, 0)
            sum_weight = tl.dot(tl.trans(grad_token.to(FACTOR)), activity, sum_weight, input_precision=PRECISION)
            if NEEDS_X:
                of_x = tl.dot(grad_token.to(FACTOR), token, input_precision=PRECISION)
                where = grad_x + row[:, None] * C + segment * L + frame[None, :]
                mask = present[:, None] & (frame[None, :] < L)
                if step % QUERIES > 0:
                    of_x += tl.load(where, mask=mask, other=0.0)
                tl.store(where, of_x, mask=mask)
            where = grad_units + row[:, None] * d + feature[None, :]
            mask = present[:, None] & (feature[None, :] < d)
            if step > 0:
                grad_token += tl.load(where, mask=mask, other=0.0)
            tl.store(where, grad_token, mask=mask)
        place = ((window * parts + part).to(tl.int64) * S + segment) * Q * d
        store_matrix(part_queries + place, sum_query, latent, feature, Q, d, d)
        tl.debug_barrier()  # what this step has left in grad_units and grad_x is read by the next one's threads

    place = (window * parts + part).to(tl.int64)
    store_matrix(part_token_weight + place * d * L, sum_weight, feature, frame, d, L, L)
    vectors = part_vectors + place * 3 * d + feature
    tl.store(vectors, sum_bias, mask=feature < d)
    tl.store(vectors + d, sum_scale, mask=feature < d)
    tl.store(vectors + 2 * d, sum_offset, mask=feature < d)


def latent_pool_backward(
    grad_pooled: Tensor, grad_logsumexp: Tensor, pooled: Tensor, logsumexp: Tensor, *inputs: Any
) -> list[Tensor | None]:
    """Pass 1 backward; see :func:`poco.ops.reference.latent_pool_backward`."""
    *forward, needs = inputs
    tensors, sizes = arguments(tuple(forward))
    with launch.on(tensors["x"], sizes):
        return _backward(grad_pooled, grad_logsumexp, pooled, logsumexp, forward, needs, tensors, sizes)


def _backward(
    grad_pooled: Tensor,
    grad_logsumexp: Tensor,
    pooled: Tensor,
    logsumexp: Tensor,
    forward: Sequence[Any],
    needs: Sequence[bool],
    tensors: dict[str, Tensor],
    sizes: dict[str, Any],
) -> list[Tensor | None]:
    x, unit_table = tensors["x"], tensors["unit_table"]
    rows, context = x.shape
    windows = forward[2].shape[0] - 1
    segments, latents, width = forward[8].shape[1:]
    length = forward[4].shape[1]
    grad_x = x.new_empty(rows, context, dtype=torch.float32) if needs[0] else None
    grad_units = x.new_empty(rows, width, dtype=torch.float32)
    grad_pooled = dense(grad_pooled, torch.float32)
    mean = (grad_pooled * pooled).sum((1, 3)) - grad_logsumexp
    chosen = tile("latent_pool_backward", x, rows=rows, sizes=sizes)
    parts = launch.splits(windows, rows, chosen.blocks["BLOCK_R"], 2 * launch.processors(x.device))
    part_token_weight = x.new_empty(windows * parts, width, length, dtype=torch.float32)
    part_vectors = x.new_empty(windows * parts, 3, width, dtype=torch.float32)
    part_queries = x.new_empty(windows, parts, segments, latents, width, dtype=torch.float32)
    if windows:
        latent_pool_backward_kernel[(windows * parts,)](
            **tensors,
            **sizes,
            grad_pooled=grad_pooled,
            mean=mean,
            logsumexp=logsumexp,
            grad_x=grad_units if grad_x is None else grad_x,
            grad_units=grad_units,
            part_token_weight=part_token_weight,
            part_vectors=part_vectors,
            part_queries=part_queries,
            parts=parts,
            NEEDS_X=grad_x is not None,
            **chosen.blocks,
            **chosen.options,
        )
    token_bias, norm_weight, norm_bias = part_vectors.sum(0)
    grad_queries = part_queries.sum(1)
    if forward[8].shape[0] == 1:
        grad_queries = grad_queries.sum(0, keepdim=True)
    return [
        grad_x,
        unit_sums(grad_units, tensors["unit_index"], unit_table.shape[0]) if needs[1] else None,
        part_token_weight.sum(0),
        token_bias,
        norm_weight,
        norm_bias,
        grad_queries,
    ]
