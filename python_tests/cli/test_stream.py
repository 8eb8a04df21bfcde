"""``poco stream``."""

from __future__ import annotations

import numpy as np
import pytest

from poco import core

pytestmark = pytest.mark.skipif(core.module() is None, reason="needs the compiled core")


def test_a_replay_reports_latency_and_score(poco, trained, recordings) -> None:
    name = sorted(recordings.glob("*.npz"))[0].stem
    arguments = ("stream", trained, "--replay", recordings, "--session", name, "--speed", 0)
    done = poco(*arguments, "--json")
    assert done.code == 0, done.err
    found = done.json
    assert (found["session"], found["units"], found["frames"], found["forecasts"]) == (name, 8, 400, 389)
    assert found["gaps"] == found["refused"] == found["held_values"] == 0
    assert 0 < found["p50_ms"] <= found["longest_ms"]
    assert found["score"] < 1
    done = poco(*arguments, "--frames", 20, "--deadline-ms", 1e-6)
    assert "20 frames, 9 forecasts" in done.out
    assert "9 late" in done.out


def test_a_replay_takes_the_time_that_it_took(poco, trained, recordings) -> None:
    import time

    name = sorted(recordings.glob("*.npz"))[0].stem
    began = time.monotonic()
    arguments = ("--replay", recordings / f"{name}.npz", "--frames", 11, "--json")
    assert poco("stream", trained, *arguments).code == 0
    assert time.monotonic() - began >= 0.5  # 20 frames a second


def test_what_does_not_fit_says_so(poco, trained, recordings, tmp_path) -> None:
    other = tmp_path / "other.npy"
    np.save(other, np.zeros((5, 100), np.float32))
    reading = ("--orientation", "units x frames", "--rate", 20)
    name = sorted(recordings.glob("*.npz"))[0].stem
    done = poco("stream", trained, "--replay", other, "--as", name, *reading)
    assert done.code == 2
    assert f"'other' has 5 units and session '{name}' of the model has 8" in done.err
    done = poco("stream", trained, "--replay", other, *reading)
    assert done.code == 2
    assert "unknown session 'other'" in done.err
