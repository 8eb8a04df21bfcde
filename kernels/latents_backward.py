"""Between the passes, backward: a launch for each branch of the latents, and products of whole matrices for weights.

As in ``latents.py`` programs take some hidden units or a head of one window. Each leaves a part of the gradient of what
it took, which is normalised latents; the next launch, of the branch before, adds the parts up and goes back through the
norm. What the gradients of weights are products of is stored, and multiplied by torch, over all windows at once.
Gradients of vectors are summed over a window's latents by the kernels, and over windows by one sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from poco.kernels import launch
from poco.kernels.common import (
    dropout_factor,
    load_matrix,
    load_vector,
    standardise,
    standardise_backward,
    store_matrix,
)
from poco.kernels.film_backward_kernels import ffn_hidden_backward
from poco.kernels.latents import (
    Branch,
    Call,
    Drops,
    attend,
    branches_of,
    hidden_at_once,
    normalise,
    rotate,
    shared_sizes,
    turn,
)
from poco.ops.parameters import FeedForwardParameters, LayerParameters


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
        turned = tl.dot(normed.to(FACTOR), tl.trans(into_key), input_precision=PRECISION)
        turned = rotate(turned, (along, across), latent, 1.0, Q, DH, BLOCK_Q, BLOCK_H) * scale
        store_matrix(heads, turned, latent, channel, Q, DH, 2 * DH)
        grad = load_matrix(grad_keys + window * Q * d, latent, feature, Q, d, d, False).to(FACTOR)
        out_of_query = load_matrix(query_weight, channel, feature, DH, d, d, False).to(FACTOR)
        grad_turned = tl.dot(grad, tl.trans(out_of_query), input_precision=PRECISION) * scale
        grad_key = rotate(grad_turned, (along, across), latent, -1.0, Q, DH, BLOCK_Q, BLOCK_H)
        store_matrix(grad_heads, grad_key, latent, channel, Q, DH, 2 * DH)
        part = tl.dot(grad_key.to(FACTOR), into_key, input_precision=PRECISION)
    else:
        into_value = load_matrix(value_weight, channel, feature, DH, d, d, False).to(FACTOR)
        narrow = tl.dot(normed.to(FACTOR), tl.trans(into_value), input_precision=PRECISION)
        store_matrix(heads, narrow, latent, channel, Q, DH, 2 * DH)
        grad = load_matrix(grad_values + window * Q * d, latent, feature, Q, d, d, False).to(FACTOR)
        out = load_matrix(output_weight, feature, channel, d, DH, DH, False).to(FACTOR)
        grad_narrow = tl.dot(grad, out, input_precision=PRECISION)
        store_matrix(grad_heads, grad_narrow, latent, channel, Q, DH, 2 * DH)
        part = tl.dot(grad_narrow.to(FACTOR), into_value, input_precision=PRECISION)
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
    gated, grad_value, grad_gate, value_in, gate_in = ffn_hidden_backward(
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
    part = tl.dot(grad_value.to(FACTOR), value_in, input_precision=PRECISION)
    part = tl.dot(grad_gate.to(FACTOR), gate_in, part, input_precision=PRECISION)
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
    normed = normed_of(z, norm_weight, norm_bias, window, latent, feature, eps, Q, d)
    if head == 0:
        store_matrix(new_grad + window * Q * d, grad, latent, feature, Q, d, d)
        store_matrix(kept_normed + window * Q * d, normed, latent, feature, Q, d, d)
        store_matrix(kept_grad_branch + window * Q * d, branch, latent, feature, Q, d, d)
        store_vectors(vectors + window * vectors_stride, of_normed, standard, branch, feature, d)

    factor = normed.to(FACTOR)
    into_query = query_key_value_weight + head * DH * d
    into_key = into_query + WIDE * d
    into_value = into_key + WIDE * d
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
    back = tl.dot(branch.to(FACTOR), out, input_precision=PRECISION)
    back = rotate(back, (along, across), latent, 1.0, Q, DH, BLOCK_Q, BLOCK_H).to(FACTOR)
    grad_share = tl.dot(back, tl.trans(value), input_precision=PRECISION)
    grad_score = share * (grad_share - tl.sum(share * grad_share, 1)[:, None]) * scale
    grad_score = grad_score.to(FACTOR)
    grad_value = tl.dot(tl.trans(share.to(FACTOR)), back, input_precision=PRECISION)
    grad_query = tl.dot(grad_score, key, input_precision=PRECISION)
    grad_key = tl.dot(tl.trans(grad_score), query, input_precision=PRECISION)
    grad_query = rotate(grad_query, (along, across), latent, -1.0, Q, DH, BLOCK_Q, BLOCK_H)
    grad_key = rotate(grad_key, (along, across), latent, -1.0, Q, DH, BLOCK_Q, BLOCK_H)
    grad_value = rotate(grad_value, (along, across), latent, -1.0, Q, DH, BLOCK_Q, BLOCK_H)
    of_heads = kept_grad_heads + window * Q * 3 * WIDE + head * DH
    store_matrix(of_heads, grad_query, latent, channel, Q, DH, 3 * WIDE)
    store_matrix(of_heads + WIDE, grad_key, latent, channel, Q, DH, 3 * WIDE)
    store_matrix(of_heads + 2 * WIDE, grad_value, latent, channel, Q, DH, 3 * WIDE)
    # The weights again: held since the beginning they would take more memory than some chips have.
    weight = load_matrix(into_query, channel, feature, DH, d, d, False).to(FACTOR)
    part = tl.dot(grad_query.to(FACTOR), weight, input_precision=PRECISION)
    weight = load_matrix(into_key, channel, feature, DH, d, d, False).to(FACTOR)
    part = tl.dot(grad_key.to(FACTOR), weight, part, input_precision=PRECISION)
    weight = load_matrix(into_value, channel, feature, DH, d, d, False).to(FACTOR)
    part = tl.dot(grad_value.to(FACTOR), weight, part, input_precision=PRECISION)
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
    back = tl.dot(grad.to(FACTOR), out, input_precision=PRECISION)
    total = tl.zeros([BLOCK_Q, BLOCK_H], tl.float32)
    for segment in range(S):
        own = (along + segment * Q * DH, across + segment * Q * DH)
        place = window * S + segment
        p = load_matrix(pooled + place * Q * d, latent, feature, Q, d, d, False).to(FACTOR)
        into_value = load_matrix(value_weight, channel, feature, DH, d, d, False).to(FACTOR)
        value = tl.dot(p, tl.trans(into_value), input_precision=PRECISION)
        total += rotate(value, own, latent, 1.0, Q, DH, BLOCK_Q, BLOCK_H)
        grad_value = rotate(back, own, latent, -1.0, Q, DH, BLOCK_Q, BLOCK_H)
        store_matrix(kept_grad_read + place * Q * DH, grad_value, latent, channel, Q, DH, DH)
        into_value = load_matrix(value_weight, channel, feature, DH, d, d, False).to(FACTOR)  # again, to hold one less
        of_pooled = tl.dot(grad_value.to(FACTOR), into_value, input_precision=PRECISION)
        store_matrix(grad_pooled + place * Q * d, of_pooled, latent, feature, Q, d, d)
    store_matrix(kept_read + window * Q * DH, total, latent, channel, Q, DH, DH)


class _Backward:
    """The gradients of one call, from the last branch to the first."""

    def __init__(self, call: Call, drops: Drops, needs_weights: bool) -> None:
        self.pooled, self.p, self.turns, self.heads, self.drops = call.pooled, call.p, call.turns, call.heads, drops
        self.needs_weights, self.one_start = needs_weights, call.initial.shape[0] == 1
        self.windows, self.segments, self.latents, self.width = call.pooled.shape
        self.head_width = call.p.read_value_weight.shape[0]
        self.shared = shared_sizes(call)
        self.scale = self.head_width**-0.5
        self.branches = branches_of(call.p)
        # Of each branch: the norm behind it, its last bias, and of feed-forward layers the first one; last of reading.
        sizes = [3 * self.width + self._hidden(branch, 2) for branch in self.branches] + [3 * self.width]
        self.vectors = self.empty(sum(sizes))
        self.of_branch = self.vectors.split(sizes, 1)

    @staticmethod
    def _hidden(branch: Branch, times: int) -> int:
        w = branch.weights
        return 0 if isinstance(w, LayerParameters) else times * w.out_weight.shape[1]

    def empty(self, *shape: int) -> Tensor:
        """``[W, ...]`` float32."""
        return self.pooled.new_empty(self.windows, *shape, dtype=torch.float32)

    def product(self, left: Tensor, right: Tensor) -> Tensor:
        """Over all windows and latents: ``left [..., m]`` and ``right [..., n]`` -> ``[m, n]``, if it is wanted."""
        if not self.needs_weights:
            return self.empty()[:0]
        return left.float().flatten(0, -2).mT @ right.float().flatten(0, -2)

    def step(self, vectors: Tensor) -> dict[str, Any]:
        """What a kernel needs to begin with the gradient behind it, and where its own sums are."""
        return {**self.behind, **self.shared, "vectors": vectors, "vectors_stride": self.vectors.shape[1]}

    def run(self, grad_keys: Tensor, grad_values: Tensor, states: Tensor) -> list[Tensor]:
        of_write = self.write(grad_keys, grad_values, states[-1])
        of_branches: list[list[Tensor]] = []
        for number in reversed(range(len(self.branches))):
            branch, vectors = self.branches[number], self.of_branch[number]
            drop = self.drops.branch_at(branch.column or 0) | ({"DROPS": False} if branch.column is None else {})
            drop |= {"LAST": number == len(self.branches) - 1}
            back = self.attention if isinstance(branch.weights, LayerParameters) else self.feed_forward
            of_branches.insert(0, back(branch, states[number], vectors, drop))
        grad_pooled, grad_initial, of_read = self.read()
        return self.in_order(grad_pooled, grad_initial, of_read, of_branches, of_write)

    def write(self, grad_keys: Tensor, grad_values: Tensor, z: Tensor) -> list[Tensor]:
        p, d, dh = self.p, self.width, self.head_width
        normed, parts = self.empty(self.latents, d), self.empty(2, self.latents, d)
        heads, grad_heads = self.empty(self.latents, 2, dh), self.empty(self.latents, 2, dh)
        latent_write_backward_kernel[(2 * self.windows,)](
            **self.shared,
            **turn(self.turns.writing),
            z=z,
            norm_weight=p.write_norm_weight,
            norm_bias=p.write_norm_bias,
            key_weight=p.write_key_weight,
            value_weight=p.write_value_weight,
            query_weight=p.write_query_weight,
            output_weight=p.write_output_weight,
            grad_keys=grad_keys,
            grad_values=grad_values,
            kept_normed=normed,
            kept_heads=heads,
            kept_grad_heads=grad_heads,
            new_parts=parts,
            scale=self.scale,
        )
        self.behind = {
            "behind_z": z,
            "behind_weight": p.write_norm_weight,
            "behind_grad": z,
            "parts": parts,
            "count": 2,
        }
        return [
            self.product(grad_heads[..., 0, :], normed),
            self.product(grad_heads[..., 1, :], normed),
            self.product(heads[..., 0, :], grad_keys),
            self.product(grad_values, heads[..., 1, :]),
        ]

    def feed_forward(self, branch: Branch, z: Tensor, vectors: Tensor, drop: dict[str, Any]) -> list[Tensor]:
        w, width = branch.weights, self.width
        assert isinstance(w, FeedForwardParameters)
        hidden, at_once = w.out_weight.shape[1], hidden_at_once(width)
        count = triton.cdiv(hidden, at_once)
        grad, parts = self.empty(self.latents, width), self.empty(count, self.latents, width)
        normed, grad_branch = self.empty(self.latents, width), self.empty(self.latents, width)
        gated, grad_hidden = self.empty(self.latents, hidden), self.empty(self.latents, 2 * hidden)
        latent_ffn_backward_kernel[(self.windows * count,)](
            **self.step(vectors),
            **drop,
            **self.drops.ffn_at(branch.ffn_column or 0),
            z=z,
            norm_weight=w.norm_weight,
            norm_bias=w.norm_bias,
            in_weight=w.in_weight,
            in_bias=w.in_bias,
            out_weight=w.out_weight,
            new_grad=grad,
            new_parts=parts,
            kept_normed=normed,
            kept_grad_branch=grad_branch,
            kept_gated=gated,
            kept_grad_hidden=grad_hidden,
            F=hidden,
            BLOCK_F=at_once,
        )
        self.behind = {
            "behind_z": z,
            "behind_weight": w.norm_weight,
            "behind_grad": grad,
            "parts": parts,
            "count": count,
        }
        return [self.product(grad_hidden, normed), self.product(grad_branch, gated)]

    def attention(self, branch: Branch, z: Tensor, vectors: Tensor, drop: dict[str, Any]) -> list[Tensor]:
        w, width, heads = branch.weights, self.width, self.heads
        assert isinstance(w, LayerParameters)
        grad, parts = self.empty(self.latents, width), self.empty(heads, self.latents, width)
        normed, grad_branch = self.empty(self.latents, width), self.empty(self.latents, width)
        attended, grad_heads = (self.empty(self.latents, n * heads * self.head_width) for n in (1, 3))
        latent_attention_backward_kernel[(self.windows * heads,)](
            **self.step(vectors),
            **drop,
            **turn(self.turns.own),
            z=z,
            norm_weight=w.norm_weight,
            norm_bias=w.norm_bias,
            query_key_value_weight=w.query_key_value_weight,
            output_weight=w.output_weight,
            new_grad=grad,
            new_parts=parts,
            kept_normed=normed,
            kept_grad_branch=grad_branch,
            kept_attended=attended,
            kept_grad_heads=grad_heads,
            scale=self.scale,
            HEADS=heads,
        )
        self.behind = {
            "behind_z": z,
            "behind_weight": w.norm_weight,
            "behind_grad": grad,
            "parts": parts,
            "count": heads,
        }
        return [self.product(grad_heads, normed), self.product(grad_branch, attended)]

    def read(self) -> tuple[Tensor, Tensor, list[Tensor]]:
        p, segments, dh = self.p, self.segments, self.head_width
        grad, read = self.empty(self.latents, self.width), self.empty(self.latents, dh)
        grad_read = self.empty(segments, self.latents, dh)
        grad_pooled = self.empty(segments, self.latents, self.width)
        latent_read_backward_kernel[(self.windows,)](
            **self.step(self.of_branch[-1]),
            **turn(self.turns.reading),
            pooled=self.pooled,
            value_weight=p.read_value_weight,
            output_weight=p.read_output_weight,
            new_grad=grad,
            kept_read=read,
            kept_grad_read=grad_read,
            grad_pooled=grad_pooled,
            S=segments,
        )
        grad_initial = grad.sum(0, keepdim=True) if self.one_start else grad
        return grad_pooled, grad_initial, [self.product(grad_read, self.pooled), self.product(grad, read)]

    def in_order(
        self,
        grad_pooled: Tensor,
        grad_initial: Tensor,
        of_read: Sequence[Tensor],
        of_branches: Sequence[Sequence[Tensor]],
        of_write: Sequence[Tensor],
    ) -> list[Tensor]:
        """Gradients of what was pooled, of the initial latents, and of the parameters as they lie in the flat list."""
        width = self.width
        if not self.needs_weights:
            return [grad_pooled, grad_initial, *(self.empty()[:0].clone() for _ in self.p.flat())]
        *behind, last = self.vectors.sum(0).split([vectors.shape[1] for vectors in self.of_branch])
        norms = [vectors[: 2 * width].split(width) for vectors in (last, *behind)]  # of each branch, and of writing
        biases = [vectors[2 * width : 3 * width] for vectors in behind]
        found = [grad_pooled, grad_initial, *of_read, last[2 * width :]]
        for branch, norm, matrices, bias, vectors in zip(
            self.branches, norms, of_branches, biases, behind, strict=False
        ):
            first, second = matrices
            of_hidden = [] if isinstance(branch.weights, LayerParameters) else [vectors[3 * width :]]
            found += [*norm, first, *of_hidden, second, bias]
        return [*found, *norms[-1], *of_write]


def latent_transformer_backward(
    grad_keys: Tensor, grad_values: Tensor, states: Tensor, call: Call, *, needs_weights: bool
) -> list[Tensor]:
    """Gradients, float32, of pooled, initial and the parameters in the order of the flat list.

    ``grad_keys`` and ``grad_values`` are contiguous, ``states`` is what :func:`poco.kernels.latents.latent_transformer`
    kept. Without ``needs_weights`` gradients of the parameters are empty.
    """
    if not call.pooled.shape[0]:
        return [torch.zeros_like(t, dtype=torch.float32) for t in (call.pooled, call.initial, *call.p.flat())]
    backward = _Backward(call, call.drops or Drops(states, 0.0, 0.0), needs_weights)
    with launch.on(call.initial, backward.shared):
        return backward.run(grad_keys, grad_values, states)
