"""What the commands take: a run, a model alone, and what ``poco adapt`` wrote."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    """A recording that no description speaks of: two arrays, of which one is the activity."""
    path = tmp_path / "stranger.npz"
    rng = np.random.default_rng(0)
    np.savez(path, activity=rng.normal(size=(5, 300)).cumsum(1), other=rng.normal(size=(5, 300)))
    return path


READING = ("--key", "activity", "--orientation", "units x frames", "--rate", "20")


def test_an_adapted_model_is_read_as_it_was_adapted(
    poco: Callable, trained: Path, stranger: Path, tmp_path: Path
) -> None:
    out = tmp_path / "adapted"
    result = poco("adapt", trained, stranger, "--out", out, "--steps", "2", "--batch-size", "4", *READING)
    assert result.code == 0, result.err
    config = json.loads((out / "model" / "config.json").read_text())
    assert config["rate_hz"] == {"animal-1": 20.0, "animal-2": 20.0, "stranger": 20.0}
    assert config["training"]["recipe"] == "published"
    assert config["adaptations"][0]["settings"]["steps"] == 2
    assert poco("forecast", out, stranger, "--out", tmp_path / "f.npz").code == 0
    wrong = poco("forecast", out, stranger, "--out", tmp_path / "g.npz", "--rate", "40")
    assert wrong.code == 2
    assert "learnt it at 20" in wrong.err


@pytest.mark.filterwarnings("default:session 'stranger'")
def test_another_rate_is_told_or_refused(
    poco: Callable, trained: Path, recordings: Path, stranger: Path, tmp_path: Path
) -> None:
    first = recordings / "animal-1.npz"
    result = poco("forecast", trained / "model", first, "--out", tmp_path / "f.npz", "--rate", "40")
    assert result.code == 2
    assert "learnt it at 20" in result.err
    short = ("--steps", "1", "--batch-size", "4")
    result = poco("adapt", trained, stranger, "--out", tmp_path / "a", *short, *READING[:-1], "40")
    assert result.code == 0
    assert "has 40 frames a second, the model learnt from 20" in result.err


def test_a_run_is_known_by_its_settings(poco: Callable, trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    (run / "metrics.jsonl").unlink()
    assert poco("eval", run, "--no-baselines").code == 0


def test_a_model_cannot_be_evaluated(poco: Callable, trained: Path, tmp_path: Path) -> None:
    adapted = tmp_path / "adapted"
    shutil.copytree(trained / "model", adapted / "model")
    for folder in (trained / "model", adapted):
        result = poco("eval", folder)
        assert result.code == 2
        assert f"{folder} holds a model, not a run: give the folder that 'poco train' wrote" in result.err
