"""Bad input gives one clear line and a non-zero exit, and never a traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from poco.data.simulate import simulate

SHORT = ["--context", "16", "--horizon", "4", "--steps", "2", "--device", "cpu"]


def refused(result: Any, *messages: str) -> None:
    assert result.code == 2, result.err
    assert result.out == ""
    lines = [line for line in result.err.splitlines() if line.startswith("poco: error: ")]
    assert len(lines) == 1, result.err
    assert result.err.splitlines()[-1] == lines[0]
    assert "Traceback" not in result.err
    for message in messages:
        assert message in lines[0]


@pytest.fixture
def activity() -> np.ndarray:
    return simulate(1, 6, 300, seed=0)[0].activity.copy()


def folder_of(path: Path, **sessions: np.ndarray) -> Path:
    path.mkdir()
    for name, values in sessions.items():
        np.save(path / f"{name}.npy", values)
    (path / "dataset.toml").write_text('[activity]\norientation = "units x frames"\nrate_hz = 20.0\n')
    return path


@pytest.mark.parametrize("command", ["inspect", "train"])
def test_missing_file(poco: Callable, tmp_path: Path, command: str) -> None:
    refused(poco(command, tmp_path / "nowhere"), "nowhere", "no such file or folder")


@pytest.mark.parametrize("command", ["inspect", "train"])
def test_unknown_format(poco: Callable, tmp_path: Path, command: str) -> None:
    (tmp_path / "notes.docx").write_bytes(b"not a recording")
    refused(poco(command, tmp_path / "notes.docx"), "notes.docx")


def test_wrong_key_lists_the_keys(poco: Callable, recordings: Path) -> None:
    refused(poco("inspect", recordings / "animal-1.npz", "--key", "dff"), "dff", "activity")
    refused(poco("train", recordings, "--key", "dff"), "dff", "activity")
    all_bad = poco("inspect", recordings, "--key", "dff", "--json")
    assert all_bad.code == 2
    assert "2 of 2 sessions cannot be read" in all_bad.err
    assert len(all_bad.json["sessions"]) == 2


def test_ambiguous_orientation(poco: Callable, tmp_path: Path, activity: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", activity)
    refused(poco("train", tmp_path / "a.npy", "--rate", "20", *SHORT), "orientation")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_missing_values(poco: Callable, tmp_path: Path, activity: np.ndarray, value: float) -> None:
    activity[2, 30] = value
    data = folder_of(tmp_path / "data", a=activity)
    refused(poco("train", data, "--out", tmp_path / "run", *SHORT), "NaN or infinite", "'2'")
    refused(poco("train", data, "--out", tmp_path / "run", "--nan", "error", *SHORT))
    dropped = poco("train", data, "--out", tmp_path / "run", "--nan", "drop", "--no-baselines", "--json", *SHORT)
    assert dropped.code == 0, dropped.err
    assert dropped.json["sessions"][0]["units"] == 5


def test_constant_unit(poco: Callable, tmp_path: Path, activity: np.ndarray) -> None:
    activity[4] = 1.5
    refused(poco("train", folder_of(tmp_path / "data", a=activity), *SHORT), "'4'", "constant")


def test_too_few_frames(poco: Callable, tmp_path: Path, activity: np.ndarray) -> None:
    data = folder_of(tmp_path / "data", a=activity[:, :15])
    refused(poco("train", data, *SHORT), "15 frames", "shorter context or horizon")
    data = folder_of(tmp_path / "more", a=activity[:, :50])
    refused(poco("train", data, *SHORT), "50 frames")


def test_different_rates(poco: Callable, tmp_path: Path, activity: np.ndarray) -> None:
    paths = []
    for name, rate in (("a", 20.0), ("b", 5.0)):
        folder = folder_of(tmp_path / name, **{name: activity})
        (folder / "dataset.toml").write_text(
            f'name = "one"\n[activity]\norientation = "units x frames"\nrate_hz = {rate}\n'
        )
        paths.append(folder)
    refused(poco("train", *paths, *SHORT), "frames a second", "resample")


def test_repeated_session(poco: Callable, tmp_path: Path, activity: np.ndarray) -> None:
    one, two = folder_of(tmp_path / "one", a=activity), folder_of(tmp_path / "two", a=activity)
    refused(poco("train", one, two, *SHORT), "'a'")


def test_unit_count_differs(poco: Callable, trained: Path, tmp_path: Path, activity: np.ndarray) -> None:
    data = folder_of(tmp_path / "data", **{"animal-1": activity})
    refused(poco("forecast", trained, data, "--out", tmp_path / "f.npz"), "6 units", "8")
    assert not (tmp_path / "f.npz").exists()


def test_unknown_session(poco: Callable, trained: Path, recordings: Path, tmp_path: Path) -> None:
    out = tmp_path / "f.npz"
    one = recordings / "animal-1.npz"
    refused(poco("forecast", trained, one, "--session", "nobody", "--out", out), "nobody", "animal-1")
    refused(poco("forecast", trained, one, "--as", "nobody", "--out", out), "nobody", "animal-1")
    refused(poco("forecast", trained, recordings, "--out", out), "--session", "animal-2")
    refused(poco("forecast", trained, recordings, "--session", "nobody", "--out", out), "nobody")
    refused(poco("train", recordings, "--sessions", "nobody", *SHORT), "nobody", "animal-1")
    refused(poco("train", recordings, "--without", "nobody", *SHORT), "nobody", "animal-1")
    refused(poco("train", recordings, "--without", "animal-1,animal-2", *SHORT), "--without leaves no session")


def test_forecasts_to_an_unknown_format(poco: Callable, trained: Path, recordings: Path, tmp_path: Path) -> None:
    refused(poco("forecast", trained, recordings, "--out", tmp_path / "f.csv"), ".npz or .zarr")


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        (["--steps", "0"], ["steps"]),
        (["--seeds", "0"], ["seeds must be at least 1, got 0"]),
        (["--precision", "float8"], ["precision", "float8"]),
        (["--schedule", "linear"], ["schedule", "linear"]),
        (["--protocol", "mine"], ["protocol", "mine"]),
        (["--recipe", "mine"], ["recipe", "mine"]),
        (["--nan", "guess"], ["--nan", "guess"]),
        (["--threads", "0"], ["--threads"]),
        (["--device", "abacus"], ["abacus"]),
        (["--lr", "-1"], ["learning_rate"]),
        (["--recipe", "published", "--context", "50"], ["--segment-length", "does not divide the 50"]),
        (["--segment-length", "10"], ["--segment-length is no option of the recipe 'grounded'"]),
        (["--resume"], ["--out"]),
        (["--resume", "--overwrite"], ["exclude"]),
        (["--sessions", " , "], ["--sessions"]),
    ],
)
def test_settings_that_cannot_work(
    poco: Callable,
    recordings: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    messages: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(poco("train", recordings, *options), *messages)


def test_train_without_data(poco: Callable, tmp_path: Path) -> None:
    refused(poco("train", "--out", tmp_path / "run"), "no DATA")


def test_resume_what_is_not_there(poco: Callable, trained: Path, recordings: Path, tmp_path: Path) -> None:
    refused(poco("train", "--out", tmp_path / "typo", "--resume"), "there is no run in", "typo")
    refused(poco("train", recordings, "--out", tmp_path / "typo", "--resume", *SHORT), "there is no run in", "typo")
    assert not (tmp_path / "typo").exists()
    lost = tmp_path / "lost"
    shutil.copytree(trained, lost)
    config = json.loads((lost / "config.json").read_text())
    (lost / "config.json").write_text(json.dumps({**config, "source": None}))
    refused(poco("train", "--out", lost, "--resume"), "does not say where its recordings are: give DATA")


def test_forecasts_never_replace_data(poco: Callable, trained: Path, recordings: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(recordings, data)
    before = (data / "animal-1.npz").read_bytes()
    own = ["forecast", trained, data / "animal-1.npz", "--out", data / "animal-1.npz"]
    for options in ([], ["--overwrite"]):
        refused(poco(*own, *options), "animal-1.npz exists and does not hold forecasts")
    assert (data / "animal-1.npz").read_bytes() == before
    good = ["forecast", trained, data / "animal-1.npz", "--latest", "--out", tmp_path / "f.npz"]
    assert poco(*good).code == 0
    refused(poco(*good), "holds forecasts already", "--overwrite")
    replaced = poco(*good, "--overwrite")
    assert replaced.code == 0, replaced.err
    assert "1 forecast of 8 units" in replaced.out


def test_a_unit_constant_while_training(poco: Callable, tmp_path: Path, activity: np.ndarray) -> None:
    activity[4, :200] = 1.5
    data, out = folder_of(tmp_path / "data", a=activity), tmp_path / "run"
    refused(poco("train", data, "--out", out, *SHORT), "--leave-out 'a/4'")
    left = poco("train", data, "--out", out, *SHORT, "--no-baselines", "--leave-out", "a/4", "--json")
    assert left.code == 0, left.err
    assert left.json["sessions"][0]["units"] == 5
    assert poco("eval", out, "--no-baselines").code == 0


def test_a_table_with_names(poco: Callable, tmp_path: Path, activity: np.ndarray) -> None:
    lines = [",".join(map(str, row)) for row in activity.T]
    (tmp_path / "a.csv").write_text("\n".join(["u,v,w,x,y,z", *lines]))
    options = ["--orientation", "frames x units", "--rate", "20"]
    refused(poco("inspect", tmp_path / "a.csv", *options), "say --header")
    seen = poco("inspect", tmp_path / "a.csv", *options, "--header", "--json")
    assert seen.code == 0, seen.err
    assert (seen.json["sessions"][0]["units"], seen.json["sessions"][0]["frames"]) == activity.shape


def test_out_folder_holds_something_else(poco: Callable, recordings: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    refused(poco("train", recordings, "--out", tmp_path, "--overwrite", *SHORT), str(tmp_path))
    refused(poco("demo", "--out", tmp_path, "--quick"), str(tmp_path), "--out")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_run_is_not_there(poco: Callable, recordings: Path, tmp_path: Path) -> None:
    refused(poco("eval", tmp_path / "run"), "run")
    refused(poco("eval", tmp_path), "run folder")
    refused(poco("forecast", tmp_path / "run", recordings, "--out", tmp_path / "f.npz"), "no such run folder")
    refused(poco("adapt", recordings / "animal-1.npz", recordings, "--out", tmp_path / "a"), "give a run folder")


@pytest.mark.parametrize("keep", [0, 7, 100, -10])
def test_truncated_model(poco: Callable, trained: Path, recordings: Path, tmp_path: Path, keep: int) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(trained, broken)
    model = broken / "model" / "model.safetensors"
    model.write_bytes(model.read_bytes()[:keep])
    refused(poco("eval", broken, "--no-baselines"), "model")
    refused(poco("forecast", broken, recordings / "animal-1.npz", "--out", tmp_path / "f.npz"), "model")


def test_truncated_checkpoint(poco: Callable, trained: Path, recordings: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(trained, broken)
    state = broken / "resume.safetensors"
    state.write_bytes(state.read_bytes()[:200])
    refused(poco("train", "--out", broken, "--resume", "--steps", "10"), "resume.safetensors", "truncated")


def test_run_of_another_version(poco: Callable, trained: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(trained, other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "format": 99}))
    refused(poco("eval", other), "format 99")


def test_recordings_have_moved_or_changed(poco: Callable, trained: Path, tmp_path: Path, activity: np.ndarray) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(trained, moved)
    config = json.loads((moved / "config.json").read_text())
    config["source"] = {"path": str(tmp_path / "gone")}
    (moved / "config.json").write_text(json.dumps(config))
    refused(poco("eval", moved), "gone")
    config["source"] = None
    (moved / "config.json").write_text(json.dumps(config))
    refused(poco("eval", moved), "--data")
    other = folder_of(tmp_path / "other", **{"animal-1": activity, "animal-2": activity})
    refused(poco("eval", moved, "--data", other), "animal-1")


def test_wrong_split(poco: Callable, trained: Path) -> None:
    refused(poco("eval", trained, "--split", "everything"), "--split", "everything")
    refused(poco("eval", trained, "--stride", "0", "--no-baselines"), "stride")
    refused(poco("eval", trained, "--precision", "half", "--no-baselines"), "precision must be one of float32, bf16")


def test_folder_cannot_be_written(poco: Callable, trained: Path, recordings: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(poco("train", recordings, "--out", tmp_path / "file" / "run", *SHORT), "file")
    refused(poco("forecast", trained, recordings / "animal-1.npz", "--out", tmp_path / "none" / "f.npz"), "none")
