"""Reading published checkpoints: what does not fit is named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import poco
from poco.errors import CheckpointError


def checkpoint(types: bool = False) -> dict[str, Tensor]:
    """A published checkpoint of two sessions (3 and 2 units) in two data sets, with random tensors."""
    d, c, k, h, f, q, inner = 8, 4, 6, 3, 32, 2, 2 * 64
    generator = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {
        "decoder.input_proj.weight": (d, c),
        "decoder.input_proj.bias": (d,),
        "decoder.unit_emb.weight": (5, d),
        "decoder.session_emb.weight": (2, d),
        "decoder.latent_emb.weight": (q, d),
        "decoder.dataset_emb.weight": (2, d),
        "in_proj.0.weight": (k, 8),
        "in_proj.0.bias": (k,),
        "conditioning_alpha.weight": (k, d),
        "conditioning_alpha.bias": (k,),
        "conditioning_beta.weight": (k, d),
        "conditioning_beta.bias": (k,),
        "out_proj.weight": (h, k),
        "out_proj.bias": (h,),
        "normalizer.mustd.proj.bias": (2,),
    }
    p = "decoder.perceiver_io."
    for name in ("enc_atn", "dec_atn"):
        shapes |= {f"{p}{name}.{n}.{w}": (d,) for n in ("norm", "norm_context") for w in ("weight", "bias")}
        shapes |= {
            f"{p}{name}.to_q.weight": (64, d),
            f"{p}{name}.to_kv.weight": (128, d),
            f"{p}{name}.to_out.weight": (d, 64),
            f"{p}{name}.to_out.bias": (d,),
        }
    for name in ("enc_ffn", "dec_ffn", "proc_layers.0.1"):
        shapes |= {
            f"{p}{name}.0.weight": (d,),
            f"{p}{name}.0.bias": (d,),
            f"{p}{name}.1.net.0.weight": (2 * f, d),
            f"{p}{name}.1.net.0.bias": (2 * f,),
            f"{p}{name}.1.net.3.weight": (d, f),
            f"{p}{name}.1.net.3.bias": (d,),
        }
    shapes |= {
        f"{p}proc_layers.0.0.norm.weight": (d,),
        f"{p}proc_layers.0.0.norm.bias": (d,),
        f"{p}proc_layers.0.0.to_qkv.weight": (3 * inner, d),
        f"{p}proc_layers.0.0.to_out.weight": (d, inner),
        f"{p}proc_layers.0.0.to_out.bias": (d,),
    }
    if types:
        shapes |= {"decoder.unit_type_emb.0.weight": (2, d), "decoder.unit_type_emb.1.weight": (1, d)}
    state = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    state[p + "rotary_emb.inv_freq"] = torch.cat([poco.nn.rotary.rotary_frequencies(64, 50.0), torch.zeros(16)])
    return state


KNOWN: dict[str, Any] = {"units_per_session": [3, 2], "dataset_of_session": [0, 1], "heads": 2}


def test_sizes_are_read_off_the_tensors() -> None:
    model = poco.POCO.from_published(checkpoint(), **KNOWN)
    config = model.config
    assert (config.context, config.horizon, config.segment_length, config.latents) == (8, 3, 4, 2)
    assert (config.width, config.layers, config.hidden, config.film_width, config.t_max) == (8, 1, 32, 6, 50.0)
    assert [(s.name, len(s.units), s.dataset) for s in model.sessions] == [("0", 3, "0"), ("1", 2, "1")]
    assert torch.equal(model.session_embeddings[1].units, checkpoint()["decoder.unit_emb.weight"][3:])


def test_unit_types() -> None:
    types = [[1, 0, 1], [0, 0]]
    model = poco.POCO.from_published(checkpoint(types=True), **KNOWN, unit_types=types)
    state = checkpoint(types=True)
    expected = state["decoder.unit_emb.weight"][0] + state["decoder.unit_type_emb.0.weight"][1]
    expected = expected + state["decoder.session_emb.weight"][0] + state["decoder.dataset_emb.weight"][0]
    assert torch.allclose(model.unit_table([0])[0], expected)
    with pytest.raises(CheckpointError, match="unit_types must give"):
        poco.POCO.from_published(checkpoint(types=True), **KNOWN)


def without(name: str) -> dict[str, Tensor]:
    return {k: v for k, v in checkpoint().items() if k != name}


@pytest.mark.parametrize(
    ("state", "change", "says"),
    [
        (checkpoint(), {"heads": 16}, "128 wide: that is 2 heads, not 16"),
        (checkpoint(), {"units_per_session": [3, 3]}, "adds up to 6, the checkpoint has 5 units"),
        (checkpoint(), {"units_per_session": [5], "dataset_of_session": [0]}, "has 2 sessions"),
        (checkpoint(), {"dataset_of_session": [0, 0]}, "all of the checkpoint's 2 data sets"),
        (without("out_proj.bias"), {}, "lacks 'out_proj.bias'"),
        (without("in_proj.0.weight"), {}, "lacks 'in_proj.0.weight'"),
        ({**checkpoint(), "extra.weight": torch.zeros(1)}, {}, "holds 'extra.weight'"),
        ({**checkpoint(), "out_proj.bias": torch.zeros(9)}, {}, r"film.output.bias is \[9\], not \[3\]"),
    ],
)
def test_what_does_not_fit_is_named(state: dict[str, Tensor], change: dict[str, Any], says: str) -> None:
    with pytest.raises(CheckpointError, match=says):
        poco.POCO.from_published(state, **{**KNOWN, **change})
