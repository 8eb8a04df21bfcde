"""The parameters that the ops take, by name, and how they lie in the flat lists in which a model hands them over.

Shapes: ``C`` context, ``L`` frames of a segment, ``d`` width, ``dh`` head width, ``F`` feed-forward width, ``K`` FiLM
width, ``H`` horizon.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor


class FilmParameters(NamedTuple):
    """The parameters of pass 2 in the order in which the op takes them; also their gradients."""

    attention_bias: Tensor  # [d]
    query_norm_weight: Tensor  # [d]
    query_norm_bias: Tensor  # [d]
    ffn_norm_weight: Tensor  # [d]
    ffn_norm_bias: Tensor  # [d]
    ffn_in_weight: Tensor  # [2F, d]: values, then gates
    ffn_in_bias: Tensor  # [2F]
    ffn_out_weight: Tensor  # [d, F]
    ffn_out_bias: Tensor  # [d]
    scale_weight: Tensor  # [K, d]
    scale_bias: Tensor  # [K]
    shift_weight: Tensor  # [H, d]
    shift_bias: Tensor  # [H]
    in_weight: Tensor  # [K, C]
    in_bias: Tensor  # [K]
    out_weight: Tensor  # [H, K]


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
        return FeedForwardParameters(*self[-_FFN:])


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
    def of(cls, flat: Sequence[Any]) -> LatentParameters:
        """The parameters out of one list of all tensors in order, layer after layer."""
        first, last = _READ + _FFN, len(flat) - _WRITE
        layers = tuple(LayerParameters(*flat[i : i + LAYER_TENSORS]) for i in range(first, last, LAYER_TENSORS))
        named: list[Any] = [*flat[:_READ], FeedForwardParameters(*flat[_READ:first]), layers, *flat[last:]]
        return cls(*named)

    def flat(self) -> list[Any]:
        """The list that :meth:`of` takes."""
        return [*self[:_READ], *self.read_ffn, *(t for layer in self.layers for t in layer), *self[-_WRITE:]]


class ModelParameters(NamedTuple):
    """All parameters of a model but embeddings and initial latents."""

    token_weight: Tensor  # [d, L]
    token_bias: Tensor  # [d]
    token_norm_weight: Tensor  # [d]
    token_norm_bias: Tensor  # [d]
    query_norm_weight: Tensor  # [d]
    query_norm_bias: Tensor  # [d]
    query_weight: Tensor  # [dh, d]
    key_weight: Tensor  # [dh, d]
    latents: tuple[Tensor, ...]  # LatentParameters, layer after layer
    unit: tuple[Tensor, ...]  # attention_bias to scale_bias of FilmParameters
    shift_weight: Tensor  # [K, d]
    shift_bias: Tensor  # [K]
    in_weight: Tensor  # [K, C]
    in_bias: Tensor  # [K]
    out_weight: Tensor  # [H, K]
    out_bias: Tensor  # [H]

    @classmethod
    def of(cls, flat: Sequence[Any]) -> ModelParameters:
        """The parameters, or what there is of each of them, out of one list in order, which is what the op takes."""
        last = len(flat) - _OUTPUT
        unit = last - _UNIT
        named: list[Any] = [*flat[:_ASK], tuple(flat[_ASK:unit]), tuple(flat[unit:last]), *flat[last:]]
        return cls(*named)

    @property
    def token(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Those of the tokens and their norm, as pass 1 takes them."""
        return self.token_weight, self.token_bias, self.token_norm_weight, self.token_norm_bias

    @property
    def asking(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Those that the queries of pass 1 are made by."""
        return self.query_norm_weight, self.query_norm_bias, self.query_weight, self.key_weight

    @property
    def second_pass(self) -> tuple[Tensor, ...]:
        """Those of pass 2 as they are, the shift not folded."""
        shift = (self.shift_weight, self.shift_bias)
        return (*self.unit, *shift, self.in_weight, self.in_bias, self.out_weight, self.out_bias)

    def film(self, shift_weight: Tensor, shift_bias: Tensor) -> FilmParameters:
        """Those of pass 2, given the shift folded through the output, ``[H, d]`` and ``[H]``."""
        return FilmParameters(*(*self.unit, shift_weight, shift_bias, self.in_weight, self.in_bias, self.out_weight))


_FFN = len(FeedForwardParameters._fields)
_READ = LatentParameters._fields.index("read_ffn")  # what the latents read by, before their first feed-forward layer
_WRITE = len(LatentParameters._fields) - LatentParameters._fields.index("layers") - 1
_ASK = ModelParameters._fields.index("latents")  # all that comes before the latent transformer
_UNIT = FilmParameters._fields.index("shift_weight")
_OUTPUT = len(ModelParameters._fields) - ModelParameters._fields.index("unit") - 1

#: Tensors of one layer; of the latent transformer and of a model, without layers.
LAYER_TENSORS = len(LayerParameters._fields)
LATENT_TENSORS = _READ + _FFN + _WRITE
MODEL_TENSORS = _ASK + LATENT_TENSORS + _UNIT + _OUTPUT


def latent_names(layers: int) -> list[str]:
    """What the tensors of a :class:`LatentParameters` with so many layers are called, in order."""
    fields = LatentParameters._fields
    ffn = [f"read_ffn.{name}" for name in FeedForwardParameters._fields]
    each = [f"layers[{i}].{name}" for i in range(layers) for name in LayerParameters._fields]
    return [*fields[:_READ], *ffn, *each, *fields[-_WRITE:]]


def model_names(layers: int) -> list[str]:
    """What the tensors of a :class:`ModelParameters` with so many layers are called, in order."""
    fields = ModelParameters._fields
    latents = [f"latents.{name}" for name in latent_names(layers)]
    return [*fields[:_ASK], *latents, *(f"unit.{name}" for name in FilmParameters._fields[:_UNIT]), *fields[-_OUTPUT:]]
