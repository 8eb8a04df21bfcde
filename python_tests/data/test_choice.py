"""Choosing sessions before they are read: what is not wanted need not be readable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from poco.data.inspect import inspect
from poco.data.read import read
from poco.errors import ConfigError, DataError

OPTIONS = {"orientation": "units x frames", "rate_hz": 2.0}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("c", "m"):
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(0).random((4, 30)))
    (tmp_path / "notes.txt").write_text("the second animal was tired")
    (tmp_path / "old.npz").write_bytes(b"not a zip file")
    return tmp_path


def test_files_of_sessions_that_are_not_wanted_are_not_read(folder: Path) -> None:
    assert [one.session for one in read(folder, **OPTIONS, without=["notes", "old"])] == ["c", "m"]
    assert [one.session for one in read(folder, **OPTIONS, sessions=["m"])] == ["m"]
    assert [one.session for one in read(folder, **OPTIONS, sessions="m")] == ["m"]
    assert [one.session for one in read(folder, **OPTIONS, sessions=["m", "c"], without=["c"])] == ["m"]


def test_a_file_that_cannot_be_read_says_how_to_do_without_it(folder: Path) -> None:
    with pytest.raises(DataError, match=r"notes\.txt.*to leave it out: --without notes, or files = \[\.\.\.\] in"):
        read(folder, **OPTIONS)
    with pytest.raises(DataError, match=r"old\.npz.*--without old"):
        read(folder, **OPTIONS, without=["notes"])
    with pytest.raises(DataError, match=r"^(?!.*--without)"):
        read(folder / "notes.txt", **OPTIONS)
    (folder / "notes.txt").rename(folder / "notes, day 1.txt")
    with pytest.raises(DataError, match="""--without '"notes, day 1"', or"""):
        read(folder, **OPTIONS)
    with pytest.raises(DataError, match=r'here: the sessions are c, m, "notes, day 1", old$'):
        read(folder, **OPTIONS, sessions="notes")


def test_only_sessions_that_are_wanted_are_looked_at(folder: Path) -> None:
    assert [one.session for one in inspect(folder, **OPTIONS, without=["notes", "old"]).sessions] == ["c", "m"]
    assert [one.session for one in inspect(folder, **OPTIONS, sessions="m").sessions] == ["m"]
    with pytest.raises(DataError, match="there is no session 'x' here: the sessions are c, m, notes, old"):
        inspect(folder, **OPTIONS, without="x")
    (notes,) = (one for one in inspect(folder, **OPTIONS).sessions if one.session == "notes")
    assert "to leave it out: --without notes, or" in notes.error


def test_names_that_are_not_there(folder: Path) -> None:
    for listed in ({"sessions": ["x"]}, {"sessions": ["c"], "without": ["x"]}):
        with pytest.raises(DataError, match="there is no session 'x' here: the sessions are c, m, notes, old"):
            read(folder, **OPTIONS, **listed)
    with pytest.raises(ConfigError, match="leaves no session"):
        read(folder, **OPTIONS, sessions=["c"], without=["c"])


def test_names_that_only_a_file_knows(tmp_path: Path) -> None:
    plane = tmp_path / "mouse" / "suite2p" / "plane0"
    plane.mkdir(parents=True)
    np.save(plane / "F.npy", np.random.default_rng(0).random((4, 30)))
    (tmp_path / "dataset.toml").write_text('files = ["*/suite2p"]\n')
    assert [one.session for one in read(tmp_path, sessions=["mouse"])] == ["mouse"]
    with pytest.raises(DataError, match="there is no session 'suite2p' here: the sessions are mouse"):
        read(tmp_path, sessions=["suite2p"])
