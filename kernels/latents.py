"""Between the passes: the latents read, attend to each other, and write, in a few small launches.

In training the latents before each branch are kept; ``latents_backward.py`` makes all else again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from poco.kernels import launch
from poco.kernels.latents_kernels import latent_attention_kernel, latent_ffn_kernel, latent_write_kernel
from poco.ops.model_reference import Turn, Turns
from poco.ops.parameters import FeedForwardParameters, LatentParameters, LayerParameters


@dataclass(frozen=True)
class Drops:
    """What is dropped in training.

    Attributes:
        seed: one int64.
        ffn: probability inside the feed-forward layers.
        branch: probability on both branches of a layer.
    """

    seed: Tensor
    ffn: float
    branch: float

    def branch_at(self, column: int) -> dict[str, Any]:
        """What kernels are told of a branch whose random words begin at a column."""
        return {
            "seed": self.seed,
            "column": column,
            "threshold": round(self.branch * 2**32),
            "dropout_scale": 1 / (1 - self.branch),
            "DROPS": self.branch > 0,
        }

    def ffn_at(self, column: int) -> dict[str, Any]:
        """What kernels are told of hidden units whose random words begin at a column."""
        return {
            "ffn_column": column,
            "ffn_threshold": round(self.ffn * 2**32),
            "ffn_scale": 1 / (1 - self.ffn),
            "FFN_DROPS": self.ffn > 0,
        }


@dataclass(frozen=True)
class Branch:
    """A branch of the latents: its parameters and where its random words begin.

    Attributes:
        weights: of a feed-forward layer, or of a layer whose attention it is.
        ffn_column: of the words of its hidden units; None for attention.
        column: of the words of what it gives; None if nothing of that is dropped.
    """

    weights: FeedForwardParameters | LayerParameters
    ffn_column: int | None
    column: int | None


def branches_of(p: LatentParameters) -> list[Branch]:
    """All branches in order; the random words are those of ``model_reference.latent_transformer``."""

    def words(tensor: Tensor, dim: int) -> int:
        return -(-tensor.shape[dim] // 4) * 4

    found, column = [Branch(p.read_ffn, 0, None)], words(p.read_ffn.out_weight, 1)
    for layer in p.layers:
        width, hidden = words(layer.norm_weight, 0), words(layer.ffn.out_weight, 1)
        found.append(Branch(layer, None, column))
        found.append(Branch(layer.ffn, column + width, column + width + hidden))
        column += 2 * width + hidden
    return found


def fits(dtype: torch.dtype, latents: int, width: int) -> bool:
    """Whether the kernels hold the latents of a window on every chip, beside a head's weights."""
    if dtype is torch.float32:
        return width <= 128 and latents <= 16
    return launch.block_of(latents) * launch.block_of(width) <= 16_384


def turn(by: Turn) -> dict[str, Tensor]:
    """The two tensors of a turn as kernels take them."""
    return {"along": by.along, "across": by.across}


def hidden_at_once(width: int) -> int:
    """Hidden units of a program."""
    return 32 if width <= 128 else 16


@dataclass(frozen=True)
class Call:
    """What the latents are made from.

    Attributes:
        pooled: ``[W, S, Q, d]``, contiguous.
        initial: ``[1 or W, Q, d]``, contiguous; of the dtype that products are made of.
        p: dense parameters of that dtype.
        turns: float32.
        heads: heads of the self-attention.
        eps: added to the variance in all layer normalisations.
        drops: what is dropped; None for nothing.
    """

    pooled: Tensor
    initial: Tensor
    p: LatentParameters
    turns: Turns
    heads: int
    eps: float
    drops: Drops | None = None


def shared_sizes(call: Call) -> dict[str, Any]:
    """What all kernels of the latents take."""
    latents, width = call.initial.shape[1:]
    head_width, dtype = call.p.read_value_weight.shape[0], call.initial.dtype
    return {
        "eps": call.eps,
        "Q": latents,
        "d": width,
        "DH": head_width,
        "BLOCK_Q": launch.block_of(latents),
        "BLOCK_D": launch.block_of(width),
        "BLOCK_H": launch.block_of(head_width),
        "num_warps": 4 if width <= 128 and dtype is not torch.float32 else 8,
        "num_stages": 1,
        **launch.products(dtype, width, latents, launch.PARTS),
    }


def latent_transformer(call: Call) -> tuple[Tensor, Tensor, Tensor]:
    """Keys and values ``[W, Q, d]`` of pass 2, in the dtype of the latents, and what the backward needs.

    That is ``[2 + 2 layers, W, Q, d]`` float32, the latents before each branch, and behind the last.
    """
    pooled, initial, p, turns, heads = call.pooled, call.initial, call.p, call.turns, call.heads
    windows, segments, latents, width = pooled.shape
    head_width = p.read_value_weight.shape[0]
    shared = shared_sizes(call)
    branches = branches_of(p)
    states = initial.new_empty(len(branches) + 1, windows, latents, width, dtype=torch.float32)
    keys, values = initial.new_empty(windows, latents, width), initial.new_empty(windows, latents, width)
    if not windows:
        return keys, values, states
    drops = call.drops or Drops(states, 0.0, 0.0)  # a seed that is not read
    before: dict[str, Any] = {"base": states, "parts": states, "count": 0, "branch_bias": p.read_output_bias}
    before |= {**drops.branch_at(0), "DROPS": False}

    def feed_forward(w: FeedForwardParameters, branch: Branch, state: Tensor) -> tuple[Tensor, int]:
        hidden, at_once = w.out_weight.shape[1], hidden_at_once(width)
        count, first = triton.cdiv(hidden, at_once), branch is branches[0]
        parts = states.new_empty(windows, count, latents, width)
        latent_ffn_kernel[(windows * count,)](
            **before,
            **shared,
            **drops.ffn_at(branch.ffn_column or 0),
            **turn(turns.reading),
            pooled=pooled,
            initial=initial,
            value_weight=p.read_value_weight,
            output_weight=p.read_output_weight,
            output_bias=p.read_output_bias,
            norm_weight=w.norm_weight,
            norm_bias=w.norm_bias,
            in_weight=w.in_weight,
            in_bias=w.in_bias,
            out_weight=w.out_weight,
            new_base=state,
            new_parts=parts,
            initial_stride=0 if initial.shape[0] == 1 else latents * width,
            S=segments,
            F=hidden,
            BLOCK_F=at_once,
            FIRST=first,
        )
        return parts, count

    def attention(w: LayerParameters, state: Tensor) -> tuple[Tensor, int]:
        parts = states.new_empty(windows, heads, latents, width)
        latent_attention_kernel[(windows * heads,)](
            **before,
            **shared,
            **turn(turns.own),
            norm_weight=w.norm_weight,
            norm_bias=w.norm_bias,
            query_key_value_weight=w.query_key_value_weight,
            output_weight=w.output_weight,
            new_base=state,
            new_parts=parts,
            scale=head_width**-0.5,
            HEADS=heads,
        )
        return parts, heads

    with launch.on(initial, shared):
        for branch, state in zip(branches, states, strict=False):
            w = branch.weights
            if isinstance(w, LayerParameters):
                (parts, count), bias = attention(w, state), w.output_bias
            else:
                (parts, count), bias = feed_forward(w, branch, state), w.out_bias
            before = {"base": state, "parts": parts, "count": count, "branch_bias": bias}
            before |= drops.branch_at(branch.column or 0) | ({"DROPS": False} if branch.column is None else {})
        latent_write_kernel[(2 * windows,)](
            **before,
            **shared,
            **turn(turns.writing),
            norm_weight=p.write_norm_weight,
            norm_bias=p.write_norm_bias,
            key_weight=p.write_key_weight,
            value_weight=p.write_value_weight,
            query_weight=p.write_query_weight,
            output_weight=p.write_output_weight,
            new_base=states[-1],
            keys=keys,
            values=values,
            scale=head_width**-0.5,
        )
    return keys, values, states
