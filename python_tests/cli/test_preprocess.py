"""``poco preprocess``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from poco.data.read import read


def test_recordings_are_reduced_and_train(poco: Callable, recordings: Path, tmp_path: Path) -> None:
    out = tmp_path / "components"
    done = poco("preprocess", recordings, "--out", out, "--downsample", 2, "--components", 3, "--json")
    assert done.code == 0, done.err
    sessions = done.json["recordings"]
    assert [(one["session"], one["units"], one["frames"], one["rate_hz"]) for one in sessions] == [
        ("animal-1", 3, 200, 10.0),
        ("animal-2", 3, 200, 10.0),
    ]
    found = read(out)
    assert found[0].unit_ids == ("pc0", "pc1", "pc2")
    assert "of frames 0 to 120" in found[0].provenance["preprocessing"]  # the training part
    assert found[0].warnings == ()
    options = ("--context", 12, "--horizon", 4, "--steps", 2, "--no-baselines")
    assert poco("train", out, "--out", tmp_path / "run", *options).code == 0


def test_what_knows_the_future_says_so(poco: Callable, recordings: Path, tmp_path: Path) -> None:
    pytest.importorskip("scipy", reason="filters need scipy")
    one = ("preprocess", recordings, "--sessions", "animal-1")
    done = poco(*one, "--out", tmp_path / "both", "--high", 0.1, "--components", 2, "--all-frames")
    assert done.code == 0, done.err
    assert "they know those that will be forecast" in done.out
    assert "filtered backwards too" in done.out
    assert len(read(tmp_path / "both")[0].warnings) == 2
    done = poco(*one, "--out", tmp_path / "causal", "--high", 0.1, "--causal")
    assert done.code == 0, done.err
    assert "warning" not in done.out
    assert read(tmp_path / "causal")[0].warnings == ()


def test_without_anything_to_do_it_converts(poco: Callable, recordings: Path, tmp_path: Path) -> None:
    done = poco("preprocess", recordings, "--without", "animal-2", "--out", tmp_path / "same")
    assert done.code == 0, done.err
    assert "8 units, 400 frames; as it was" in done.out
    (found,) = read(tmp_path / "same")
    np.testing.assert_array_equal(found.activity, read(recordings)[0].activity)


def test_warnings_name_their_sessions_and_the_source_is_not_written_to(poco: Callable, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", rng.normal(size=(3, 200)))
    (tmp_path / "dataset.toml").write_text('[activity]\norientation = "units x frames"\n')
    done = poco("preprocess", tmp_path, "--out", tmp_path)
    assert done.code == 2
    assert "is read itself, and would hold each session twice" in done.err
    assert not list(tmp_path.glob("*.npz"))
    done = poco("preprocess", tmp_path, "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert "warning: 2 sessions: no rate is stated" in done.out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--causal"], "--causal is about a filter"),
        (["--from-rest"], "--from-rest is about a filter"),
        (["--high", "0.1", "--causal", "--from-rest"], "exclude each other"),
        (["--all-frames"], "--all-frames is about --components"),
        (["--low", "0.7"], "0 < low < high < 0.5"),
        (["--components", "9"], "have no 9 components"),
        (["--downsample", "0"], "downsampling is by a whole number"),
    ],
)
def test_what_cannot_be_done_is_refused_and_nothing_is_written(
    poco: Callable, recordings: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    done = poco("preprocess", recordings, "--out", tmp_path / "out", *options)
    assert done.code == 2
    assert message in done.err
    assert not (tmp_path / "out").exists()
