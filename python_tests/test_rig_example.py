"""examples/rig/trigger.py: triggers where the forecast of a group rises above the threshold, and not elsewhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.needs import needs_core
from helpers.processes import environment

import poco

PROGRAM = Path(__file__).resolve().parents[1] / "examples" / "rig" / "trigger.py"
pytestmark = needs_core


def test_it_triggers_once_for_each_crossing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"context": 6, "horizon": 3, "segment_length": 3, "width": 8, "heads": 2, "head_width": 8, "film_width": 16}
    model = poco.POCO(poco.POCOConfig(**sizes, embedding_std=0.5), [poco.SessionSpec("fish", 4)])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.set_normalisation("fish", np.zeros(4), np.ones(4))
    model.save_pretrained(tmp_path / "model")
    frames = np.random.default_rng(0).standard_normal((60, 4)).astype(np.float32)
    frames[30, 2] = np.nan
    made = list(poco.Stream(model, "fish", threads=1).over(frames))
    means = {f.frame: np.mean([f.values[u] for u in (1, 2) if f.valid[u]], 0) for f in made if f.values is not None}
    threshold = float(np.quantile([m.max() for m in means.values()], 0.6))
    expected, above = [], False
    for number, mean in means.items():
        step = next((k for k, value in enumerate(mean) if value > threshold), None)
        if step is not None and not above:
            expected.append((number, step + 1, float(mean[step])))
        above = step is not None
    assert len(expected) > 3
    lines = [" ".join(f"{value:.9g}" for value in frame) for frame in frames]
    lines[7:7] = ["one two", "1 2 3"]  # neither is a frame
    command = [sys.executable, str(PROGRAM), str(tmp_path / "model"), "fish", repr(threshold), "1", "2"]
    done = subprocess.run(
        command, input="\n".join(lines), env=environment(), capture_output=True, text=True, check=True
    )
    found = [line.split() for line in done.stdout.splitlines()]
    assert [(int(n), int(s)) for _, n, s, _ in found] == [(n, s) for n, s, _ in expected]
    assert [float(v) for *_, v in found] == pytest.approx([v for *_, v in expected], rel=1e-4)
    assert "could not convert string to float: 'one'" in done.stderr
    assert "60 frames" in done.stderr


def test_nothing_is_triggered_where_whole_frames_are_missing(tmp_path: Path) -> None:
    sizes = {"context": 6, "horizon": 3, "segment_length": 3, "width": 8, "heads": 2, "head_width": 8, "film_width": 16}
    model = poco.POCO(poco.POCOConfig(**sizes), [poco.SessionSpec("fish", 2)])
    model.set_normalisation("fish", np.zeros(2), np.ones(2))
    model.save_pretrained(tmp_path, {"rate_hz": {"fish": 1.0}})
    command = [sys.executable, str(PROGRAM), str(tmp_path), "fish", "-1000", "1"]
    # numbers of frames count those that were filled in; a gap before the first forecast, no gap, a gap too long to fill
    for gap, missing, frame in ((3, 2, 10), (30, 0, 5), (5, 100, 10)):
        times = [i + missing * (i >= gap) for i in range(30)]
        lines = "\n".join(f"t={time} {time % 3} 1" for time in times)
        done = subprocess.run(command, input=lines, env=environment(), capture_output=True, text=True, check=True)
        assert [line.split()[1] for line in done.stdout.splitlines()] == [str(frame)]


def test_a_unit_that_is_not_there_is_refused(tmp_path: Path) -> None:
    model = poco.POCO(poco.POCOConfig(), [poco.SessionSpec("fish", 4)])
    model.set_normalisation("fish", np.zeros(4), np.ones(4))
    model.save_pretrained(tmp_path)
    command = [sys.executable, str(PROGRAM), str(tmp_path), "fish", "1", "4"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False, input="")
    assert done.returncode == 2
    assert "units are 0 to 3" in done.stderr


def test_a_time_far_ahead_does_not_end_it(tmp_path: Path) -> None:
    model = poco.POCO(poco.POCOConfig(context=6, segment_length=3), [poco.SessionSpec("fish", 2)])
    model.set_normalisation("fish", np.zeros(2), np.ones(2))
    model.save_pretrained(tmp_path)
    lines = [f"t={1e18 if i == 10 else i} {i % 3} 1" for i in range(30)]
    lines[15:15] = ["t=0 1", "no frame"]  # of other lengths, or none: they count for nothing
    command = [sys.executable, str(PROGRAM), str(tmp_path), "fish", "0", "1"]
    done = subprocess.run(
        command, input="\n".join(lines), env=environment(), capture_output=True, text=True, check=True
    )
    said = done.stderr.splitlines()
    assert sum("time stamps must rise" in line for line in said) == 5
    assert said[-2:-1] == ["the last 5 frames were refused: the stream begins anew"]
    assert said[-1].startswith("25 frames")


@pytest.mark.parametrize("units", [1, 3, 7])
def test_frames_of_other_units_are_told_and_are_a_failure(tmp_path: Path, units: int) -> None:
    model = poco.POCO(poco.POCOConfig(context=6, segment_length=3), [poco.SessionSpec("fish", 2)])
    model.set_normalisation("fish", np.zeros(2), np.ones(2))
    model.save_pretrained(tmp_path)
    command = [sys.executable, str(PROGRAM), str(tmp_path), "fish", "0", "1"]
    lines = "\n".join(["1 " * units] * 10)
    done = subprocess.run(command, input=lines, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[:10] == [f"the frame has {units} units and session 'fish' has 2"] * 10


@pytest.mark.parametrize("threshold", ["high", "nan"])
def test_a_threshold_that_is_no_number_is_refused(tmp_path: Path, threshold) -> None:
    model = poco.POCO(poco.POCOConfig(), [poco.SessionSpec("fish", 4)])
    model.set_normalisation("fish", np.zeros(4), np.ones(4))
    model.save_pretrained(tmp_path)
    command = [sys.executable, str(PROGRAM), str(tmp_path), "fish", threshold, "1"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False, input="")
    assert (done.returncode, "threshold" in done.stderr) == (2, True)
