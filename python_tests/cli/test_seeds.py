"""Several seeds through the command line: one model that is scored, forecasts and is adapted as any other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

COMMON = ["--steps", "4", "--val-every", "2", "--batch-size", "4", "--context", "16", "--horizon", "4"]
COMMON += ["--threads", "1", "--device", "cpu", "--no-baselines", "--seed", "3"]


@pytest.mark.parametrize("recipe", ["published", "grounded"])
def test_train_eval_forecast_and_adapt(poco: Callable, recordings: Path, tmp_path: Path, recipe: str) -> None:
    out, first, new = tmp_path / "run", recordings / "animal-1.npz", recordings / "animal-2.npz"
    options = [*COMMON, "--recipe", recipe, "--seeds", "2", "--sessions", "animal-1"]
    trained = poco("train", recordings, "--out", out, *options, "--json")
    assert trained.code == 0, trained.err
    assert "seed 4 (2 of 2)" in trained.err
    made = json.loads((out / "model" / "config.json").read_text())
    assert (made["model"], made["training"]["seeds"]) == ("Ensemble", [3, 4])
    scored = poco("eval", out, "--json")
    assert scored.code == 0, scored.err
    assert scored.json["score"] == trained.json["score"]
    assert poco("forecast", out, first, "--out", tmp_path / "f.npz", "--latest").code == 0
    means = []
    for seed in ("3", "4"):
        alone = tmp_path / f"{seed}.npz"
        assert poco("forecast", out / "members" / seed, first, "--out", alone, "--latest").code == 0
        means.append(np.load(alone)["values"])
    np.testing.assert_allclose(np.load(tmp_path / "f.npz")["values"], np.mean(means, axis=0), rtol=1e-4, atol=1e-5)
    adapted = poco("adapt", out, new, "--out", tmp_path / "adapted", "--steps", "2", "--batch-size", "4", "--json")
    assert adapted.code == 0, adapted.err
    assert [point["score"] for point in adapted.json["history"]] == [adapted.json["before"], adapted.json["after"]]
    assert poco("forecast", tmp_path / "adapted", new, "--out", tmp_path / "g.npz", "--latest").code == 0


def test_resume_takes_the_seeds_of_the_run(poco: Callable, recordings: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert poco("train", recordings, "--out", out, *COMMON, "--seeds", "2", "--sessions", "animal-1").code == 0
    again = poco("train", "--out", out, "--resume", "--no-baselines", "--threads", "1")
    assert again.code == 0, again.err
    assert "seed 4 is trained already" in again.err
    more = poco("train", "--out", out, "--resume", "--no-baselines", "--threads", "1", "--seeds", "3")
    assert more.code == 0, more.err
    assert json.loads((out / "model" / "config.json").read_text())["training"]["seeds"] == [3, 4, 5]
    fewer = poco("train", "--out", out, "--resume", "--seeds", "2")
    assert fewer.code == 2
    assert "seeds was 3, now 2" in fewer.err
