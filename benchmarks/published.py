"""POCO as it was published: tokens, keys and values of all tokens, a Perceiver, an MLP with FiLM.

The peer of every case. Parameters come from a ``poco.POCO`` of one session, and nothing else does: no op, no absorbed
weight, no folded shift.
Where the published code leaves a choice, the faster way is taken: rotary tables are made once, queries of units are
made once for all windows, attention is PyTorch's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import poco


def _table(time: Tensor, frequencies: Tensor) -> Tensor:
    """``[2, ..., head width]``: cosine and sine of every channel's angle; the second half of the channels is still."""
    angle = time.double()[..., None] * frequencies.double()
    angle = torch.cat([angle.repeat_interleave(2, -1), torch.zeros_like(angle).repeat(*[1] * time.ndim, 2)], -1)
    return torch.stack([angle.cos(), angle.sin()])


def _rotate(x: Tensor, table: Tensor) -> Tensor:
    """Interleaved pairs of ``x [..., head width]`` turn by the angles of the table."""
    cos, sin = table.to(x.dtype)
    turned = torch.stack([-x[..., 1::2], x[..., 0::2]], -1).flatten(-2)
    return x * cos + turned * sin


def _norm(like: nn.LayerNorm) -> nn.LayerNorm:
    norm = nn.LayerNorm(like.weight.shape[0], eps=like.eps)
    norm.weight, norm.bias = like.weight, like.bias
    return norm


class FeedForward(nn.Module):
    """LayerNorm, Linear to value and gate, value * gelu(gate), dropout, Linear."""

    def __init__(self, of: Any, dropout: float) -> None:
        super().__init__()
        self.norm, self.input, self.output = _norm(of.norm), of.input, of.output
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.input(self.norm(x)).chunk(2, -1)
        return self.output(self.dropout(value * F.gelu(gate)))


class CrossAttention(nn.Module):
    """The parameters of one cross-attention of one head; keys and values are one product."""

    def __init__(self, of: Any) -> None:
        super().__init__()
        self.query_norm, self.context_norm = _norm(of.query_norm), _norm(of.context_norm)
        self.query, self.output = of.query, of.output
        width, head = of.key.weight.shape[1], of.key.weight.shape[0]
        self.key_value = nn.Linear(width, 2 * head, bias=False, device=of.key.weight.device)
        self.key_value.weight = nn.Parameter(torch.cat([of.key.weight, of.value.weight]).detach())


class SelfAttention(nn.Module):
    """Rotary self-attention of the latents: values rotate too, and the result rotates back."""

    def __init__(self, of: Any, heads: int) -> None:
        super().__init__()
        self.norm, self.query_key_value, self.output = _norm(of.norm), of.query_key_value, of.output
        self.heads = heads

    def forward(self, z: Tensor, forth: Tensor, back: Tensor) -> Tensor:
        query, key, value = (
            _rotate(part.unflatten(-1, (self.heads, -1)).transpose(1, 2), forth)
            for part in self.query_key_value(self.norm(z)).chunk(3, -1)
        )
        attended = _rotate(F.scaled_dot_product_attention(query, key, value), back)
        return self.output(attended.transpose(1, 2).flatten(2))


class PublishedPOCO(nn.Module):
    """The published form of a model of one session. It shares the model's parameters wherever they have one shape.

    Args:
        model: where the parameters come from.

    Attributes:
        block: units that go through the wide layers at a time (and, for gradients, are computed twice); None is all of
            them, as published. Only the judge of other answers uses this, where the whole does not fit in memory.
    """

    token_table: Tensor
    latent_table: Tensor
    latent_back_table: Tensor
    output_table: Tensor

    def __init__(self, model: poco.POCO) -> None:
        super().__init__()
        config = self.config = model.config
        self.block: int | None = None
        own: Any = model.session_embeddings[0]
        self.units, self.session, self.dataset = own.units, own.session, model.datasets[0]
        self.latents, self.token = model.latents, model.token
        drops = config.ffn_dropout
        self.encoder, self.encoder_ffn = CrossAttention(model.encoder), FeedForward(model.encoder_ffn, drops)
        self.attentions = nn.ModuleList(SelfAttention(layer.attention, config.heads) for layer in model.layers)
        self.ffns = nn.ModuleList(FeedForward(layer.ffn, drops) for layer in model.layers)
        self.branch_dropout = nn.Dropout(config.latent_dropout)
        self.decoder, self.decoder_ffn = CrossAttention(model.decoder), FeedForward(model.decoder_ffn, drops)
        self.input, self.scale, self.shift, self.output = (
            getattr(model.film, name) for name in ("input", "scale", "shift", "output")
        )
        latent_time = torch.arange(config.latents).double() * (config.context / config.latents)
        for name, time in {
            "token_table": (torch.arange(config.segments) * config.segment_length),
            "latent_table": latent_time.float(),
            "latent_back_table": -latent_time.float(),
            "output_table": torch.tensor(config.context),
        }.items():
            table = _table(time.to(model.latents.device), model.rotary.frequencies)
            self.register_buffer(name, table.to(model.latents), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Forecasts ``[B, N, H]`` of windows ``[B, N, C]``."""
        return self.decode(x, self.transform(self.latents + self.encode(x)))

    def unit_table(self) -> Tensor:
        """``[N, d]``."""
        return self.units + self.session + self.dataset

    def encode(self, x: Tensor) -> Tensor:
        """What the latents get by attention to the tokens of the population, ``[B, Q, d]``."""
        layer = self.encoder
        query = _rotate(layer.query(layer.query_norm(self.latents[None])), self.latent_table)[:, None]
        query = query.expand(x.shape[0], -1, -1, -1)
        if self.block is None:
            attended = F.scaled_dot_product_attention(query, *self._keys_values(x, self.unit_table()))
        else:
            parts = self._in_blocks(lambda x, unit: self._attend_block(query, x, unit), x, self.unit_table())
            of_blocks, logsumexp = (torch.stack(part) for part in zip(*parts, strict=True))
            attended = (torch.softmax(logsumexp, 0)[..., None] * of_blocks).sum(0)
        return layer.output(_rotate(attended[:, 0], self.latent_back_table))

    def transform(self, z: Tensor) -> Tensor:
        """Latents ``[B, Q, d]`` after their transformer."""
        z = z + self.encoder_ffn(z)
        for attention, ffn in zip(self.attentions, self.ffns, strict=True):
            z = z + self.branch_dropout(attention(z, self.latent_table, self.latent_back_table))
            z = z + self.branch_dropout(ffn(z))
        return z

    def decode(self, x: Tensor, z: Tensor) -> Tensor:
        """Forecasts ``[B, N, H]`` of windows ``[B, N, C]``, read from latents ``[B, Q, d]``."""
        layer = self.decoder
        key, value = layer.key_value(layer.context_norm(z))[:, None].chunk(2, -1)
        key = _rotate(key, self.latent_table)
        if self.block is None:
            return self._forecasts(x, self.unit_table(), key, value)
        return torch.cat(self._in_blocks(lambda x, unit: self._forecasts(x, unit, key, value), x, self.unit_table()), 1)

    def _keys_values(self, x: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values ``[B, 1 head, N * S, head width]`` of all tokens of these units."""
        segments = x.unflatten(-1, (self.config.segments, self.config.segment_length))
        tokens = self.token(segments) + unit[:, None]
        both = self.encoder.key_value(self.encoder.context_norm(tokens))
        both = _rotate(both.unflatten(-1, (2, -1)), self.token_table[:, :, None])  # [B, N, S, 2, head width]
        key, value = both.flatten(1, 2)[:, None].unbind(-2)
        return key, value

    def _attend_block(self, query: Tensor, x: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
        """Attention to the tokens of these units alone, and the logsumexp of its scores, by which blocks combine."""
        key, value = self._keys_values(x, unit)
        scores = query @ key.mT * query.shape[-1] ** -0.5
        logsumexp = scores.logsumexp(-1)
        return torch.exp(scores - logsumexp[..., None]) @ value, logsumexp

    def _forecasts(self, x: Tensor, unit: Tensor, key: Tensor, value: Tensor) -> Tensor:
        layer = self.decoder
        query = _rotate(layer.query(layer.query_norm(unit)), self.output_table)
        attended = F.scaled_dot_product_attention(query.expand(x.shape[0], 1, -1, -1), key, value)[:, 0]
        e = unit + layer.output(attended)
        e = e + self.decoder_ffn(e)
        hidden = F.relu(self.input(x))
        return self.output(hidden * self.scale(e) + self.shift(e))

    def _in_blocks(self, layers: Callable[[Tensor, Tensor], Any], x: Tensor, unit: Tensor) -> list[Any]:
        """``layers(x, unit)`` of a block of units at a time; nothing is kept for the gradients."""
        assert self.block is not None
        parts = zip(x.split(self.block, 1), unit.split(self.block), strict=True)
        return [checkpoint(layers, *part, use_reentrant=False) for part in parts]

    def gradients(self) -> dict[str, Tensor]:
        """The gradients that there are, by the names of ``poco.POCO``."""
        found = {}
        for ours, module in self._by_name().items():
            for name, parameter in module.named_parameters():
                if parameter.grad is None:
                    continue
                if name == "key_value.weight":
                    found[f"{ours}.key.weight"], found[f"{ours}.value.weight"] = parameter.grad.chunk(2)
                else:
                    found[f"{ours}.{name}"] = parameter.grad
        for ours, parameter in {
            "latents": self.latents,
            "session_embeddings.0.units": self.units,
            "session_embeddings.0.session": self.session,
            "datasets.0": self.dataset,
        }.items():
            if parameter.grad is not None:
                found[ours] = parameter.grad
        return found

    def _by_name(self) -> dict[str, nn.Module]:
        modules = {
            "token": self.token,
            "encoder": self.encoder,
            "encoder_ffn": self.encoder_ffn,
            "decoder": self.decoder,
            "decoder_ffn": self.decoder_ffn,
            **{f"film.{name}": getattr(self, name) for name in ("input", "scale", "shift", "output")},
        }
        for i, (attention, ffn) in enumerate(zip(self.attentions, self.ffns, strict=True)):
            modules |= {f"layers.{i}.attention": attention, f"layers.{i}.ffn": ffn}
        return modules
