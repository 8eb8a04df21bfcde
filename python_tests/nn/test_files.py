"""Model files: what is saved comes back, and what is damaged is refused in one line."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.models import random_model

import poco
from poco import core
from poco.errors import CheckpointError
from poco.nn import files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = random_model(3)
    model.set_normalisation(0, torch.arange(len(model.sessions[0].units)), torch.ones(len(model.sessions[0].units)) * 2)
    model.save_pretrained(tmp_path / "model", {"recipe": "published"})
    return tmp_path / "model"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_round_trip(tmp_path: Path, dtype: torch.dtype) -> None:
    for seed in range(5):
        model = random_model(seed).to(dtype)
        model.save_pretrained(tmp_path / "model")
        again = poco.POCO.from_pretrained(tmp_path / "model")
        assert poco.POCO.from_pretrained(tmp_path).config == again.config  # that of a run
        assert again.config == model.config
        assert again.sessions == model.sessions
        assert not again.training
        state = again.state_dict()
        assert state.keys() == model.state_dict().keys()
        assert all(torch.equal(v, state[k]) and v.dtype == state[k].dtype for k, v in model.state_dict().items())


def test_metadata_is_kept(folder: Path) -> None:
    assert files.read_config(folder)["recipe"] == "published"


@pytest.mark.parametrize("bad", [float("nan"), -float("inf")])
def test_metadata_that_is_not_finite_comes_back(folder: Path, bad: float) -> None:
    random_model(3).save_pretrained(folder, {"training": {"scores": [0.5, bad]}})
    np.testing.assert_array_equal(poco.load(folder).metadata["training"]["scores"], [0.5, bad])
    json.loads((folder / "config.json").read_text(), parse_constant=pytest.fail)


def test_a_damaged_weight_is_noticed(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    first = 8 + int.from_bytes(data[:8], "little")
    data[first + json.loads(data[8:first])["latents"]["data_offsets"][1] - 1] ^= 0x40
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="is damaged: tensor 'latents' is not what was written"):
        poco.load(folder)
    if core.module() is not None:
        with pytest.raises(CheckpointError, match="is damaged: tensor 'latents' is not what was written"):
            poco.Stream(folder)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def rewrite(path: Path, change: dict[str, Any]) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))


def malicious(path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (path.parent / "owned",)

    path.write_bytes(pickle.dumps(Attack()))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda f: (f / "config.json").unlink(), "no model in .*cannot read config.json"),
        (lambda f: (f / "model.safetensors").unlink(), "cannot read .*model.safetensors"),
        (lambda f: truncate(f / "config.json"), "config.json is damaged"),
        (lambda f: truncate(f / "model.safetensors"), "truncated or no safetensors"),
        (lambda f: (f / "model.safetensors").write_bytes(b""), "truncated or no safetensors"),
        (lambda f: malicious(f / "model.safetensors"), "truncated or no safetensors"),
        (lambda f: (f / "config.json").write_text("[]"), "does not describe a model"),
        (lambda f: rewrite(f / "config.json", {"format": 2}), "format 2; this version reads format 1"),
        (lambda f: rewrite(f / "config.json", {"config": {"width": 64}}), "do not fit together"),
        (lambda f: rewrite(f / "config.json", {"config": {"weird": 1}}), "unknown model option 'weird'"),
        (lambda f: rewrite(f / "config.json", {"config": {"width": -1}}), "width must be at least 1"),
    ],
)
def test_damaged_files_are_refused(folder: Path, damage: Any, says: str) -> None:
    damage(folder)
    with pytest.raises(CheckpointError, match=says) as caught:
        poco.POCO.from_pretrained(folder)
    assert "\n" not in str(caught.value)
    assert not (folder / "owned").exists()


def test_tensors_of_another_program_are_refused(folder: Path) -> None:
    import safetensors.torch

    safetensors.torch.save_file({"weight": torch.zeros(3)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="no POCO model"):
        poco.POCO.from_pretrained(folder)


def test_a_full_disk_keeps_the_old_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {p.name: p.read_bytes() for p in folder.iterdir()}

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CheckpointError, match=r"cannot save .*No space left on device; the file .* there is intact"):
        random_model(4).save_pretrained(folder)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    with pytest.raises(CheckpointError, match=r"No space left on device$"):  # nothing was there to be kept
        random_model(4).save_pretrained(folder / "new")
    assert not list((folder / "new").iterdir())


def test_a_folder_that_cannot_be_made(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot make the folder"):
        random_model(4).save_pretrained(folder / "config.json" / "model")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(folder: Path, value: float) -> None:
    model = poco.POCO.from_pretrained(folder)
    with torch.no_grad():
        model.latents[0, 0] = value
    model.save_pretrained(folder)
    with pytest.raises(CheckpointError, match=r"model.safetensors: 'latents' holds NaN or infinite values"):
        poco.POCO.from_pretrained(folder)


def test_metadata_goes_with_the_model(folder: Path, tmp_path: Path) -> None:
    model = poco.POCO.from_pretrained(folder)
    assert model.metadata == {"recipe": "published"}
    copy.deepcopy(model).save_pretrained(tmp_path / "again", {"note": 1})
    assert poco.POCO.from_pretrained(tmp_path / "again").metadata == {"recipe": "published", "note": 1}
    assert files.learnt_rate(model, "s0") is None
