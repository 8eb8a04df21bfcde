"""Each command on small recordings: what it prints, what it writes, and its JSON."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers.processes import environment

FEW_STEPS = ["--steps", "4", "--val-every", "2", "--batch-size", "4", "--context", "16", "--horizon", "4"]
FEW_STEPS += ["--threads", "1", "--device", "cpu", "--no-baselines"]
GROWING = ["--schedule", "constant"]  # under which a run may be given more steps


def test_inspect(poco: Callable, recordings: Path) -> None:
    text, machine = poco("inspect", recordings), poco("inspect", recordings, "--json")
    assert (text.code, machine.code) == (0, 0)
    assert "animal-2" in text.out
    assert len(machine.json["sessions"]) == 2


def test_inspect_several(poco: Callable, recordings: Path) -> None:
    paths = [recordings / "animal-1.npz", recordings / "animal-2.npz"]
    text, machine = poco("inspect", *paths), poco("inspect", *paths, "--json")
    assert (text.code, machine.code) == (0, 0)
    assert text.out.count("array        activity") == 2
    assert [one["sessions"][0]["session"] for one in machine.json["paths"]] == ["animal-1", "animal-2"]


def test_train_writes_a_run_and_ends_with_a_table(poco: Callable, recordings: Path, tmp_path: Path) -> None:
    result = poco("train", recordings, "--out", tmp_path / "run", *FEW_STEPS, *GROWING, "--warmup", "1", "--clip", "0")
    assert result.code == 0, result.err
    assert "Score on the test part, leak-free protocol" in result.out
    assert "animal-2" in result.out
    assert "grounded ahead by" in result.out
    assert re.search(r"copy +0\.000 +\[0\.000, 0\.000\] +[+-]\d\.\d{3} \[[+-]\d\.\d{3}, [+-]\d\.\d{3}\]", result.out)
    assert "they speak of these recordings, not of other animals" in result.out
    assert f"poco eval {tmp_path / 'run'}" in result.out
    more = poco("train", "--out", tmp_path / "run", "--resume", "--steps", "6", "--no-baselines")
    for printed in (result.out, more.out):
        command = shlex.split(next(line for line in printed.splitlines() if "poco forecast" in line))
        assert command[-2:] == ["--out", "forecasts.npz"]
        forecast = poco(*command[1:-1], tmp_path / "f.npz", "--latest", "--overwrite")
        assert forecast.code == 0, forecast.err
    for name in ("config.json", "metrics.jsonl", "log.txt", "evaluation.json", "figure.png"):
        assert (tmp_path / "run" / name).stat().st_size > 0
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()


def test_train_json_is_pure_and_resume_goes_on(poco: Callable, recordings: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = [*FEW_STEPS, *GROWING, "--sessions", "animal-2", "--protocol", "published", "--seed", "7", "--ema", "0.9"]
    first = poco("train", recordings, "--out", out, *options, "--json")
    assert first.code == 0, first.err
    assert first.json["run"] == str(out)
    assert first.json["protocol"] == "published"
    assert [entry["session"] for entry in first.json["sessions"]] == ["animal-2"]
    copy = first.json["baselines"]["copy"]
    assert copy["interval"] == [0, 0]
    assert (copy["ahead"]["difference"], copy["ahead"]["interval"]) == (first.json["score"], first.json["interval"])
    more = poco("train", "--out", out, "--resume", "--steps", "6", "--no-baselines", "--json")
    assert more.code == 0, more.err
    assert more.json["protocol"] == "published"
    assert "training from step 4 to 6" in (out / "log.txt").read_text()
    again = poco("train", recordings, "--out", out, *options)
    assert again.code == 2
    assert again.err.count("\n") == 1
    assert "--resume" in again.err or "resume" in again.err
    replaced = poco("train", recordings, "--out", out, *options, "--overwrite", "--json")
    assert replaced.json["score"] == first.json["score"]


def test_train_names_its_own_folder(
    poco: Callable, recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = poco("train", recordings, *FEW_STEPS, "--json")
    assert result.code == 0, result.err
    assert result.json["run"].startswith("runs/fish-")
    assert Path(result.json["run"], "config.json").exists()


def test_eval(poco: Callable, trained: Path, recordings: Path) -> None:
    machine = poco("eval", trained, "--json", "--no-baselines")
    assert machine.code == 0, machine.err
    assert {"score", "sessions", "baselines", "protocol", "split"} <= set(machine.json)
    assert machine.json["split"] == "test"
    assert machine.json["score"] == pytest.approx(np.mean([s["score"] for s in machine.json["sessions"]]))
    low, high = machine.json["interval"]
    assert low < machine.json["score"] < high
    text = poco("eval", trained, "--split", "val", "--no-baselines", "--data", recordings, "--stride", "3")
    assert text.code == 0, text.err
    assert "Score on the validation part" in text.out
    assert "95% interval" in text.out
    assert "ahead by" not in text.out
    low = poco("eval", trained, "--json", "--no-baselines", "--precision", "bf16")
    assert low.json["score"] == pytest.approx(machine.json["score"], abs=0.02)
    assert low.json["precision"] == "bf16"


@pytest.mark.parametrize("name", ["out.npz", "out.zarr"])
def test_forecast(poco: Callable, trained: Path, recordings: Path, tmp_path: Path, name: str) -> None:
    if name.endswith("zarr"):
        pytest.importorskip("zarr", reason="zarr files need the extra 'formats'")
    out = tmp_path / name
    result = poco("forecast", trained, recordings / "animal-1.npz", "--out", out, "--stride", "50", "--json")
    assert result.code == 0, result.err
    assert result.json["session"] == "animal-1"
    assert result.json["horizon"] == 4
    assert result.json["first_frame"] == 12
    assert out.exists()
    if out.suffix == ".npz":
        with np.load(out) as stored:
            assert stored["values"].shape == (result.json["windows"], 8, 4)


def test_forecast_of_what_comes_next(poco: Callable, trained: Path, recordings: Path, tmp_path: Path) -> None:
    options = ["--session", "animal-2", "--latest", "--out", tmp_path / "next.npz"]
    result = poco("forecast", trained, recordings, *options)
    assert result.code == 0, result.err
    with np.load(tmp_path / "next.npz") as stored:
        assert stored["frame"].tolist() == [400]
        assert stored["values"].shape == (1, 8, 4)


def test_adapt_then_forecast(poco: Callable, trained: Path, recordings: Path, tmp_path: Path) -> None:
    new = tmp_path / "new"
    new.mkdir()
    (new / "dataset.toml").write_text((recordings / "dataset.toml").read_text())
    with np.load(recordings / "animal-1.npz") as stored:
        np.savez(new / "stranger.npz", activity=stored["activity"][:5, ::-1])
    out = tmp_path / "adapted"
    result = poco("adapt", trained, new / "stranger.npz", "--out", out, "--steps", "4", "--batch-size", "4", "--json")
    assert result.code == 0, result.err
    assert result.json["session"] == "stranger"
    assert {"before", "after", "seconds", "history", "kept_step", "settings"} <= set(result.json)
    forecast = poco("forecast", out, new / "stranger.npz", "--out", tmp_path / "f.npz", "--json")
    assert forecast.code == 0, forecast.err
    assert forecast.json["units"] == 5
    assert poco("adapt", trained, new / "stranger.npz", "--out", out).code == 2
    result = poco(
        "adapt", trained, new / "stranger.npz", "--out", tmp_path / "as-is", "--mode", "zero-shot", "--steps", 3
    )
    assert result.code == 0, result.err
    assert "zero-shot fits nothing; --steps left aside" in result.err
    assert f"poco report {tmp_path / 'as-is'}" in result.out


def test_train_without_an_animal(poco: Callable, recordings: Path, tmp_path: Path) -> None:
    options = [*FEW_STEPS, "--no-baselines", "--json"]
    result = poco("train", recordings, "--out", tmp_path / "run", "--without", "animal-1", *options)
    assert result.code == 0, result.err
    assert [session["session"] for session in result.json["sessions"]] == ["animal-2"]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_saves_and_resumes(
    poco: Callable, recordings: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    out = tmp_path / "run"
    options = [*FEW_STEPS, "--steps", "100000", "--val-every", "100000"]
    with subprocess.Popen(
        [sys.executable, "-m", "poco", "train", str(recordings), "--out", str(out), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        cwd=tmp_path,
    ) as process:
        began = time.monotonic()
        while not (out / "metrics.jsonl").exists() or not (out / "metrics.jsonl").stat().st_size:
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            assert time.monotonic() - began < 60
            time.sleep(0.05)
        process.send_signal(number)
        error = process.communicate(timeout=60)[1].decode()
    assert process.returncode == code
    assert error.splitlines()[-1].startswith("poco: error: interrupted at step")
    assert (out / "resume.safetensors").exists()


def test_interrupted_outside_the_steps_a_run_says_how_to_go_on(
    poco: Callable, recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    out = tmp_path / "run"
    command = ["train", recordings, "--out", out, *FEW_STEPS]
    with monkeypatch.context() as patch:
        patch.setattr("poco.data.read.read", interrupt)
        result = poco(*command)
        assert (result.code, result.err) == (130, "poco: error: interrupted\n")
        patch.undo()
        patch.setattr("poco.run.Run.evaluate", interrupt)
        result = poco(*command)
    assert result.code == 130
    assert result.err.endswith(f"what is done is in {out}; poco train --resume --out {out} goes on\n")
    result = poco("train", "--resume", "--out", out, "--json")
    assert result.code == 0, result.err


def test_a_run_that_was_stopped_says_so(poco: Callable, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    file = tmp_path / "run" / "model" / "config.json"
    config = json.loads(file.read_text())
    assert config["training"]["finished"]
    assert "stopped before its end" not in poco("eval", tmp_path / "run").err
    config["training"]["finished"] = False
    file.write_text(json.dumps(config))
    result = poco("eval", tmp_path / "run", "--json")
    assert result.code == 0, result.err
    assert "was stopped before its end" in result.err
    assert result.json["score"] is not None
