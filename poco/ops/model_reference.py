"""The plain-torch reference of what lies before and between the two passes, and of the whole model's inference.

As in :mod:`poco.ops.reference`, all arithmetic is float32, or float64 where the input is float64. Shapes: ``W``
windows, ``S`` segments, ``Q`` latents, ``d`` width, ``dh`` head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from poco.ops.dropout import dropout_mask
from poco.ops.parameters import FeedForwardParameters, LatentParameters, LayerParameters, ModelParameters
from poco.ops.precision import transforms_active
from poco.ops.reference import accumulation_dtype, film_forecast, film_shift, latent_pool


def angles(time: Tensor, frequencies: Tensor) -> Tensor:
    """``[..., dh / 2]`` float64: what each pair of a head turns by at ``time [...]``; the second half does not turn."""
    angle = time.double()[..., None] * frequencies.double()
    return torch.cat([angle, torch.zeros_like(angle)], -1)


class Turn(NamedTuple):
    """What vectors ``[..., dh]`` turn by, in the shape of the times that it is made of.

    Attributes:
        along: ``[..., dh]``, what multiplies a vector.
        across: ``[..., dh]``, what multiplies it with its pairs swapped.
    """

    along: Tensor
    across: Tensor


class Turns(NamedTuple):
    """The turns before and between the passes.

    Attributes:
        reading: ``[S, Q]`` from a latent's time to a segment's.
        own: ``[Q]`` of a latent's time.
        writing: ``[Q]`` from the time of the forecast to a latent's.
    """

    reading: Turn
    own: Turn
    writing: Turn

    @classmethod
    def of(cls, latents: int, segments: int, context: int, frequencies: Tensor, dtype: torch.dtype) -> Turns:
        """Those of latents and segments spread over ``context`` frames."""
        latent, segment = times(latents, segments, context, frequencies.device)
        own_times = (segment[:, None] - latent, latent, latent - context)
        return cls(*(turn_of(time, frequencies, dtype) for time in own_times))


#: Of each tensor of frequencies the turns that were made of it.
_KEPT: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def turns_of(latents: int, segments: int, context: int, frequencies: Tensor, dtype: torch.dtype) -> Turns:
    """:meth:`Turns.of`, made once and kept as long as the frequencies: on a GPU it is dozens of small kernels.

    While a CUDA graph is recorded those that are kept serve; others are made within it, as their memory is its own.
    """
    if transforms_active() or type(frequencies) is not Tensor or frequencies.is_inference():
        return Turns.of(latents, segments, context, frequencies, dtype)
    kept: dict[tuple[Any, ...], Turns] = _KEPT.setdefault(frequencies, {})
    what = (latents, segments, context, dtype, frequencies._version)
    if what not in kept:
        if frequencies.is_cuda and torch.cuda.is_current_stream_capturing():
            return Turns.of(latents, segments, context, frequencies, dtype)
        with torch.inference_mode(False), torch.no_grad():
            made = Turns.of(latents, segments, context, frequencies, dtype)
        if type(made.own.along) is not Tensor:  # under a mode that computes nothing
            return made
        if frequencies.is_cuda:  # whichever stream they are used on next
            torch.cuda.current_stream(frequencies.device).synchronize()
        kept[what] = made
    return kept[what]


def turn_of(time: Tensor, frequencies: Tensor, dtype: torch.dtype) -> Turn:
    """The turn by ``time [...]`` (frames).

    Interleaved pairs of the first half turn by ``time`` times their frequency, the second half stays.
    """
    angle = angles(time, frequencies)[..., None]
    cos, sin = angle.cos(), angle.sin()
    along, across = torch.cat([cos, cos], -1), torch.cat([-sin, sin], -1)
    return Turn(along.flatten(-2).to(dtype), across.flatten(-2).to(dtype))


def rotate(x: Tensor, turn: Turn, *, back: bool = False) -> Tensor:
    """``x [..., dh]`` turned, or turned back; the turn broadcasts against it."""
    swapped = x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return torch.addcmul(x * turn.along, swapped, turn.across, value=-1 if back else 1)


def times(latents: int, segments: int, context: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """When in the context, in frames, the latents ``[Q]`` and the segments ``[S]`` are; float64.

    Those of the latents (``m * C / Q``, not always whole) are rounded to float32, as published.
    """
    latent = torch.arange(latents, dtype=torch.float64, device=device) * (context / latents)
    segment = torch.arange(segments, dtype=torch.float64, device=device) * (context // segments)
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
    """The queries ``[1 or W, S, Q, d]`` of pass 1: those of the latents, absorbed into token space and scaled.

    With segment ``s`` at time ``s * C / S``, latent ``m`` at ``m * C / Q`` and ``R`` the rotation by a time::

        queries[s, m] = key_weight^T R(time of m - time of s) query_weight LayerNorm(initial[m]) / sqrt(dh)
    """
    wide = accumulation_dtype(initial)
    turns = turns_of(initial.shape[1], segments, context, frequencies, wide)
    normed = F.layer_norm(initial.to(wide), initial.shape[-1:], norm_weight.to(wide), norm_bias.to(wide), eps)
    query = F.linear(normed, query_weight.to(wide))[:, None]
    turned = rotate(query, turns.reading, back=True)  # [1 or W, S, Q, dh]
    return ((turned @ key_weight.to(wide)) * key_weight.shape[0] ** -0.5).to(initial.dtype)


class _Dropout:
    """Drops elements of ``[W, Q, columns]``, one place after another; row of the random words is window and latent.

    The columns of each place begin where those of the one before end, at the next multiple of 4.
    """

    def __init__(self, seed: Tensor | None) -> None:
        self.seed, self.column = seed, 0

    def __call__(self, x: Tensor, p: float) -> Tensor:
        first, columns = self.column, x.shape[-1]
        self.column += -(-columns // 4) * 4
        if p == 0 or self.seed is None:
            return x
        return x * dropout_mask(self.seed, x.shape[0] * x.shape[1], columns, p, x.dtype, first).view_as(x)


def _feed_forward(x: Tensor, p: FeedForwardParameters, eps: float, drop: _Dropout, dropout: float) -> Tensor:
    value, gate = F.linear(
        F.layer_norm(x, x.shape[-1:], p.norm_weight, p.norm_bias, eps), p.in_weight, p.in_bias
    ).chunk(2, -1)
    return F.linear(drop(value * F.gelu(gate), dropout), p.out_weight, p.out_bias)


def _attention(z: Tensor, p: LayerParameters, heads: int, turn: Turn, eps: float, dropout: float) -> Tensor:
    normed = F.layer_norm(z, z.shape[-1:], p.norm_weight, p.norm_bias, eps)
    parts = F.linear(normed, p.query_key_value_weight).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    query, key, value = rotate(parts, turn)  # each [W, heads, Q, dh]
    weights = torch.softmax(query @ key.mT * query.shape[-1] ** -0.5, -1)
    attended = (F.dropout(weights, dropout) if dropout else weights) @ value
    back = rotate(attended, turn, back=True)
    return F.linear(back.transpose(1, 2).flatten(2), p.output_weight, p.output_bias)


def latents_read(pooled: Tensor, p: LatentParameters, turns: Turns) -> Tensor:
    """The branch ``[W, Q, d]`` (without the residual) that the latents get from what pass 1 pooled."""
    read = rotate(F.linear(pooled, p.read_value_weight), turns.reading)
    return F.linear(read.sum(1), p.read_output_weight, p.read_output_bias)


def latents_write(z: Tensor, p: LatentParameters, turns: Turns, eps: float) -> tuple[Tensor, Tensor]:
    """The keys and values ``[W, Q, d]`` of pass 2; the units ask at time ``C``."""
    normed = F.layer_norm(z, z.shape[-1:], p.write_norm_weight, p.write_norm_bias, eps)
    turned = rotate(F.linear(normed, p.write_key_weight), turns.writing)
    keys = (turned @ p.write_query_weight) * p.write_key_weight.shape[0] ** -0.5
    return keys, F.linear(F.linear(normed, p.write_value_weight), p.write_output_weight)


def latent_transformer(
    pooled: Tensor,
    initial: Tensor,
    parameters: Sequence[Tensor],
    frequencies: Tensor,
    heads: int,
    context: int,
    eps: float,
    ffn_dropout: float = 0.0,
    dropout: float = 0.0,
    seed: Tensor | None = None,
    attention_dropout: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """The keys and values ``[W, Q, d]`` of pass 2 from what pass 1 pooled. Autograd differentiates it.

    The latents read what was pooled, go through a gated feed-forward layer and through layers of rotary self-attention
    and feed-forward, each residual; times and rotations as in :func:`latent_queries`. ``ffn_dropout`` is inside the
    feed-forward layers, ``dropout`` on both branches of a layer, ``attention_dropout`` on the weights of the attention,
    drawn by torch.
    """
    wide, drop = accumulation_dtype(initial), _Dropout(seed)
    p = LatentParameters.of([t.to(wide) for t in parameters])
    turns = turns_of(initial.shape[1], pooled.shape[1], context, frequencies, wide)
    z = initial.to(wide) + latents_read(pooled.to(wide), p, turns)
    z = z + _feed_forward(z, p.read_ffn, eps, drop, ffn_dropout)
    for layer in p.layers:
        z = z + drop(_attention(z, layer, heads, turns.own, eps, attention_dropout), dropout)
        z = z + drop(_feed_forward(z, layer.ffn, eps, drop, ffn_dropout), dropout)
    keys, values = latents_write(z, p, turns, eps)
    return keys.to(initial.dtype), values.to(initial.dtype)


def inference(
    x: Tensor,
    unit_index: Tensor,
    window_offsets: Tensor,
    unit_table: Tensor,
    initial: Tensor,
    frequencies: Tensor,
    parameters: Sequence[Tensor],
    heads: int,
    eps: float,
    unit_shift: Tensor | None = None,
) -> Tensor:
    """See :func:`poco.ops.inference`."""
    if unit_shift is not None:
        unit_table = unit_table + unit_shift
    p, context = ModelParameters.of(parameters), x.shape[1]
    queries = latent_queries(initial, *p.asking, frequencies, context // p.token_weight.shape[1], context, eps)
    pooled, _ = latent_pool(x, unit_index, window_offsets, unit_table, *p.token, queries, eps)
    keys, values = latent_transformer(pooled, initial, p.latents, frequencies, heads, context, eps)
    film = p.film(*film_shift(p.out_weight, p.out_bias, p.shift_weight, p.shift_bias))
    seed = torch.zeros((), dtype=torch.int64, device=x.device)
    return film_forecast(x, unit_index, window_offsets, unit_table, keys, values, film, 0.0, seed, eps)
