"""The plain-torch reference of what happens to the latents before and between the passes, without dropout.

As in :mod:`poco.ops.reference`, all arithmetic is float32, or float64 where the latents are float64. Shapes: ``W``
windows, ``S`` segments, ``Q`` latents, ``d`` width, ``dh`` head width, ``F`` feed-forward width.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from poco.ops.reference import accumulation_dtype


class FeedForwardParameters(NamedTuple):
    """Parameters of a gated feed-forward layer."""

    norm_weight: Tensor  # [d]
    norm_bias: Tensor  # [d]
    in_weight: Tensor  # [2F, d]: values, then gates
    in_bias: Tensor  # [2F]
    out_weight: Tensor  # [d, F]
    out_bias: Tensor  # [d]


class LayerParameters(NamedTuple):
    """Parameters of one layer over the latents."""

    norm_weight: Tensor  # [d]
    norm_bias: Tensor  # [d]
    query_key_value_weight: Tensor  # [3 heads dh, d]
    output_weight: Tensor  # [d, heads dh]
    output_bias: Tensor  # [d]
    ffn_norm_weight: Tensor  # the rest as in FeedForwardParameters
    ffn_norm_bias: Tensor
    ffn_in_weight: Tensor
    ffn_in_bias: Tensor
    ffn_out_weight: Tensor
    ffn_out_bias: Tensor

    @property
    def ffn(self) -> FeedForwardParameters:
        """Those of the feed-forward layer."""
        return FeedForwardParameters(*self[5:])


@functools.cache
def latent_parameter_names(layers: int) -> tuple[str, ...]:
    """Names of all tensors of the latent transformer with so many layers, in order."""
    first, last = LatentParameters._fields[:3], LatentParameters._fields[5:]
    in_layers = (f"layer{i}_{name}" for i in range(layers) for name in LayerParameters._fields)
    return (*first, *(f"read_ffn_{name}" for name in FeedForwardParameters._fields), *in_layers, *last)


class LatentParameters(NamedTuple):
    """Parameters of the latent transformer: reading from the population, layers, writing to the units."""

    read_value_weight: Tensor  # [dh, d]
    read_output_weight: Tensor  # [d, dh]
    read_output_bias: Tensor  # [d]
    read_ffn: FeedForwardParameters
    layers: tuple[LayerParameters, ...]
    write_norm_weight: Tensor  # [d]
    write_norm_bias: Tensor  # [d]
    write_key_weight: Tensor  # [dh, d]
    write_value_weight: Tensor  # [dh, d]
    write_query_weight: Tensor  # [dh, d]
    write_output_weight: Tensor  # [d, dh]

    @classmethod
    def of(cls, flat: Sequence[Tensor]) -> LatentParameters:
        """The parameters out of one list of all tensors in order, which is what the op takes."""
        layers = tuple(LayerParameters(*flat[i : i + 11]) for i in range(9, len(flat) - 6, 11))
        value, output, bias = flat[:3]
        return cls(value, output, bias, FeedForwardParameters(*flat[3:9]), layers, *flat[-6:])


def rotate(x: Tensor, time: Tensor, frequencies: Tensor) -> Tensor:
    """``x [..., dh]`` rotated by ``time`` (frames), which broadcasts against ``x`` less its last axis.

    Interleaved pairs of the first half turn by ``time`` times their frequency, the second half stays.
    """
    angle = time.double()[..., None] * frequencies.double()  # [..., dh / 4]
    angle = torch.cat([angle, torch.zeros_like(angle)], -1)[..., None]  # the second half does not turn
    cos, sin = angle.cos(), angle.sin()
    along = torch.cat([cos, cos], -1).flatten(-2).to(x.dtype)  # [..., dh]
    across = torch.cat([-sin, sin], -1).flatten(-2).to(x.dtype)
    swapped = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return torch.addcmul(x * along, swapped, across)


def times(latents: int, segments: int, context: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """When in the context, in frames, the latents ``[Q]`` and the segments ``[S]`` are; float64.

    Those of the latents (``m * C / Q``, not always whole) are rounded to float32, as published.
    """
    latent = torch.arange(latents, device=device).double() * (context / latents)
    segment = torch.arange(segments, device=device).double() * (context // segments)
    return latent.float().double(), segment


def latent_queries(
    initial: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    query_weight: Tensor,
    key_weight: Tensor,
    frequencies: Tensor,
    segments: int,
    context: int,
    eps: float,
) -> Tensor:
    """See :func:`poco.ops.latent_queries`."""
    wide = accumulation_dtype(initial)
    latent_time, segment_time = times(initial.shape[1], segments, context, initial.device)
    normed = F.layer_norm(initial.to(wide), initial.shape[-1:], norm_weight.to(wide), norm_bias.to(wide), eps)
    query = F.linear(normed, query_weight.to(wide))[:, None]
    turned = rotate(query, latent_time - segment_time[:, None], frequencies)  # [1 or W, S, Q, dh]
    return ((turned @ key_weight.to(wide)) * key_weight.shape[0] ** -0.5).to(initial.dtype)


def _feed_forward(x: Tensor, p: FeedForwardParameters, eps: float) -> Tensor:
    value, gate = F.linear(
        F.layer_norm(x, x.shape[-1:], p.norm_weight, p.norm_bias, eps), p.in_weight, p.in_bias
    ).chunk(2, -1)
    return F.linear(value * F.gelu(gate), p.out_weight, p.out_bias)


def _attention(z: Tensor, p: LayerParameters, heads: int, time: Tensor, frequencies: Tensor, eps: float) -> Tensor:
    normed = F.layer_norm(z, z.shape[-1:], p.norm_weight, p.norm_bias, eps)
    parts = F.linear(normed, p.query_key_value_weight).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    query, key, value = rotate(parts, time, frequencies)  # each [W, heads, Q, dh]
    attended = torch.softmax(query @ key.mT * query.shape[-1] ** -0.5, -1) @ value
    back = rotate(attended, -time, frequencies)
    return F.linear(back.transpose(1, 2).flatten(2), p.output_weight, p.output_bias)


def latent_transformer(
    pooled: Tensor,
    initial: Tensor,
    parameters: Sequence[Tensor],
    frequencies: Tensor,
    heads: int,
    context: int,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """See :func:`poco.ops.latent_transformer`."""
    wide = accumulation_dtype(initial)
    p = LatentParameters.of([t.to(wide) for t in parameters])
    latent_time, segment_time = times(initial.shape[1], pooled.shape[1], context, initial.device)

    read = rotate(F.linear(pooled.to(wide), p.read_value_weight), segment_time[:, None] - latent_time, frequencies)
    z = initial.to(wide) + F.linear(read.sum(1), p.read_output_weight, p.read_output_bias)
    z = z + _feed_forward(z, p.read_ffn, eps)
    for layer in p.layers:
        z = z + _attention(z, layer, heads, latent_time, frequencies, eps)
        z = z + _feed_forward(z, layer.ffn, eps)

    normed = F.layer_norm(z, z.shape[-1:], p.write_norm_weight, p.write_norm_bias, eps)
    turned = rotate(F.linear(normed, p.write_key_weight), latent_time - context, frequencies)
    keys = (turned @ p.write_query_weight) * p.write_key_weight.shape[0] ** -0.5
    values = F.linear(F.linear(normed, p.write_value_weight), p.write_output_weight)
    return keys.to(initial.dtype), values.to(initial.dtype)
