"""The recipe 'grounded' from recordings to forecasts, through the command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

OPTIONS = ["--recipe", "grounded", "--steps", "20", "--val-every", "10", "--batch-size", "4", "--context", "16"]
OPTIONS += ["--horizon", "4", "--threads", "1", "--device", "cpu"]


def test_train_eval_and_forecast(poco: Callable, recordings: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    trained = poco("train", recordings, "--out", out, *OPTIONS, "--no-baselines", "--json")
    assert trained.code == 0, trained.err
    lines = [line for line in trained.err.splitlines() if line.startswith(("ground: ", "forecast: "))]
    assert ["solved for" in lines[0], "trained again" in lines[2]] == [True, True]  # before what takes long
    assert len(lines) == 4
    assert "with the level residual" in trained.err
    made = json.loads((out / "model" / "config.json").read_text())
    assert made["model"] == "Grounded"
    assert made["training"]["recipe"] == "grounded"
    assert sum(made["ground"]["weights"].values()) > 0.999
    assert 0 <= sum(made["networks"]["gains"]) <= 1 + 1e-6
    scored = poco("eval", out, "--json")
    assert scored.code == 0, scored.err
    assert scored.json["score"] == trained.json["score"]
    assert scored.json["baselines"]["ground"]["score"] > 0
    forecast = poco("forecast", out, recordings / "animal-1.npz", "--out", tmp_path / "f.npz", "--latest")
    assert forecast.code == 0, forecast.err
    assert np.isfinite(np.load(tmp_path / "f.npz")["values"]).all()


def test_a_new_session_is_a_solve(poco: Callable, recordings: Path, tmp_path: Path) -> None:
    out, new = tmp_path / "run", recordings / "animal-2.npz"
    assert poco("train", recordings, "--sessions", "animal-1", "--out", out, *OPTIONS, "--no-baselines").code == 0
    adapted = poco("adapt", out, new, "--out", tmp_path / "adapted", "--json")
    assert adapted.code == 0, adapted.err
    assert adapted.json["mode"] == "solve"
    assert adapted.json["after"] > 0
    assert adapted.json["after"] != adapted.json["before"]
    forecast = poco("forecast", tmp_path / "adapted", new, "--out", tmp_path / "f.npz", "--latest")
    assert forecast.code == 0, forecast.err
    named = ("--mode", "solve", "--steps", "7", "--lr", "0.5")
    steps = poco("adapt", out, new, "--out", tmp_path / "same", *named, "--json")
    assert steps.json["after"] == adapted.json["after"]
    assert "takes a session by a solve; --steps, --lr left aside" in steps.err
    full = poco("adapt", out, new, "--out", tmp_path / "other", "--mode", "full")
    assert full.code == 2
    assert "takes a session by a solve (mode 'solve'), not 'full'" in full.err


def test_a_run_without_its_last_steps_ends_the_same(poco: Callable, recordings: Path, tmp_path: Path) -> None:
    whole = poco("train", recordings, "--out", tmp_path / "a", *OPTIONS, "--no-baselines", "--json")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    shutil.rmtree(tmp_path / "b" / "model")
    again = poco("train", "--out", tmp_path / "b", "--resume", "--no-baselines", "--threads", "1", "--json")
    assert again.code == 0, again.err
    assert again.json["score"] == whole.json["score"]


def test_an_option_of_another_model(poco: Callable, recordings: Path, tmp_path: Path) -> None:
    result = poco("train", recordings, "--out", tmp_path / "run", *OPTIONS, "--segment-length", "4")
    assert result.code == 2
    assert "--segment-length is no option of the recipe 'grounded'" in result.err
