"""poco.data.write: what is written is read back, with nothing to be said beside it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.recordings import waves

from poco.data.read import read
from poco.data.readers.own import ABOUT
from poco.data.recording import Recording
from poco.data.write import write
from poco.errors import DataError


def full() -> Recording:
    """A recording with everything a recording can have."""
    plain = waves("fish/1", units=4, frames=60, stretches=((0, 20), (25, 60)))
    activity = plain.activity.copy()
    activity[1, 3] = np.nan
    return replace(
        plain,
        activity=activity,
        rate_hz=2.5,
        unit_ids=("a", "b", "ü", "d"),
        subject="fish",
        dataset="pond",
        labels={"region": ("left", "", "left", "right")},
        coordinates=np.arange(12, dtype=np.float32).reshape(4, 3),
        channels={"tail angle": np.arange(60, dtype=np.float32), "xy": np.ones((60, 2), np.float32)},
        provenance={"licence": "mine"},
        warnings=("mind the gap",),
    )


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    recording = full()
    files = write([recording, waves("b", units=2, frames=30)], tmp_path)
    assert [file.name for file in files] == ["fish_1.npz", "b.npz"]
    plain, found = read(tmp_path)
    assert (plain.session, plain.rate_hz, plain.stretches) == ("b", waves("b").rate_hz, ((0, 30),))
    for name in ("session", "subject", "dataset", "rate_hz", "unit_ids", "labels", "stretches", "warnings"):
        assert getattr(found, name) == getattr(recording, name), name
    assert found.provenance["licence"] == "mine"
    np.testing.assert_array_equal(found.activity, recording.activity)
    np.testing.assert_array_equal(found.coordinates, recording.coordinates)
    assert found.channels.keys() == recording.channels.keys()
    for name, values in recording.channels.items():
        np.testing.assert_array_equal(found.channels[name], values)


def test_a_control_stays_a_control(tmp_path: Path) -> None:
    write([replace(waves("a"), provenance={"neural": "no"})], tmp_path)
    assert read(tmp_path)[0].provenance["neural"] == "no"


def test_units_can_be_dropped_while_it_is_read(tmp_path: Path) -> None:
    write([full()], tmp_path)
    found = read(tmp_path, nan="drop", leave_out=("d",))[0]
    assert found.unit_ids == ("a", "ü")
    assert found.labels == {"region": ("left", "left")}


def test_trial_borders_cut_the_stretches_that_are_known(tmp_path: Path) -> None:
    write([full()], tmp_path)
    found = read(tmp_path, cut_trials=True, trial_frames=15)[0]
    assert found.stretches == ((0, 15), (15, 20), (25, 30), (30, 45), (45, 60))


def test_nothing_is_replaced_and_nothing_damaged_is_read(tmp_path: Path) -> None:
    file = write([full()], tmp_path)[0]
    with pytest.raises(DataError, match="is there already"):
        write([full()], tmp_path)
    with pytest.raises(DataError, match="two sessions would be written"):
        write([waves("x/1"), waves("x_1")], tmp_path / "two")
    assert not (tmp_path / "two").exists()
    names = [".hidden", "..", "ö" * 300]
    write([waves(name) for name in names], tmp_path / "three")
    assert {recording.session for recording in read(tmp_path / "three")} == set(names)
    with np.load(file) as stored:
        arrays = dict(stored)
    about = json.loads(str(arrays[ABOUT]))
    np.savez(file, **{**arrays, ABOUT: np.array(json.dumps({**about, "version": 2}))})
    with pytest.raises(DataError, match="of version 2, this poco reads 1"):
        read(tmp_path)
    del about["labels"]
    np.savez(file, **{**arrays, ABOUT: np.array(json.dumps(about))})
    with pytest.raises(DataError, match="fish_1"):
        read(tmp_path)
    np.savez(file, **{**arrays, ABOUT: np.array("{")})
    with pytest.raises(DataError, match="fish_1"):
        read(tmp_path)
