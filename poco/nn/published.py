"""Published POCO checkpoints: their parameter names and shapes, read into a model of ours."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from poco.errors import CheckpointError
from poco.nn.config import POCOConfig
from poco.nn.vocabulary import SessionSpec

if TYPE_CHECKING:
    from poco.nn.model import POCO

_PERCEIVER = "decoder.perceiver_io."
_T_MAX_OF_T_MIN = 1000  # published: the shortest rotary period is a thousandth of the longest


def convert(
    state_dict: Mapping[str, Tensor],
    *,
    units_per_session: Sequence[int],
    dataset_of_session: Sequence[int] | None = None,
    heads: int = 16,
    unit_types: Sequence[Sequence[int]] | None = None,
) -> POCO:
    """A model with the parameters of a published checkpoint, in evaluation mode and in the checkpoint's precision.

    Sizes are read off the tensors. Sessions are named ``"0", "1", ...`` in their order, and so are data sets.

    Args:
        state_dict: the published names and tensors (or arrays).
        units_per_session: number of units of every session, in order.
        dataset_of_session: index of every session's data set; None puts all into one.
        heads: heads of the self-attention, which no tensor tells.
        unit_types: type of every unit of every session, for checkpoints that embed unit types.

    Raises:
        CheckpointError: if a tensor is missing or left over, or sizes do not fit together.
    """
    from poco.nn.model import POCO

    # What is under "normalizer." is not used by the published model.
    source = {k: torch.as_tensor(v) for k, v in state_dict.items() if not k.startswith("normalizer.")}
    datasets = [0] * len(units_per_session) if dataset_of_session is None else list(dataset_of_session)
    embeds_types = any(k.startswith("decoder.unit_type_emb.") for k in source)
    try:
        config = _config(source, heads, embeds_types)
        _check_counts(source, units_per_session, datasets)
        specs = _specs(units_per_session, datasets, unit_types if embeds_types else None, embeds_types)
        model = POCO(config, specs).to(source["decoder.latent_emb.weight"].dtype)
        state = model.state_dict()
        for ours, tensor in _tensors(source, model):
            if state[ours].shape != tensor.shape:
                raise CheckpointError(
                    f"published tensor for {ours} is {list(tensor.shape)}, not {list(state[ours].shape)}"
                )
            state[ours] = tensor
    except KeyError as error:
        raise CheckpointError(f"no published POCO checkpoint: it lacks {error}") from error
    if source:
        raise CheckpointError(f"the published checkpoint holds '{min(source)}', which a POCO does not have")
    model.load_state_dict(state)
    return model.eval()


def _config(source: Mapping[str, Tensor], heads: int, embeds_types: bool) -> POCOConfig:
    width, segment_length = source["decoder.input_proj.weight"].shape
    frequencies = source[_PERCEIVER + "rotary_emb.inv_freq"]
    head_width = 2 * frequencies.numel()
    film_width, context = source["in_proj.0.weight"].shape
    horizon = source["out_proj.weight"].shape[0]
    layers = 1 + max((int(k.split(".")[3]) for k in source if k.startswith(_PERCEIVER + "proc_layers.")), default=-1)
    if layers:
        inner = source[_PERCEIVER + "proc_layers.0.0.to_out.weight"].shape[1]
        if inner != heads * head_width:
            raise CheckpointError(
                f"the self-attention is {inner} wide: that is {inner // head_width} heads, not {heads}"
            )
    return POCOConfig(
        context=context,
        horizon=horizon,
        segment_length=segment_length,
        latents=source["decoder.latent_emb.weight"].shape[0],
        width=width,
        layers=layers,
        heads=heads,
        head_width=head_width,
        ffn_width=source[_PERCEIVER + "enc_ffn.1.net.3.weight"].shape[1],
        film_width=film_width,
        film_depth=sum(k.startswith("in_proj.") and k.endswith(".weight") for k in source),
        t_max=float(f"{_T_MAX_OF_T_MIN * 2 * math.pi / float(frequencies[0]):.6g}"),
        unit_type_embedding=embeds_types,
    )


def _check_counts(source: Mapping[str, Tensor], units_per_session: Sequence[int], datasets: Sequence[int]) -> None:
    found = source["decoder.unit_emb.weight"].shape[0]
    if sum(units_per_session) != found:
        raise CheckpointError(
            f"units_per_session adds up to {sum(units_per_session)}, the checkpoint has {found} units"
        )
    found = source["decoder.session_emb.weight"].shape[0]
    if not len(units_per_session) == len(datasets) == found:
        raise CheckpointError(
            f"the checkpoint has {found} sessions: units_per_session and dataset_of_session must have as many entries"
        )
    found = source["decoder.dataset_emb.weight"].shape[0]
    if sorted(set(datasets)) != list(range(found)):
        raise CheckpointError(f"dataset_of_session must use all of the checkpoint's {found} data sets, 0..{found - 1}")


def _specs(
    units: Sequence[int], datasets: Sequence[int], types: Sequence[Sequence[int]] | None, embeds_types: bool
) -> list[SessionSpec]:
    if embeds_types and types is None:
        raise CheckpointError("the checkpoint embeds unit types: unit_types must give the type of every unit")
    names: list[tuple[str, ...]] = [()] * len(units)
    if types is not None:
        names = [tuple(f"{d}/{t}" for t in of_units) for d, of_units in zip(datasets, types, strict=True)]
    return [
        SessionSpec(str(i), tuple(map(str, range(n))), str(d), t)
        for i, (n, d, t) in enumerate(zip(units, datasets, names, strict=True))
    ]


def _tensors(source: dict[str, Tensor], model: POCO) -> list[tuple[str, Tensor]]:
    """Our names and the published tensors for them; what is used is taken out of ``source``."""
    out: list[tuple[str, Tensor]] = []

    def take(published: str) -> Tensor:
        return source.pop(published)

    def both(ours: str, published: str) -> None:
        out.append((f"{ours}.weight", take(f"{published}.weight")))
        out.append((f"{ours}.bias", take(f"{published}.bias")))

    def ffn(ours: str, published: str) -> None:
        both(f"{ours}.norm", f"{published}.0")
        both(f"{ours}.input", f"{published}.1.net.0")
        both(f"{ours}.output", f"{published}.1.net.3")

    def cross(ours: str, published: str) -> None:
        both(f"{ours}.query_norm", f"{published}.norm")
        both(f"{ours}.context_norm", f"{published}.norm_context")
        out.append((f"{ours}.query.weight", take(f"{published}.to_q.weight")))
        key, value = take(f"{published}.to_kv.weight").chunk(2)
        out.extend([(f"{ours}.key.weight", key), (f"{ours}.value.weight", value)])
        both(f"{ours}.output", f"{published}.to_out")

    both("token", "decoder.input_proj")
    out.append(("latents", take("decoder.latent_emb.weight")))
    out.append(("rotary.frequencies", take(_PERCEIVER + "rotary_emb.inv_freq")[: model.config.head_width // 4].float()))
    cross("encoder", _PERCEIVER + "enc_atn")
    ffn("encoder_ffn", _PERCEIVER + "enc_ffn")
    for i in range(model.config.layers):
        published = f"{_PERCEIVER}proc_layers.{i}."
        both(f"layers.{i}.attention.norm", published + "0.norm")
        out.append((f"layers.{i}.attention.query_key_value.weight", take(published + "0.to_qkv.weight")))
        both(f"layers.{i}.attention.output", published + "0.to_out")
        ffn(f"layers.{i}.ffn", published + "1")
    cross("decoder", _PERCEIVER + "dec_atn")
    ffn("decoder_ffn", _PERCEIVER + "dec_ffn")
    both("film.input", "in_proj.0")
    for i in range(model.config.film_depth - 1):
        both(f"film.deeper.{i}", f"in_proj.{2 * i + 2}")
    both("film.scale", "conditioning_alpha")
    both("film.shift", "conditioning_beta")
    both("film.output", "out_proj")

    units = take("decoder.unit_emb.weight").split([len(spec.units) for spec in model.sessions])
    for i, (of_units, of_session) in enumerate(zip(units, take("decoder.session_emb.weight"), strict=True)):
        out.extend([(f"session_embeddings.{i}.units", of_units), (f"session_embeddings.{i}.session", of_session)])
    datasets = take("decoder.dataset_emb.weight")
    out.extend((f"datasets.{i}", datasets[int(name)]) for i, name in enumerate(model._dataset_names))
    if model.config.unit_type_embedding:
        tables = {d: take(f"decoder.unit_type_emb.{d}.weight") for d in range(len(datasets))}
        for i, name in enumerate(model._unit_type_names):
            dataset, kind = map(int, name.split("/"))
            out.append((f"unit_types.{i}", torch.clone(tables[dataset][kind])))
    return out
