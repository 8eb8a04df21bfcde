"""Files and checkpoints: whole or not at all, and nothing in them is trusted."""

from __future__ import annotations

import errno
import importlib.util
import json
import math
import os
import pickle
import resource
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from poco.cells import write_csv
from poco.errors import CheckpointError
from poco.files import read_json, write_atomically, write_json, write_npz
from poco.plots.figures import matplotlib_figure
from poco.plots.figures import save as save_figure
from poco.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from poco.unit_embeddings import SessionEmbeddings
from poco.unit_embeddings import write as write_embeddings


def saved(path: Path) -> Path:
    tensors = {"w": torch.arange(2000.0), "random": torch.arange(9, dtype=torch.uint8), "step": torch.tensor(3.0)}
    save_checkpoint(path, Checkpoint("training", tensors, {"step": 3, "name": "é"}))
    return path


def refused(path: Path, kind: str = "training") -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path, kind)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_round_trip(tmp_path: Path) -> None:
    loaded = load_checkpoint(saved(tmp_path / "c"), "training")
    assert loaded.values == {"step": 3, "name": "é"}
    assert torch.equal(loaded.tensors["w"], torch.arange(2000.0))
    assert loaded.tensors["random"].dtype == torch.uint8
    assert loaded.tensors["step"].shape == ()
    assert os.listdir(tmp_path) == ["c"]


@pytest.mark.parametrize("keep", [0, 5, 100, 4000, -1])
def test_a_truncated_checkpoint_is_refused(tmp_path: Path, keep: int) -> None:
    path = saved(tmp_path / "c")
    path.write_bytes(path.read_bytes()[:keep])
    assert "truncated" in refused(path)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "c")
    content = bytearray(path.read_bytes())
    content[-40] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"is damaged: tensor '.*' is not what was written: delete it"):
        load_checkpoint(path, "training")


def test_a_missing_checkpoint_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert "there is no checkpoint" in refused(tmp_path / "none")
    refused(tmp_path)


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    proof = tmp_path / "proof"

    class Attack:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(proof),)

    (tmp_path / "pickle").write_bytes(pickle.dumps(Attack()))
    torch.save(Attack(), tmp_path / "torch")
    for name in ("pickle", "torch"):
        assert "not a checkpoint of poco" in refused(tmp_path / name)
    assert not proof.exists()


def test_another_version_or_kind_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = saved(tmp_path / "c")
    assert "not a baseline checkpoint" in refused(path, "baseline")
    header = {"kind": "training", "version": 99, "values": {}}
    save_file({"w": torch.zeros(2)}, path, metadata={"poco": json.dumps(header)})
    assert "checkpoint version 99, this poco reads version 1" in refused(path)
    save_file({"w": torch.zeros(2)}, path)
    assert "not a training checkpoint" in refused(path)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "c")
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"cannot save .*: No space left on device; the file .* is intact"):
        save_checkpoint(path, Checkpoint("training", {"w": torch.zeros(5)}, {}))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["c"]


def test_tables_arrays_and_figures_leave_the_old_file_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    units = [SessionEmbeddings("one", "one", ("u",), np.ones((1, 2), np.float32), {})]
    writers: dict[str, Callable[[Path], object]] = {
        "a.npz": lambda path: write_npz(path, {"a": np.arange(3)}),
        "b.csv": lambda path: write_csv([{"a": 1}], ["a"], path),
        "c.csv": lambda path: write_embeddings(units, path),
        "d.npz": lambda path: write_embeddings(units, path),
    }
    if importlib.util.find_spec("matplotlib") is not None:
        writers["e.png"] = lambda path: save_figure(matplotlib_figure()[0](), path)
    for name, write in writers.items():
        write(tmp_path / name)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(before) == set(writers)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    for name, write in writers.items():
        with pytest.raises(
            CheckpointError, match=rf"cannot save .*{name}: No space left on device; the file .* is intact"
        ):
            write(tmp_path / name)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_file_cut_off_by_the_system_leaves_the_old_file(tmp_path: Path) -> None:
    path = saved(tmp_path / "c")
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=r"cannot save .*: File too large; the file that was there is intact"):
            write_atomically(path, b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before


def test_json_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    with pytest.raises(CheckpointError, match=r"there are no run settings at .* is this a run folder"):
        read_json(path, "run settings")
    for content in ("{", "[1]", "\ufffd"):
        path.write_text(content)
        with pytest.raises(CheckpointError, match="cannot read the run settings"):
            read_json(path, "run settings")


def test_numbers_that_are_not_finite_come_back(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    value = {"score": math.nan, "ends": [-math.inf, np.float64(math.inf), 0.5], "of": {"float": 0.25, "none": None}}
    write_json(path, value)
    json.loads(path.read_text(), parse_constant=pytest.fail)  # what every reader of JSON takes
    found = read_json(path, "scores")
    assert math.isnan(found.pop("score"))
    assert found == {"ends": [-math.inf, math.inf, 0.5], "of": {"float": 0.25, "none": None}}
