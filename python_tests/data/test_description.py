"""Descriptions of data sets: every field checked, close names suggested, and those that come with poco valid."""

from __future__ import annotations

from pathlib import Path

import pytest

from poco.data.description import built_in_folder, candidates, load, parse
from poco.errors import DataError

GOOD = """
name = "set"
neural = false
files = ["*.h5"]
notes = ["a", "b"]

[sessions]
pattern = '(?P<session>.+)\\.h5'

[activity]
key = "traces"
orientation = "frames x units"
rate_hz = 5
gap = 1.5

[trials]
frames = 41
cut = true

[labels]
region = { file = "r.csv", column = 2, names = { 1 = "left" } }

[coordinates]
key = "xy"

[channels]
speed = { key = "speed" }
"""


def test_all_tables(tmp_path: Path) -> None:
    (tmp_path / "dataset.toml").write_text(GOOD)
    found = load(tmp_path / "dataset.toml")
    assert (found.name, found.neural, found.files, found.notes) == ("set", False, ("*.h5",), ("a", "b"))
    assert (found.activity.key, found.activity.rate_hz, found.activity.nan) == ("traces", 5.0, "keep")
    assert (found.trials.frames, found.trials.cut) == (41, True)
    assert found.labels["region"].names == {"1": "left"}
    assert found.coordinates is not None
    assert found.channels["speed"].key == "speed"
    assert found.origin == str(tmp_path / "dataset.toml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"nam": "x"}, "there is no field 'nam': did you mean 'name'"),
        ({"zzzz": 1}, "there is no field 'zzzz': there are activity, area"),
        ({"root": "x"}, "there is no field 'root'"),
        (
            {"activity": {"orientaton": "x"}},
            r"\[activity\]: there is no field 'orientaton': did you mean 'orientation'",
        ),
        ({"activity": {"orientation": "rows"}}, "orientation must be"),
        ({"activity": {"rate_hz": "fast"}}, "rate_hz must be a number from 0, got 'fast'"),
        ({"activity": {"rate_hz": True}}, "rate_hz must be a number"),
        ({"activity": {"rate_hz": 0}}, r"rate_hz \(--rate\) must be above 0, got 0"),
        ({"activity": {"rate_hz": -3}}, r"rate_hz \(--rate\) must be above 0, got -3"),
        ({"activity": {"time_row": -1}}, "time_row must be a whole number from 0"),
        ({"activity": {"header": 1}}, "header must be true or false"),
        ({"activity": {"key": 3}}, "key must be text"),
        ({"activity": {"nan": "ignore"}}, 'nan must be "keep" or "drop" or "cut" or "cut-drop" or "error"'),
        ({"activity": 3}, r"\[activity\] must be a table"),
        ({"files": 3}, "files must be a list of texts"),
        ({"labels": ["x"]}, "labels must be a table"),
        ({"labels": {"region": "x"}}, r"\[labels.region\] must be a table"),
        ({"labels": {"region": {"form": "tree"}}}, "form must be"),
        ({"labels": {"region": {"names": {"a": 1}}}}, "names must be a table of texts"),
        ({"sessions": {"pattern": "("}}, "pattern is no regular expression"),
        ({"trials": {"cut": True}}, "cut = true needs frames"),
    ],
)
def test_refused(content: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        parse(content, "dataset.toml")
    assert str(caught.value).startswith("dataset.toml: ")
    assert "\n" not in str(caught.value)


def test_no_toml(tmp_path: Path) -> None:
    (tmp_path / "dataset.toml").write_text("name = [")
    with pytest.raises(DataError, match="no valid TOML"):
        load(tmp_path / "dataset.toml")
    with pytest.raises(DataError, match="cannot read the description"):
        load(tmp_path / "nowhere.toml")


def test_a_single_text_stands_for_a_list() -> None:
    assert parse({"files": "*.h5"}, "x").files == ("*.h5",)


def test_nearest_description_comes_first(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    order = [file for file, _ in candidates(folder)]
    assert order[:2] == [folder / "dataset.toml", tmp_path / "set.toml"]
    assert order.index(tmp_path / "dataset.toml") < order.index(built_in_folder() / "set.toml")


def test_those_that_come_with_poco_are_valid() -> None:
    paths = sorted(built_in_folder().glob("*.toml"))
    assert len(paths) == 11
    for path in paths:
        assert load(path).name == path.stem


def test_the_root_of_all_folders_has_no_name() -> None:
    root = Path(Path.cwd().anchor)
    assert next(candidates(root)) == (root / "dataset.toml", root)
    assert all(folder == root for _, folder in candidates(root))
