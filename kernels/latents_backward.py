"""Between the passes, backward: a launch for each branch of the latents, and products of whole matrices for weights.

What kernels store for the gradients of weights is multiplied by torch, over all windows at once; the gradients of
vectors, which they leave for each window, are added up by one sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from poco.kernels import launch
from poco.kernels.latents import Branch, Call, Drops, branches_of, hidden_at_once, shared_sizes, turn
from poco.kernels.latents_backward_kernels import (
    latent_attention_backward_kernel,
    latent_ffn_backward_kernel,
    latent_read_backward_kernel,
    latent_write_backward_kernel,
)
from poco.ops.parameters import FeedForwardParameters, LayerParameters


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
        warps = {"num_warps": 4 if width <= 128 else 8}  # of float32 too: with more of them it spills
        latent_ffn_backward_kernel[(self.windows * count,)](
            **{**self.step(vectors), **warps},
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
