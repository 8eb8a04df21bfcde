"""POCO as the paper writes it: tokens, keys, values, a Perceiver, an MLP with FiLM. Slow, plain, one session at a time.

Takes the parameters of a ``poco.POCO`` and nothing else from it: no op, no absorbed weight, no folded shift.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import poco


def rotate(x: Tensor, time: Tensor, frequencies: Tensor) -> Tensor:
    """Interleaved pairs of the first half of the last axis turn by ``time * frequency``."""
    angle = time[..., None].double() * torch.cat([frequencies, torch.zeros_like(frequencies)]).double()
    real, imaginary = x[..., 0::2], x[..., 1::2]
    cos, sin = angle.cos().to(x), angle.sin().to(x)
    return torch.stack([real * cos - imaginary * sin, imaginary * cos + real * sin], -1).flatten(-2)


def feed_forward(x: Tensor, layer: nn.Module) -> Tensor:
    hidden = layer.input(layer.norm(x))
    half = hidden.shape[-1] // 2
    return layer.output(hidden[..., :half] * F.gelu(hidden[..., half:]))


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return torch.softmax(query @ key.mT / query.shape[-1] ** 0.5, -1) @ value


def forecast(model: poco.POCO, x: Tensor, session: int) -> Tensor:
    """``[B, N, C]`` to ``[B, N, H]`` in evaluation mode."""
    config, spec = model.config, model.sessions[session]
    own, frequencies = model.session_embeddings[session], model.rotary.frequencies
    x = x[..., config.context - config.seen :]
    windows, units = x.shape[:2]

    unit = own.units
    dataset = model.datasets[list(dict.fromkeys(s.dataset for s in model.sessions)).index(spec.dataset)]
    if config.session_embedding:
        unit = unit + own.session + dataset
    if config.unit_type_embedding:
        names = list(dict.fromkeys(t for s in model.sessions for t in s.unit_types))
        unit = unit + torch.stack([model.unit_types[names.index(t)] for t in spec.unit_types])

    segments = x.reshape(windows, units, config.segments, config.segment_length)
    tokens = (model.token(segments) + unit[None, :, None]).flatten(1, 2)
    token_time = (torch.arange(config.segments) * config.segment_length).repeat(units)
    latent_time = (torch.arange(config.latents).double() * (config.seen / config.latents)).float()

    z = model.latents.expand(windows, -1, -1)
    if config.latent_session_embedding:
        z = z + own.session + dataset
    layer = model.encoder
    context = layer.context_norm(tokens)
    query = rotate(layer.query(layer.query_norm(z)), latent_time, frequencies)
    key, value = (rotate(p(context), token_time, frequencies) for p in (layer.key, layer.value))
    z = z + layer.output(rotate(attention(query, key, value), -latent_time, frequencies))
    z = z + feed_forward(z, model.encoder_ffn)

    for block in model.layers:
        qkv = block.attention.query_key_value(block.attention.norm(z)).chunk(3, -1)
        qkv = [p.unflatten(-1, (config.heads, config.head_width)).transpose(1, 2) for p in qkv]
        out = attention(*(rotate(p, latent_time, frequencies) for p in qkv))
        z = z + block.attention.output(rotate(out, -latent_time, frequencies).transpose(1, 2).flatten(2))
        z = z + feed_forward(z, block.ffn)

    layer = model.decoder
    context = layer.context_norm(z)
    query = rotate(layer.query(layer.query_norm(unit)), torch.full((units,), config.seen), frequencies)
    key = rotate(layer.key(context), latent_time, frequencies)
    e = unit + layer.output(attention(query.expand(windows, -1, -1), key, layer.value(context)))
    e = e + feed_forward(e, model.decoder_ffn)

    film = model.film
    if not config.film_width:
        return film.output(e)
    hidden = F.relu(film.input(x))
    for deeper in film.deeper:
        hidden = F.relu(deeper(hidden))
    return film.output(hidden * film.scale(e) + film.shift(e))
