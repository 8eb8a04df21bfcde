"""Outputs and gradients of the published model, in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import relative_error
from torch import Tensor

import poco

Golden = dict[str, Tensor]


def load(folder: Path, name: str) -> Golden:
    with np.load(folder / f"golden_{name}.npz") as file:
        return {key: torch.from_numpy(np.asarray(file[key], dtype=np.float64)) for key in file.files}


def part(golden: Golden, prefix: str) -> Golden:
    return {key[len(prefix) :]: value for key, value in golden.items() if key.startswith(prefix)}


def small_model(state: Golden) -> poco.POCO:
    return poco.POCO.from_published(state, units_per_session=[37, 53], dataset_of_session=[0, 1], heads=4)


def check_outputs(model: poco.POCO, golden: Golden, prefix: str = "") -> None:
    for session in (0, 1):
        x = golden[f"input/{session}"].permute(1, 2, 0)  # published: frames, windows, units
        expected = golden[f"{prefix}output/{session}"].permute(1, 2, 0)
        if expected.numel():
            assert relative_error(model(x, session), expected) < 1e-9


def test_default(golden_dir: Path) -> None:
    golden = load(golden_dir, "default")
    model = poco.POCO.from_published(part(golden, "param/"), units_per_session=[37, 53], dataset_of_session=[0, 0])
    assert model.config == poco.POCOConfig(ffn_width=512)  # the defaults are the published ones
    check_outputs(model, golden)


def test_small(golden_dir: Path) -> None:
    golden = load(golden_dir, "small")
    check_outputs(small_model(part(golden, "param/")), golden)


def test_unequal_batches_and_an_empty_session(golden_dir: Path) -> None:
    model = small_model(part(load(golden_dir, "small"), "param/"))
    golden = load(golden_dir, "extra")
    check_outputs(model, golden)
    empty = model(torch.zeros(0, 53, 32, dtype=torch.float64), 1)
    assert empty.shape == (0, 53, 12)
    alone = model(golden["input/0"].permute(1, 2, 0), 0)
    assert relative_error(alone, golden["zero/output/0"].permute(1, 2, 0)) < 1e-9


def test_gradients(golden_dir: Path) -> None:
    golden = load(golden_dir, "grad")
    model = small_model(part(golden, "param/"))
    inputs = [golden[f"input/{s}"].permute(1, 2, 0).clone().requires_grad_() for s in (0, 1)]
    losses = [(model(x, s) - golden[f"target/{s}"].permute(1, 2, 0)).square().mean() for s, x in enumerate(inputs)]
    torch.stack(losses).sum().backward()
    assert float(torch.stack(losses).sum().detach()) == pytest.approx(float(golden["loss"]), rel=1e-12)
    for session, x in enumerate(inputs):
        assert x.grad is not None
        assert relative_error(x.grad, golden[f"grad_input/{session}"].permute(1, 2, 0)) < 1e-9
    # The published gradients, put under our names by the converter that puts the parameters there.
    frequencies = {k: v for k, v in part(golden, "param/").items() if k.endswith("inv_freq")}
    expected = dict(small_model({**part(golden, "grad/"), **frequencies}).named_parameters())
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert relative_error(parameter.grad, expected[name]) < 1e-9, name


def test_float32_is_close(golden_dir: Path) -> None:
    golden = load(golden_dir, "default")
    state = {key: value.float() for key, value in part(golden, "param/").items()}
    model = poco.POCO.from_published(state, units_per_session=[37, 53])
    for session in (0, 1):
        y = model(golden[f"input/{session}"].permute(1, 2, 0).float(), session)
        assert y.dtype == torch.float32
        assert relative_error(y, golden[f"output/{session}"].permute(1, 2, 0)) < 1e-5
