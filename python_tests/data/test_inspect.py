"""What ``inspect`` shows, also where something is wrong with a session."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from poco.data.inspect import inspect
from poco.data.recording import Recording
from poco.data.write import write
from poco.errors import DataError

OPTIONS = {"orientation": "units x frames", "rate_hz": 10.0}


def save(path: Path, units: int = 6, frames: int = 400, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal((units, frames))
    np.save(path, values)
    return values


def test_sizes_and_ranges(tmp_path: Path) -> None:
    values = save(tmp_path / "a.npy")
    seen = inspect(tmp_path / "a.npy", **OPTIONS)
    (session,) = seen.sessions
    assert (session.units, session.units_used, session.frames) == (6, 6, 400)
    assert (session.rate_hz, session.duration_s) == (10.0, 40.0)
    assert session.low == pytest.approx(values.min())
    assert session.high == pytest.approx(values.max())
    assert session.warnings == ()
    content = seen.to_json()
    json.dumps(content, allow_nan=False)
    assert content["sessions"][0]["units"] == 6
    assert "6 x 400" in seen.to_text()
    assert "none: only what the files say" in seen.to_text()


def test_the_array_that_was_taken(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", dff=np.random.default_rng(0).standard_normal((3, 400)), notes=np.zeros(3))
    assert "array        dff" in inspect(tmp_path / "a.npz", **OPTIONS).to_text().splitlines()


def test_missing_and_constant_units(tmp_path: Path) -> None:
    values = save(tmp_path / "a.npy")
    values[1, :3] = np.nan
    values[2, 0] = np.inf
    values[4] = 1.0
    np.save(tmp_path / "a.npy", values)
    (kept,) = inspect(tmp_path / "a.npy", **OPTIONS).sessions
    assert (kept.nan_values, kept.infinite_values, kept.nan_units, kept.constant_units) == (3, 1, (1, 2), (4,))
    assert kept.units_used == 6
    assert sum("training refuses" in line for line in kept.warnings) == 2
    seen = inspect(tmp_path / "a.npy", **OPTIONS, nan="drop", constant="drop")
    (dropped,) = seen.sessions
    assert (dropped.units, dropped.units_used, dropped.nan_values) == (6, 3, 3)
    assert "3 units" in seen.to_text()
    assert not any("training refuses" in line for line in dropped.warnings)


def test_all_values_missing(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.full((2, 400), np.nan))
    seen = inspect(tmp_path / "a.npy", **OPTIONS)
    assert (seen.sessions[0].low, seen.sessions[0].high) == (None, None)
    json.dumps(seen.to_json(), allow_nan=False)
    seen.to_text()


@pytest.mark.parametrize(
    ("frames", "message"), [(63, "fewer than a default window"), (260, "training takes some 320"), (320, "")]
)
def test_few_frames(tmp_path: Path, frames: int, message: str) -> None:
    save(tmp_path / "a.npy", frames=frames)
    (session,) = inspect(tmp_path / "a.npy", **OPTIONS).sessions
    assert any(message in line for line in session.warnings) if message else not session.warnings


def test_more_units_than_frames_may_be_turned(tmp_path: Path) -> None:
    save(tmp_path / "a.npy", units=300, frames=20)
    (session,) = inspect(tmp_path / "a.npy", **OPTIONS).sessions
    assert any("and 300 units: is the orientation right?" in line for line in session.warnings)


def test_many_short_stretches_are_enough_together(tmp_path: Path) -> None:
    save(tmp_path / "a.npy", frames=800)
    (session,) = inspect(tmp_path / "a.npy", **OPTIONS, trial_frames=80, cut_trials=True).sessions
    assert not session.warnings


def test_drift(tmp_path: Path) -> None:
    values = save(tmp_path / "a.npy")
    np.save(tmp_path / "a.npy", values + np.linspace(0, 10, values.shape[1]))
    (session,) = inspect(tmp_path / "a.npy", **OPTIONS).sessions
    assert session.drift == 1.0
    assert any("slow drift" in line for line in session.warnings)


def test_trials(tmp_path: Path) -> None:
    save(tmp_path / "a.npy")
    seen = inspect(tmp_path / "a.npy", **OPTIONS, trial_frames=40)
    assert "40-frame trials" in seen.to_text()
    (cut,) = inspect(tmp_path / "a.npy", **OPTIONS, trial_frames=40, cut_trials=True).sessions
    assert (cut.stretches, cut.longest_stretch) == (10, 40)
    assert any("fewer than a default window" in line for line in cut.warnings)


def test_one_bad_session_does_not_hide_the_others(tmp_path: Path) -> None:
    save(tmp_path / "a.npy")
    (tmp_path / "b.npy").write_bytes(b"no array")
    seen = inspect(tmp_path, **OPTIONS)
    good, bad = seen.sessions
    assert good.units == 6
    assert "truncated or damaged" in bad.error
    assert "CANNOT BE READ" in seen.to_text()
    assert seen.warnings[0] == "1 of 2 sessions cannot be read"
    with pytest.raises(DataError, match="truncated or damaged"):
        inspect(tmp_path / "b.npy", **OPTIONS)


def test_across_sessions(tmp_path: Path) -> None:
    for name, step in (("a", 0.1), ("b", 0.2)):
        values = np.random.default_rng(0).standard_normal((4, 400))
        np.savez(tmp_path / f"{name}.npz", x=values, t=np.arange(400) * step)
    seen = inspect(tmp_path, orientation="units x frames", key="x", time_key="t", session="same")
    assert any("different rates, from 5 to 10 Hz" in line for line in seen.warnings)
    assert any("more than once: same" in line for line in seen.warnings)


def test_one_recording_in_two_files(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((4, 400))
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", values)
    np.save(tmp_path / "c.npy", values[::-1])
    (line,) = inspect(tmp_path, orientation="units x frames", rate_hz=2.0).warnings
    assert line.startswith("session 'b' has the same activity as session 'a': it is one recording under two names")


def test_data_sets_that_the_recordings_carry(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((2, 3, 400))
    recordings = [Recording(v, name, 1.0, dataset=f"set {name}") for v, name in zip(values, "ab", strict=True)]
    write(recordings, tmp_path)
    assert inspect(tmp_path).dataset == "set a, set b"
    assert [report.dataset for report in inspect(tmp_path).sessions] == ["set a", "set b"]
    assert "data set     set a" in inspect(tmp_path / "a.npz").to_text().splitlines()
    assert inspect(tmp_path, dataset="mine").dataset == "mine"


def test_control_and_labels_and_notes(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.random.default_rng(0).standard_normal((3, 400)), r=np.array(["V1", "", "V1"]))
    content = {
        "name": "set",
        "neural": False,
        "indicator": "GFP",
        "notes": ["worth knowing"],
        "activity": {"key": "x", "orientation": "units x frames", "rate_hz": 2.0},
        "labels": {"region": {"key": "r"}},
    }
    seen = inspect(tmp_path, description=content)
    (session,) = seen.sessions
    assert not session.neural
    assert session.labels == {"region": {"labelled": 2, "classes": 1}}
    for line in ("NOT NEURAL ACTIVITY", "region 2 (1)", "worth knowing", "GFP"):
        assert line in seen.to_text()


def test_large_values_are_looked_at_too(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((4, 400)) + np.linspace(0, 20, 400)
    np.save(tmp_path / "a.npy", (1e31 * values).astype(np.float32))
    seen = inspect(tmp_path / "a.npy", orientation="units x frames", rate_hz=1)
    assert seen.sessions[0].drift == 1
    assert any("slow drift" in line for line in seen.sessions[0].warnings)
