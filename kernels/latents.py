"""Between the passes, for inference: the latents read, attend to each other, and write, in a few small launches.

One window's latents are too little work for one program to wait for all the weights, so each step is cut: programs
take some hidden units or a head, and leave a part of the branch, which the next step's programs add up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from poco.kernels import launch
from poco.kernels.common import gelu, load_matrix, load_vector, standardise, store_matrix
from poco.ops.model_reference import angles, times
from poco.ops.parameters import LatentParameters, LayerParameters


@triton.jit
def rotate(x, table, latent, back, Q: tl.constexpr, DH: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_H: tl.constexpr):
    """Interleaved pairs of ``x [BLOCK_Q, BLOCK_H]`` turned by a table ``[2, Q, DH / 2]`` of cosines and sines.

    ``back`` is 1, or -1 to turn the other way.
    """
    pair = tl.arange(0, BLOCK_H // 2)
    cos = load_matrix(table, latent, pair, Q, DH // 2, DH // 2, False)
    sin = load_matrix(table + Q * (DH // 2), latent, pair, Q, DH // 2, DH // 2, False) * back
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
    table,  # [S, 2, Q, DH / 2]
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
        value = tl.dot(p, tl.trans(weight), input_precision=PRECISION)
        total += rotate(value, table + segment * Q * DH, latent, 1.0, Q, DH, BLOCK_Q, BLOCK_H)
    out = load_matrix(output_weight, feature, head, d, DH, DH, False).to(FACTOR)
    z = load_matrix(initial, latent, feature, Q, d, d, False).to(tl.float32)
    z += load_vector(output_bias, feature, d)[None, :]
    return tl.dot(total.to(FACTOR), tl.trans(out), z, input_precision=PRECISION)


@triton.jit
def gather(base, parts, count, bias, latent, feature, Q: tl.constexpr, d: tl.constexpr):
    """The latents ``base`` plus a branch that was left in ``count`` parts, and its bias."""
    z = load_matrix(base, latent, feature, Q, d, d, False) + load_vector(bias, feature, d)[None, :]
    for part in range(count):
        z += load_matrix(parts + part * Q * d, latent, feature, Q, d, d, False)
    return z


@triton.jit
def normalise(z, weight, bias, feature, eps, d: tl.constexpr):
    """Layer normalisation of ``z``, 0 from feature ``d`` on."""
    standard, _ = standardise(z, feature, eps, d)
    return standard * load_vector(weight, feature, d)[None, :] + load_vector(bias, feature, d)[None, :]


@triton.jit(do_not_specialize=["count"])
def latent_ffn_kernel(
    pooled,
    initial,
    value_weight,
    output_weight,
    output_bias,
    table,
    base,
    parts,
    count,
    branch_bias,
    norm_weight,
    norm_bias,
    in_weight,
    in_bias,
    out_weight,
    new_base,
    new_parts,
    initial_stride,
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
            table,
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
        z = gather(base + window * Q * d, parts + window * count * Q * d, count, branch_bias, latent, feature, Q, d)
    if block == 0:
        store_matrix(new_base + window * Q * d, z, latent, feature, Q, d, d)
    normed = normalise(z, norm_weight, norm_bias, feature, eps, d).to(FACTOR)
    value_in = load_matrix(in_weight, hidden, feature, F, d, d, False).to(FACTOR)
    gate_in = load_matrix(in_weight + F * d, hidden, feature, F, d, d, False).to(FACTOR)
    value = tl.dot(normed, tl.trans(value_in), input_precision=PRECISION) + load_vector(in_bias, hidden, F)[None, :]
    gate = tl.dot(normed, tl.trans(gate_in), input_precision=PRECISION) + load_vector(in_bias + F, hidden, F)[None, :]
    out = load_matrix(out_weight, feature, hidden, d, F, F, False).to(FACTOR)
    part = tl.dot((value * gelu(gate)).to(FACTOR), tl.trans(out), input_precision=PRECISION)
    store_matrix(new_parts + (window * COUNT + block) * Q * d, part, latent, feature, Q, d, d)


@triton.jit(do_not_specialize=["count"])
def latent_attention_kernel(
    base,
    parts,
    count,
    branch_bias,
    norm_weight,
    norm_bias,
    query_key_value_weight,
    output_weight,
    table,  # [2, Q, DH / 2]
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
    FACTOR: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One head of the self-attention of one window's latents."""
    head = tl.program_id(0) % HEADS
    window = (tl.program_id(0) // HEADS).to(tl.int64)
    latent = tl.arange(0, BLOCK_Q)
    feature = tl.arange(0, BLOCK_D)
    channel = tl.arange(0, BLOCK_H)
    z = gather(base + window * Q * d, parts + window * count * Q * d, count, branch_bias, latent, feature, Q, d)
    if head == 0:
        store_matrix(new_base + window * Q * d, z, latent, feature, Q, d, d)
    normed = normalise(z, norm_weight, norm_bias, feature, eps, d).to(FACTOR)
    own = query_key_value_weight + head * DH * d
    query_weight = load_matrix(own, channel, feature, DH, d, d, False).to(FACTOR)
    key_weight = load_matrix(own + HEADS * DH * d, channel, feature, DH, d, d, False).to(FACTOR)
    value_weight = load_matrix(own + 2 * HEADS * DH * d, channel, feature, DH, d, d, False).to(FACTOR)
    query = tl.dot(normed, tl.trans(query_weight), input_precision=PRECISION)
    key = tl.dot(normed, tl.trans(key_weight), input_precision=PRECISION)
    value = tl.dot(normed, tl.trans(value_weight), input_precision=PRECISION)
    query = rotate(query, table, latent, 1.0, Q, DH, BLOCK_Q, BLOCK_H).to(FACTOR)
    key = rotate(key, table, latent, 1.0, Q, DH, BLOCK_Q, BLOCK_H).to(FACTOR)
    value = rotate(value, table, latent, 1.0, Q, DH, BLOCK_Q, BLOCK_H).to(FACTOR)
    score = tl.dot(query, tl.trans(key), input_precision=PRECISION) * scale
    score = tl.where(latent[None, :] < Q, score, float("-inf"))
    share = tl.exp(score - tl.max(score, 1)[:, None])
    share = (share / tl.sum(share, 1)[:, None]).to(FACTOR)
    attended = tl.dot(share, value, input_precision=PRECISION)
    attended = rotate(attended, table, latent, -1.0, Q, DH, BLOCK_Q, BLOCK_H).to(FACTOR)
    out = load_matrix(output_weight + head * DH, feature, channel, d, DH, HEADS * DH, False).to(FACTOR)
    part = tl.dot(attended, tl.trans(out), input_precision=PRECISION)
    store_matrix(new_parts + (window * HEADS + head) * Q * d, part, latent, feature, Q, d, d)


@triton.jit(do_not_specialize=["count"])
def latent_write_kernel(
    base,
    parts,
    count,
    branch_bias,
    norm_weight,
    norm_bias,
    key_weight,
    value_weight,
    query_weight,
    output_weight,
    table,  # [2, Q, DH / 2]
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
    FACTOR: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Keys (even programs) or values (odd ones) of one window's latents for pass 2."""
    window = (tl.program_id(0) // 2).to(tl.int64)
    latent = tl.arange(0, BLOCK_Q)
    feature = tl.arange(0, BLOCK_D)
    channel = tl.arange(0, BLOCK_H)
    z = gather(base + window * Q * d, parts + window * count * Q * d, count, branch_bias, latent, feature, Q, d)
    normed = normalise(z, norm_weight, norm_bias, feature, eps, d).to(FACTOR)
    if tl.program_id(0) % 2 == 0:
        into_key = load_matrix(key_weight, channel, feature, DH, d, d, False).to(FACTOR)
        turned = tl.dot(normed, tl.trans(into_key), input_precision=PRECISION)
        turned = rotate(turned, table, latent, 1.0, Q, DH, BLOCK_Q, BLOCK_H).to(FACTOR)
        out_of_query = load_matrix(query_weight, channel, feature, DH, d, d, False).to(FACTOR)
        key = tl.dot(turned, out_of_query, input_precision=PRECISION) * scale
        store_matrix(keys + window * Q * d, key, latent, feature, Q, d, d)
    else:
        into_value = load_matrix(value_weight, channel, feature, DH, d, d, False).to(FACTOR)
        narrow = tl.dot(normed, tl.trans(into_value), input_precision=PRECISION).to(FACTOR)
        out = load_matrix(output_weight, feature, channel, d, DH, DH, False).to(FACTOR)
        value = tl.dot(narrow, tl.trans(out), input_precision=PRECISION)
        store_matrix(values + window * Q * d, value, latent, feature, Q, d, d)


@dataclass(frozen=True)
class RotaryTables:
    """Cosines and sines, float32, of the angles that the latents turn by.

    Attributes:
        reading: ``[S, 2, Q, dh / 2]`` from a segment's time to a latent's.
        own: ``[2, Q, dh / 2]`` of a latent's time.
        writing: ``[2, Q, dh / 2]`` from the time of the forecast to a latent's.
    """

    reading: Tensor
    own: Tensor
    writing: Tensor

    @classmethod
    def of(cls, frequencies: Tensor, latents: int, segments: int, context: int) -> RotaryTables:
        """The tables of latents and segments spread over ``context`` frames."""
        latent, segment = times(latents, segments, context, frequencies.device)

        def table(time: Tensor) -> Tensor:
            angle = angles(time, frequencies)
            return torch.stack([angle.cos(), angle.sin()], -3).float().contiguous()

        return cls(table(segment[:, None] - latent), table(latent), table(latent - context))


class _Latents:
    """The latents of all windows between two steps: a base, and a branch in parts that is still to be added."""

    def __init__(self, like: Tensor, windows: int, latents: int, width: int) -> None:
        self.like, self.shape = like, (windows, latents, width)
        self.base = self.parts = like.new_empty(0, dtype=torch.float32)
        self.count, self.bias = 0, like

    def fresh(self, count: int) -> tuple[Tensor, Tensor]:
        windows, latents, width = self.shape
        base = self.like.new_empty(windows * latents * width, dtype=torch.float32)
        return base, self.like.new_empty(windows * count * latents * width, dtype=torch.float32)

    def step(self, base: Tensor, parts: Tensor, count: int, bias: Tensor) -> None:
        self.base, self.parts, self.count, self.bias = base, parts, count, bias

    def state(self) -> dict[str, Any]:
        return {"base": self.base, "parts": self.parts, "count": self.count, "branch_bias": self.bias}


def fits(initial: Tensor) -> bool:
    """Whether the kernels hold the latents of a window ``[1 or W, Q, d]`` on every chip, beside a head's weights."""
    latents, width = initial.shape[1:]
    if initial.dtype is torch.float32:
        return width <= 128 and latents <= 16
    return launch.block_of(latents) * launch.block_of(width) <= 16_384


def latent_transformer(
    pooled: Tensor, initial: Tensor, p: LatentParameters, tables: RotaryTables, heads: int, eps: float
) -> tuple[Tensor, Tensor]:
    """Keys and values ``[W, Q, d]`` of pass 2, in the dtype of the latents; parameters are dense and of that dtype."""
    windows, segments, latents, width = pooled.shape
    head_width = p.read_value_weight.shape[0]
    shared = {
        "eps": eps,
        "Q": latents,
        "d": width,
        "DH": head_width,
        "BLOCK_Q": launch.block_of(latents),
        "BLOCK_D": launch.block_of(width),
        "BLOCK_H": launch.block_of(head_width),
        "num_warps": 4 if width <= 128 and initial.dtype is not torch.float32 else 8,
        "num_stages": 1,
        **launch.products(initial.dtype, width, latents),
    }
    z = _Latents(initial, windows, latents, width)

    def feed_forward(weights: Any, first: bool) -> None:
        hidden = weights.out_weight.shape[1]
        at_once = 32 if width <= 128 else 16  # hidden units of a program
        count = triton.cdiv(hidden, at_once)
        base, parts = z.fresh(count)
        before = {"base": base, "parts": base, "count": 0, "branch_bias": p.read_output_bias} if first else z.state()
        latent_ffn_kernel[(windows * count,)](
            **before,
            **shared,
            pooled=pooled,
            initial=initial,
            value_weight=p.read_value_weight,
            output_weight=p.read_output_weight,
            output_bias=p.read_output_bias,
            table=tables.reading,
            norm_weight=weights.norm_weight,
            norm_bias=weights.norm_bias,
            in_weight=weights.in_weight,
            in_bias=weights.in_bias,
            out_weight=weights.out_weight,
            new_base=base,
            new_parts=parts,
            initial_stride=0 if initial.shape[0] == 1 else latents * width,
            S=segments,
            F=hidden,
            BLOCK_F=at_once,
            FIRST=first,
        )
        z.step(base, parts, count, weights.out_bias)

    def attention(layer: LayerParameters) -> None:
        base, parts = z.fresh(heads)
        latent_attention_kernel[(windows * heads,)](
            **z.state(),
            **shared,
            norm_weight=layer.norm_weight,
            norm_bias=layer.norm_bias,
            query_key_value_weight=layer.query_key_value_weight,
            output_weight=layer.output_weight,
            table=tables.own,
            new_base=base,
            new_parts=parts,
            scale=head_width**-0.5,
            HEADS=heads,
        )
        z.step(base, parts, heads, layer.output_bias)

    keys, values = initial.new_empty(windows, latents, width), initial.new_empty(windows, latents, width)
    if not windows:
        return keys, values
    with launch.on(initial, shared):
        feed_forward(p.read_ffn, first=True)
        for layer in p.layers:
            attention(layer)
            feed_forward(layer.ffn, first=False)
        latent_write_kernel[(2 * windows,)](
            **z.state(),
            **shared,
            norm_weight=p.write_norm_weight,
            norm_bias=p.write_norm_bias,
            key_weight=p.write_key_weight,
            value_weight=p.write_value_weight,
            query_weight=p.write_query_weight,
            output_weight=p.write_output_weight,
            table=tables.writing,
            keys=keys,
            values=values,
            scale=head_width**-0.5,
        )
    return keys, values
