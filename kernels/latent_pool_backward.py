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
    queries,  # [1 or W, S, Q, d]: times the norm's weight
    grads,  # [W, S, Q, d]: gradients of what was pooled, times the norm's weight
    always,  # [W, S, Q]: what is added to the queries' products to make the logarithms of the softmax's weights
    less,  # [W, S, Q]: what is taken off the gradients' products to make the gradients of those logarithms
    grad_x,
    grad_units,  # [R, d] float32: of each row's embedding
    part_token_weight,  # [W, parts, d, L]
    part_sums,  # [W, parts, S, 2, Q, d]: of standardised tokens times the softmax's weights, and times grad_scores
    part_totals,  # [W, parts, S, 2, Q]: of these weights and grad_scores alone
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
    """All gradients of one part of a window, segment after segment, and of each one block of latents after another.

    Registers are what it is short of: nothing is moved out of its loops, and what the norm does after standardising is
    left to the caller.
    """
    QUERIES: tl.constexpr = (Q + BLOCK_Q - 1) // BLOCK_Q
    WHOLE: tl.constexpr = d == BLOCK_D
    EVEN: tl.constexpr = WHOLE and Q % BLOCK_Q == 0
    AGAIN: tl.constexpr = BLOCK_D > 256  # what the loops hold does not fit on every chip: loaded for each use
    part = tl.program_id(0) % parts
    window = tl.program_id(0) // parts
    place = (window * parts + part).to(tl.int64)
    feature = tl.arange(0, BLOCK_D)
    frame = tl.arange(0, BLOCK_L)
    row = tl.arange(0, BLOCK_R)
    if not AGAIN:
        token = load_matrix(token_weight, feature, frame, d, L, L, WHOLE and L == BLOCK_L).to(FACTOR)  # [D, L]

    start = tl.load(window_offsets + window).to(tl.int64)
    stop = tl.load(window_offsets + window + 1).to(tl.int64)
    length = tl.cdiv(tl.cdiv(stop - start, BLOCK_R), parts) * BLOCK_R
    first = start + part * length
    stop = tl.minimum(stop, first + length)

    sum_weight = tl.zeros([BLOCK_D, BLOCK_L], tl.float32)
    for step in tl.range(S * QUERIES, disable_licm=True):
        segment = step // QUERIES
        latent = step % QUERIES * BLOCK_Q + tl.arange(0, BLOCK_Q)
        own = window.to(tl.int64) * S + segment
        asked = queries + window.to(tl.int64) * query_stride + segment * Q * d
        if not AGAIN:
            query = load_matrix(asked, latent, feature, Q, d, d, EVEN).to(FACTOR)
            grad = load_matrix(grads + own * Q * d, latent, feature, Q, d, d, EVEN).to(FACTOR)
        by_weight = tl.zeros([BLOCK_D, BLOCK_Q], tl.float32)
        by_score = tl.zeros([BLOCK_D, BLOCK_Q], tl.float32)
        weights = tl.zeros([BLOCK_R, BLOCK_Q], tl.float32)
        grad_scores = tl.zeros([BLOCK_R, BLOCK_Q], tl.float32)
        for begin in tl.range(first, stop, BLOCK_R, disable_licm=True):
            present = row < stop - begin
            if AGAIN:
                token = load_matrix(token_weight, feature, frame, d, L, L, WHOLE and L == BLOCK_L).to(FACTOR)
                query = load_matrix(asked, latent, feature, Q, d, d, EVEN).to(FACTOR)
                grad = load_matrix(grads + own * Q * d, latent, feature, Q, d, d, EVEN).to(FACTOR)
            activity, standard, inverse_std = tokens(
                x + begin * C,
                row,
                present,
                segment,
                load_units(unit_table, unit_index + begin, row, present, feature, d, WHOLE),
                tl.trans(token),
                load_vector(token_bias, feature, d),
                feature,
                eps,
                C,
                d,
                L,
                BLOCK_L,
                FACTOR,
                PRECISION,
            )
            factor = standard.to(FACTOR)
            score = tl.dot(factor, tl.trans(query), input_precision=PRECISION)
            score += tl.load(always + own * Q + latent, mask=latent < Q, other=0.0)[None, :]
            grad_weight = tl.dot(factor, tl.trans(grad), input_precision=PRECISION)
            grad_weight -= tl.load(less + own * Q + latent, mask=latent < Q, other=0.0)[None, :]
            weight = tl.where(present[:, None] & (latent[None, :] < Q), tl.exp(score), 0.0)
            grad_score = weight * grad_weight
            weights += weight
            grad_scores += grad_score
            weight, grad_score = weight.to(FACTOR), grad_score.to(FACTOR)
            by_weight = tl.dot(tl.trans(factor), weight, by_weight, input_precision=PRECISION)
            by_score = tl.dot(tl.trans(factor), grad_score, by_score, input_precision=PRECISION)
            grad_standard = tl.dot(weight, grad, input_precision=PRECISION)
            grad_standard = tl.dot(grad_score, query, grad_standard, input_precision=PRECISION)
            grad_token = standardise_backward(grad_standard, standard, inverse_std, feature, d)
            sum_weight = tl.dot(tl.trans(grad_token.to(FACTOR)), activity, sum_weight, input_precision=PRECISION)
            if NEEDS_X:
                of_x = tl.dot(grad_token.to(FACTOR), token, input_precision=PRECISION)
                where = grad_x + begin * C + row[:, None] * C + segment * L + frame[None, :]
                mask = present[:, None] & (frame[None, :] < L)
                if step % QUERIES > 0:
                    of_x += tl.load(where, mask=mask, other=0.0)
                tl.store(where, of_x, mask=mask)
            where = grad_units + begin * d + row[:, None] * d + feature[None, :]
            mask = present[:, None] & (feature[None, :] < d)
            if step > 0:
                grad_token += tl.load(where, mask=mask, other=0.0)
            tl.store(where, grad_token, mask=mask)
        both = (place * S + segment) * 2 * Q
        store_matrix(part_sums + both * d, tl.trans(by_weight), latent, feature, Q, d, d)
        store_matrix(part_sums + (both + Q) * d, tl.trans(by_score), latent, feature, Q, d, d)
        tl.store(part_totals + both + latent, tl.sum(weights, 0), mask=latent < Q)
        tl.store(part_totals + both + Q + latent, tl.sum(grad_scores, 0), mask=latent < Q)
        tl.debug_barrier()  # what this step has left in grad_units and grad_x is read by the next one's threads

    store_matrix(part_token_weight + place * d * L, sum_weight, feature, frame, d, L, L)


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
    # A normalised token is standard * scale + offset: what is asked of it, and its gradient, are asked of `standard`.
    scale, offset = tensors.pop("norm_weight").float(), tensors.pop("norm_bias").float()
    queries = tensors.pop("queries").float()
    grad_pooled = dense(grad_pooled, torch.float32)
    mean = (grad_pooled * pooled).sum((1, 3)) - grad_logsumexp
    always = (queries * offset).sum(3) - logsumexp[:, None]
    less = mean[:, None] - (grad_pooled * offset).sum(3)
    chosen = tile("latent_pool_backward", x, rows=rows, sizes=sizes)
    parts = launch.splits(windows, rows, chosen.blocks["BLOCK_R"], 2 * launch.processors(x.device))
    part_token_weight = x.new_empty(windows * parts, width, length, dtype=torch.float32)
    part_sums = x.new_empty(windows, parts, segments, 2, latents, width, dtype=torch.float32)
    part_totals = x.new_empty(windows, parts, segments, 2, latents, dtype=torch.float32)
    if windows:
        latent_pool_backward_kernel[(windows * parts,)](
            **tensors,
            **sizes,
            queries=(queries * scale).to(x.dtype),
            grads=(grad_pooled * scale).to(x.dtype),
            always=always,
            less=less,
            grad_x=grad_units if grad_x is None else grad_x,
            grad_units=grad_units,
            part_token_weight=part_token_weight,
            part_sums=part_sums,
            part_totals=part_totals,
            parts=parts,
            NEEDS_X=grad_x is not None,
            **chosen.blocks,
            **chosen.options,
        )
    # The gradient of normalised tokens is weights @ grad_pooled + grad_scores @ queries.
    sums, totals = part_sums.sum(1), part_totals.sum(1)[..., None]
    factors = torch.stack((grad_pooled, queries.expand_as(grad_pooled)), 2)
    grad_queries = sums[:, :, 1] * scale + totals[:, :, 1] * offset
    if forward[8].shape[0] == 1:
        grad_queries = grad_queries.sum(0, keepdim=True)
    of_units = unit_sums(grad_units, tensors["unit_index"], unit_table.shape[0]) if needs[1] else None
    return [
        grad_x,
        of_units,
        part_token_weight.sum(0),
        (grad_units if of_units is None else of_units).sum(0),  # a token has the bias as it has its unit's embedding
        (sums * factors).sum((0, 1, 2, 3)),
        (totals * factors).sum((0, 1, 2, 3)),
        grad_queries,
    ]
