"""Reading: what a description or options must say, how files become sessions, and every kind of bad input."""

from __future__ import annotations

import os
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from poco.data import sources
from poco.data.checks import check
from poco.data.choice import Choice
from poco.data.description import Source
from poco.data.inspect import inspect, inspect_chosen
from poco.data.read import read
from poco.errors import DataError

UNITS_FIRST = "units x frames"
FRAMES_FIRST = "frames x units"


def activity(units: int = 5, frames: int = 40, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((units, frames)).astype(np.float32)


def save(path: Path, **kwargs: int) -> np.ndarray:
    values = activity(**kwargs)
    np.save(path, values)
    return values


def refused(path: Any, match: str, **options: Any) -> str:
    with pytest.raises(DataError, match=match) as caught:
        read(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_orientation(tmp_path: Path) -> None:
    values = save(tmp_path / "a.npy")
    (first,) = read(tmp_path / "a.npy", orientation=UNITS_FIRST, rate_hz=5)
    np.testing.assert_array_equal(first.activity, values)
    assert (first.session, first.rate_hz, first.unit_ids) == ("a", 5.0, ("0", "1", "2", "3", "4"))
    (second,) = read(tmp_path / "a.npy", orientation=FRAMES_FIRST)
    np.testing.assert_array_equal(second.activity, values.T)
    assert any("no rate" in line for line in second.warnings)


def test_orientation_is_never_guessed(tmp_path: Path) -> None:
    save(tmp_path / "a.npy")
    message = refused(tmp_path / "a.npy", "5 x 40")
    assert '"units x frames" (5 units, 40 frames)' in message
    assert '"frames x units" (40 units, 5 frames)' in message


def test_folder_of_files_is_one_session_each_in_natural_order(tmp_path: Path) -> None:
    for number in (10, 2, 1):
        save(tmp_path / f"day{number}.npy", seed=number)
    (tmp_path / "notes.md").write_text("not data")
    found = read(tmp_path, orientation=UNITS_FIRST)
    assert [r.session for r in found] == ["day1", "day2", "day10"]
    several = read([tmp_path / "day2.npy", str(tmp_path / "day1.npy")], orientation=UNITS_FIRST)
    assert [r.session for r in several] == ["day2", "day1"]


@pytest.mark.parametrize("place", ["folder", "beside the file", "beside the folder", "argument", "dictionary"])
def test_where_a_description_may_be(tmp_path: Path, place: str) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    save(folder / "a.npy")
    content = f'name = "mine"\n[activity]\norientation = "{UNITS_FIRST}"\nrate_hz = 3.0\n'
    path, given = folder, None
    if place == "folder":
        (folder / "dataset.toml").write_text(content)
    elif place == "beside the file":
        path = folder / "a.npy"
        (folder / "a.toml").write_text(content)
    elif place == "beside the folder":
        (tmp_path / "set.toml").write_text(content)
    elif place == "argument":
        given = tmp_path / "elsewhere.toml"
        given.write_text(content)
    else:
        given = {"name": "mine", "activity": {"orientation": UNITS_FIRST, "rate_hz": 3.0}}
    (found,) = read(path, description=given)
    assert (found.dataset, found.rate_hz, found.units) == ("mine", 3.0, 5)
    (other,) = read(path, description=given, rate_hz=4.0, dataset="other")
    assert (other.dataset, other.rate_hz) == ("other", 4.0)


def test_description_of_a_folder_above_applies_to_its_own_files_only(tmp_path: Path) -> None:
    (tmp_path / "dataset.toml").write_text(f'files = ["a*/*.npy"]\n[activity]\norientation = "{UNITS_FIRST}"\n')
    for name in ("a1", "b1"):
        (tmp_path / name).mkdir()
        save(tmp_path / name / "x.npy")
    assert len(read(tmp_path / "a1")) == 1
    refused(tmp_path / "b1", "which axis is time")


def test_pattern_names_sessions_and_animals(tmp_path: Path) -> None:
    save(tmp_path / "m7_day3.npy")
    content = {
        "sessions": {
            "pattern": r"m(?P<mouse>\d+)_day(?P<day>\d+)",
            "name": "{mouse}-{day}",
            "subject": "mouse {mouse}",
        },
        "activity": {"orientation": UNITS_FIRST},
    }
    (found,) = read(tmp_path, description=content)
    assert (found.session, found.subject) == ("7-3", "mouse 7")
    (named,) = read(tmp_path / "m7_day3.npy", orientation=UNITS_FIRST, session="s", subject="animal")
    assert (named.session, named.subject) == ("s", "animal")
    content["sessions"]["pattern"] = "fish"
    refused(tmp_path, "does not fit the pattern 'fish'", description=content)
    content["sessions"] = {"name": "{mouse}"}
    refused(tmp_path, "cannot fill", description=content)


def test_one_file_per_unit(tmp_path: Path) -> None:
    values = activity(3, 30)
    for row, cell in zip(values, (10, 2, 1), strict=True):
        np.save(tmp_path / f"s1_{cell}.npy", row)
    content = {"sessions": {"pattern": r"(?P<session>s\d+)_(?P<cell>\d+)", "unit": "{cell}"}}
    (found,) = read(tmp_path, description=content)
    assert found.unit_ids == ("1", "2", "10")
    np.testing.assert_array_equal(found.activity, values[::-1])
    np.save(tmp_path / "s1_3.npy", np.zeros(29))
    refused(tmp_path, "29 frames where s1_1.npy has 30", description=content)
    np.save(tmp_path / "s1_3.npy", np.zeros((2, 15)))
    refused(tmp_path, "needs a vector", description=content)
    (tmp_path / "s1_3.npy").unlink()
    (tmp_path / "sub").mkdir()
    np.save(tmp_path / "sub" / "s1_2.npy", values[0])
    refused(tmp_path, "unit '2' of session 's1' is also in", description={**content, "files": ["*.npy", "sub/*.npy"]})


def test_a_superscript_is_no_number(tmp_path: Path) -> None:
    for name in ("2²", "10", "2"):
        np.save(tmp_path / f"{name}.npy", activity(1, 30)[0])
    (found,) = read(tmp_path, description={"sessions": {"name": "s", "unit": "{stem}"}})
    assert found.unit_ids == ("2", "2²", "10")


def test_one_session_per_key(tmp_path: Path) -> None:
    with (tmp_path / "all.pkl").open("wb") as file:
        pickle.dump({(1, 1): activity(), (1, 2): activity(4), "note": "text"}, file)
    content = {"activity": {"key": "*", "orientation": UNITS_FIRST}}
    assert [r.session for r in read(tmp_path, description=content)] == ["all/1,1", "all/1,2"]
    content["activity"]["key"] = "x*"
    refused(tmp_path, r"no key fits 'x\*'", description=content)


def test_labels_coordinates_and_channels(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "a.npz",
        traces=activity(4, 30),
        region=np.array(["A", "B", "A", ""]),
        xyz=np.arange(12.0).reshape(4, 3),
        speed=np.arange(30.0)[None, :],
        nothing=np.full(30, np.nan),
    )
    (tmp_path / "side.csv").write_text("1,left\n0,right\n1,left\n2,\n")
    (tmp_path / "groups.csv").write_text("1,2\n2,4\n")
    content: dict[str, Any] = {
        "activity": {"key": "traces", "orientation": UNITS_FIRST},
        "labels": {
            "region": {"key": "region"},
            "side": {"file": "side.csv", "column": 1},
            "code": {"file": "side.csv", "column": 0, "names": {"0": "zero"}},
            "group": {"file": "groups.csv", "form": "members", "first": 1},
            "missing": {"file": "nowhere.csv", "optional": True},
        },
        "coordinates": {"key": "xyz"},
        "channels": {"speed": {"key": "speed"}, "nothing": {"key": "nothing"}},
    }
    (found,) = read(tmp_path / "a.npz", description=content)
    assert found.labels["region"] == ("A", "B", "A", "")
    assert found.labels["side"] == ("left", "right", "left", "")
    assert found.labels["code"] == ("1", "zero", "1", "2")
    assert found.labels["group"] == ("1", "1 2", "", "2")
    assert "missing" not in found.labels
    assert found.coordinates is not None
    assert found.coordinates.shape == (4, 3)
    np.testing.assert_array_equal(found.channels["speed"], np.arange(30))
    assert "nothing" not in found.channels
    assert any("'nothing' holds NaN only" in line for line in found.warnings)

    content["labels"] = {"region": {"file": "groups.csv", "column": 0}}
    refused(tmp_path / "a.npz", "session 'a': label 'region': 2 labels for 4 units", description=content)
    content["labels"] = {"side": {"file": "side.csv"}}
    refused(tmp_path / "a.npz", "say which column", description=content)
    content["labels"] = {"region": {"file": "nowhere.csv"}}
    refused(tmp_path / "a.npz", "no such file; label 'region'", description=content)
    content["labels"] = {}
    content["channels"] = {"xyz": {"key": "xyz"}}
    refused(tmp_path / "a.npz", r"does not fit 30 frames", description=content)


def test_a_column_of_a_channel_is_there_whichever_way_it_lies(tmp_path: Path) -> None:
    values = np.arange(60.0).reshape(2, 30)
    np.savez(tmp_path / "a.npz", traces=activity(4, 30), rows=values, columns=values.T)
    for key in ("rows", "columns"):
        content: dict[str, Any] = {
            "activity": {"key": "traces", "orientation": UNITS_FIRST},
            "channels": {"second": {"key": key, "column": 1}},
        }
        np.testing.assert_array_equal(read(tmp_path / "a.npz", description=content)[0].channels["second"], values[1])
        content["channels"]["second"]["column"] = 2
        refused(tmp_path / "a.npz", r"channel 'second': there is no column 2 of 2", description=content)


def test_labels_by_index_and_count(tmp_path: Path) -> None:
    with (tmp_path / "a.pkl").open("wb") as file:
        pickle.dump({"traces": activity(4, 30), "m": 3}, file)
    content: dict[str, Any] = {
        "activity": {"key": "traces", "orientation": UNITS_FIRST},
        "labels": {"side": {"key": "m", "form": "count", "names": {"before": "left", "after": "right"}}},
    }
    (found,) = read(tmp_path / "a.pkl", description=content)
    assert found.labels["side"] == ("left", "left", "left", "right")
    content["labels"] = {"x": {"key": "m", "form": "index"}}
    refused(tmp_path / "a.pkl", "needs a dictionary", description=content)


@pytest.mark.parametrize("labels", [["a", np.array(["b"]), "c", "d"], ["a", ["b"], "c", "d"]])
def test_a_label_of_several_values_is_refused(tmp_path: Path, labels: list[Any]) -> None:
    with (tmp_path / "a.pkl").open("wb") as file:
        pickle.dump({"traces": activity(4, 30), "names": labels}, file)
    content: dict[str, Any] = {
        "activity": {"key": "traces", "orientation": UNITS_FIRST},
        "labels": {"x": {"key": "names"}},
    }
    refused(tmp_path / "a.pkl", "label 'x': a unit has .* which is not one value", description=content)
    with pytest.raises(DataError, match="which is not one value"):
        sources.labels(Source(form="index"), {1: {"name": "b"}}, 4, "label 'x'")


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ({"channels": {"c": {"key": "complex"}}}, "session 'a': channel 'c' must be real numbers"),
        ({"activity": {"time_key": "complex"}}, "'complex' must be real numbers"),
        ({"activity": {"rate_key": "two"}}, "'two' should be the rate"),
        ({"labels": {"side": {"key": "half", "form": "count"}}}, "session 'a': label 'side': should be a whole number"),
        ({"labels": {"side": {"key": "two", "form": "count"}}}, "should be a whole number"),
    ],
)
def test_numbers_of_another_kind_are_refused(tmp_path: Path, described: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "a.npz", traces=activity(4, 30), complex=np.arange(30) * (1 + 1j), two=[2, 3], half=2.5)
    how = {"key": "traces", "orientation": UNITS_FIRST, **described.get("activity", {})}
    refused(tmp_path / "a.npz", message, description={**described, "activity": how})


def test_time_stamps_give_rate_and_stretches(tmp_path: Path) -> None:
    times = np.arange(30) * 0.5
    times[20:] += 3.0
    np.savez(tmp_path / "a.npz", traces=activity(4, 30), t=times * 1000)
    options = {"key": "traces", "orientation": UNITS_FIRST, "time_key": "t", "time_unit": "ms"}
    (found,) = read(tmp_path / "a.npz", **options)
    assert found.rate_hz == 2.0
    assert found.stretches == ((0, 20), (20, 30))
    assert any("a gap longer than 0.75 s" in line for line in found.warnings)
    (whole,) = read(tmp_path / "a.npz", **options, gap=10)
    assert whole.stretches == ((0, 30),)
    (contrary,) = read(tmp_path / "a.npz", **options, rate_hz=4)
    assert any("the time stamps say 2 Hz" in line for line in contrary.warnings)
    refused(tmp_path / "a.npz", "30 time stamps", **{**options, "orientation": FRAMES_FIRST})
    np.savez(tmp_path / "b.npz", traces=activity(4, 30), t=np.r_[np.arange(10), np.arange(20)])
    refused(tmp_path / "b.npz", "must rise from frame to frame; frame 10 does not", **options)


def test_time_in_a_row_or_column(tmp_path: Path) -> None:
    values = activity(4, 30)
    np.save(tmp_path / "a.npy", np.r_[np.arange(30)[None, :] * 0.25, values])
    (found,) = read(tmp_path / "a.npy", orientation=UNITS_FIRST, time_row=0)
    np.testing.assert_array_equal(found.activity, values)
    assert found.rate_hz == 4.0
    np.save(tmp_path / "b.npy", np.load(tmp_path / "a.npy").T)
    (turned,) = read(tmp_path / "b.npy", orientation=FRAMES_FIRST, time_column=0)
    np.testing.assert_array_equal(turned.activity, values)
    for file, place in (("a.npy", {"time_row": 0}), ("b.npy", {"time_column": 0})):  # which says the orientation
        np.testing.assert_array_equal(read(tmp_path / file, **place)[0].activity, values)
    refused(tmp_path / "a.npy", "nothing says which axis is time", time_row=0, time_column=0)
    refused(tmp_path / "a.npy", "goes with time_row, not time_column", orientation=UNITS_FIRST, time_column=0)
    refused(tmp_path / "a.npy", "no row or column 9", orientation=UNITS_FIRST, time_row=9)


def test_trials(tmp_path: Path) -> None:
    save(tmp_path / "a.npy", frames=50)
    (whole,) = read(tmp_path / "a.npy", orientation=UNITS_FIRST, trial_frames=20)
    assert whole.stretches == ((0, 50),)
    assert any("20-frame trials" in line for line in whole.warnings)
    (cut,) = read(tmp_path / "a.npy", orientation=UNITS_FIRST, trial_frames=20, cut_trials=True)
    assert cut.stretches == ((0, 20), (20, 40), (40, 50))
    refused(tmp_path / "a.npy", "cut = true needs frames", orientation=UNITS_FIRST, cut_trials=True)


def test_missing_and_constant_units(tmp_path: Path) -> None:
    values = activity(5, 30)
    values[1, 3] = np.nan
    values[2, 4] = np.inf
    values[3] = 2.0
    np.save(tmp_path / "a.npy", values)
    options = {"orientation": UNITS_FIRST, "rate_hz": 1}
    (kept,) = read(tmp_path / "a.npy", **options)
    np.testing.assert_array_equal(kept.activity, values)
    (found,) = read(tmp_path / "a.npy", **options, nan="drop", constant="drop")
    assert found.unit_ids == ("0", "4")
    assert found.provenance["dropped_units"] == "1, 2, 3"
    assert found.provenance["source_shape"] == "5 x 30"
    assert len(found.warnings) == 2
    refused(tmp_path / "a.npy", r"2 units with NaN or infinite values \(1, 2\)", **options, nan="error")
    refused(
        tmp_path / "a.npy",
        r"1 unit without any change \(3\); .*\(--constant drop\)",
        **options,
        constant="error",
    )
    np.save(tmp_path / "b.npy", np.full((3, 20), np.nan))
    refused(tmp_path / "b.npy", "no unit of 3 is left", **options, nan="drop")


def test_frames_that_are_missing_in_all_units(tmp_path: Path) -> None:
    values = activity(5, 60)
    values[:, 20:23] = np.nan
    values[:, 59] = np.inf
    np.save(tmp_path / "a.npy", values)
    options = {"orientation": UNITS_FIRST, "rate_hz": 1}
    (found,) = read(tmp_path / "a.npy", **options, nan="cut")
    assert found.stretches == ((0, 20), (23, 59))
    np.testing.assert_array_equal(found.activity, values)
    assert '4 frames are missing in all units: stretches end there, because nan = "cut"' in found.warnings
    refused(tmp_path / "a.npy", r"no unit of 5 is left; 4 frames are missing in all .*--nan cut", **options, nan="drop")
    np.save(tmp_path / "b.npy", activity())
    assert read(tmp_path / "b.npy", **options, nan="cut")[0].stretches == ((0, 40),)
    np.save(tmp_path / "c.npy", np.full((3, 20), np.nan))
    refused(tmp_path / "c.npy", "no frame holds a value of any unit", **options, nan="cut")
    refused(tmp_path / "c.npy", "no unit of 3 is left; see leave_out", **options, nan="drop")


def test_missing_frames_and_a_unit_that_lacks_others(tmp_path: Path) -> None:
    values = activity(5, 200)
    values[:, 100:110] = np.nan
    values[3, 40] = np.nan
    np.save(tmp_path / "a.npy", values)
    options = {"orientation": UNITS_FIRST, "rate_hz": 1}
    for nan in ("keep", "cut"):
        (found,) = read(tmp_path / "a.npy", **options, nan=nan)
        with pytest.raises(DataError, match=r"in unit '3', over .*--nan cut-drop"):
            check([found], context=8, horizon=4)
        told = inspect(tmp_path / "a.npy", **options, nan=nan).sessions[0].warnings
        assert any(line.startswith("1 unit holds NaN") and "--nan cut-drop" in line for line in told)
    refused(tmp_path / "a.npy", '"cut-drop" drops those that lack values of other frames', **options, nan="drop")
    (found,) = check(read(tmp_path / "a.npy", **options, nan="cut-drop"), context=8, horizon=4)
    assert found.unit_ids == ("0", "1", "2", "4")
    assert found.stretches == ((0, 100), (110, 200))
    assert '1 unit with NaN or infinite values dropped (3), because nan = "cut-drop"' in found.warnings


def test_a_unit_that_is_dropped_says_nothing_of_missing_frames(tmp_path: Path) -> None:
    values = activity(5, 200)
    values[:, 100:110] = np.nan
    values[3] = 0.0  # in those frames too
    np.save(tmp_path / "a.npy", values)
    (found,) = read(tmp_path / "a.npy", orientation=UNITS_FIRST, rate_hz=1, nan="cut-drop", constant="drop")
    assert (found.unit_ids, found.stretches) == (("0", "1", "2", "4"), ((0, 100), (110, 200)))


def test_units_left_out_by_name(tmp_path: Path) -> None:
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", activity(4, 30))
    (tmp_path / "dataset.toml").write_text(
        '[activity]\norientation = "units x frames"\nrate_hz = 1\nleave_out = ["a/3", "1"]\n'
    )
    first, second = read(tmp_path)
    assert (first.unit_ids, second.unit_ids) == (("0", "2"), ("0", "2", "3"))
    assert first.provenance["dropped_units"] == "1, 3"
    assert read(tmp_path, leave_out=["b/0", "9"])[1].unit_ids == ("1", "2", "3")
    assert any("'9', which is not in this session" in line for line in read(tmp_path, leave_out=["9"])[0].warnings)
    refused(tmp_path, "leave_out names 'b/9', but session 'b' has no unit '9'; it has 0, 1, 2, 3", leave_out=["b/9"])
    says = ("leave_out names 'd/1', but there is no session 'd' here: the sessions are a, b",)
    assert read(tmp_path, leave_out=["b/0", "d/1"])[0].warnings == says
    assert says[0] in inspect(tmp_path, leave_out=["d/1"]).warnings
    both = inspect_chosen([tmp_path / "a.npy", tmp_path / "b.npy"], Choice(), leave_out=["b/1"])
    assert not any("no session" in line for one in both for line in one.warnings)
    assert read(tmp_path, sessions="b", leave_out=["a/3"])[0].warnings == ()
    refused(tmp_path / "a.npy", "no unit of 4 is left; see leave_out", leave_out=["0", "1", "2", "3"])
    slashed = tmp_path / "s.csv"
    slashed.write_text("time,p/1,p/2\n" + "".join(f"{t},{t % 7},{t % 5}\n" for t in range(30)))
    (one,) = read(slashed, header=True, orientation="frames x units", time_column=0, leave_out=["p/2"])
    assert (one.unit_ids, one.provenance["dropped_units"]) == (("p/1",), "p/2")
    assert not any("no session" in line for line in one.warnings)


def test_hidden_files_are_no_recordings(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", activity(4, 30))
    (tmp_path / "._a.npy").write_bytes(b"\0\5\26\7Mac OS X")
    assert [one.session for one in read(tmp_path, orientation="units x frames", rate_hz=1)] == ["a"]


def test_a_run_is_no_recording(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    refused(tmp_path, "is the folder of a run or of an adapted model: recordings are wanted")


def test_text_that_is_not_utf_8(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("ä,b\n1,2\n", encoding="latin-1")
    refused(tmp_path / "a.csv", "cannot be read as CSV: its text is not UTF-8; save it as that", header=True)


def test_values_beyond_float32(tmp_path: Path) -> None:
    values = activity(3, 30).astype(np.float64)
    values[1, 2] = 1e300
    np.save(tmp_path / "a.npy", values)
    refused(tmp_path / "a.npy", "holds 1e.300, which does not fit float32", orientation=UNITS_FIRST)


# Bad input: one clear line each.


def test_missing_path(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere.npy", "no such file or folder")
    if hasattr(os, "mkfifo"):
        np.save(tmp_path / "other.npy", activity())
        os.mkfifo(tmp_path / "pipe.npy")
        refused(tmp_path / "pipe.npy", "is neither a file nor a folder")
    refused([], "no path")


def test_unknown_format(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text("something")
    refused(tmp_path / "a.xyz", r"unknown format; known are \.csv")
    save(tmp_path / "b.npy")
    refused(tmp_path / "b.npy", "there is no format 'excel'", format="excel")


def test_empty_folder(tmp_path: Path) -> None:
    refused(tmp_path, "no recording in this folder")
    (tmp_path / "deep").mkdir()
    save(tmp_path / "deep" / "a.npy")
    message = refused(tmp_path, re.escape(f'say files = ["*/*.npy"] in {tmp_path / "dataset.toml"}'))
    (tmp_path / "dataset.toml").write_text(message[message.index("files = ") : message.index("]") + 1] + "\n")
    (found,) = read(tmp_path, orientation=UNITS_FIRST)
    assert found.session == "a"
    refused(tmp_path, "no file in it fits", files=["*.mat"])


def test_suite2p_folders_further_down(tmp_path: Path) -> None:
    for mouse in ("one", "two"):
        for name in ("F", "Fneu", "spks", "iscell"):
            plane = tmp_path / mouse / "suite2p" / "plane0"
            plane.mkdir(parents=True, exist_ok=True)
            np.save(plane / f"{name}.npy", activity() if name != "iscell" else np.ones((5, 2)))
    refused(tmp_path, re.escape('say files = ["*/suite2p"] in '))
    (tmp_path / "dataset.toml").write_text('files = ["*/suite2p"]\n')
    assert [one.session for one in read(tmp_path)] == ["one", "two"]


def test_wrong_key_lists_what_is_there(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", one=activity(), two=activity(3, 7), name=np.array("text"))
    message = refused(tmp_path / "a.npz", "no key 'three'", key="three", orientation=UNITS_FIRST)
    assert "'one' (5, 40) float32" in message
    message = refused(tmp_path / "a.npz", "say which array is the activity", orientation=UNITS_FIRST)
    assert "'two' (3, 7) float32" in message
    assert "'name'" not in message
    refused(tmp_path / "a.npz", "not numbers", key="name", orientation=UNITS_FIRST)


@pytest.mark.parametrize("shape", [(40,), (2, 3, 4)])
def test_wrong_number_of_axes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "a.npy", np.zeros(shape))
    refused(tmp_path / "a.npy", re.escape(f"shape {shape}"), orientation=UNITS_FIRST)


def test_no_frames(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((3, 0)))
    refused(tmp_path / "a.npy", "no activity in it", orientation=UNITS_FIRST)


def test_complex_text_and_objects(tmp_path: Path) -> None:
    np.save(tmp_path / "c.npy", np.zeros((3, 9), dtype=complex))
    refused(tmp_path / "c.npy", "complex numbers", orientation=UNITS_FIRST)
    np.save(tmp_path / "t.npy", np.full((3, 9), "x"))
    refused(tmp_path / "t.npy", "not numbers", orientation=UNITS_FIRST)
    np.save(tmp_path / "o.npy", np.full((3, 9), None), allow_pickle=True)
    refused(tmp_path / "o.npy", "dtype object", orientation=UNITS_FIRST)


def test_unknown_option(tmp_path: Path) -> None:
    save(tmp_path / "a.npy")
    refused(tmp_path / "a.npy", "did you mean 'orientation'", orientaton=UNITS_FIRST)
    refused(tmp_path / "a.npy", 'must be "units x frames" or "frames x units"', orientation="rows")
    refused(tmp_path / "a.npy", r"rate_hz \(--rate\) must be above 0, got 0", orientation=UNITS_FIRST, rate_hz=0)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions do not bind this user")
def test_no_permission(tmp_path: Path) -> None:
    save(tmp_path / "a.npy")
    (tmp_path / "a.npy").chmod(0)
    refused(tmp_path / "a.npy", "no permission", orientation=UNITS_FIRST)


@pytest.mark.parametrize("suffix", ["npy", "npz", "h5", "mat", "pkl", "nwb", "csv"])
@pytest.mark.parametrize("content", [b"", b"\x00\x01garbage" * 20])
def test_damaged_files(tmp_path: Path, suffix: str, content: bytes) -> None:
    needed = {"h5": "h5py", "mat": "scipy", "nwb": "pynwb"}.get(suffix)
    if needed:
        pytest.importorskip(needed)
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(content)
    assert str(path) in refused(path, "a\\." + suffix, orientation=UNITS_FIRST)


@pytest.mark.parametrize("suffix", ["npy", "npz", "pkl"])
def test_truncated_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    if suffix == "npy":
        np.save(path, activity())
    elif suffix == "npz":
        np.savez(path, x=activity())
    else:
        path.write_bytes(pickle.dumps({"x": activity()}))
    path.write_bytes(path.read_bytes()[:-100])
    refused(path, "truncated or damaged", orientation=UNITS_FIRST)


def test_what_a_recording_leaves_open(tmp_path: Path) -> None:
    from poco.data.read import left_open

    options = {"key": "a", "orientation": "units x frames", "rate_hz": 5.0, "nan": "drop", "description": "other.toml"}
    np.savez(tmp_path / "one.npz", a=np.ones((3, 40)))
    assert left_open(tmp_path / "one.npz", options) == options
    (tmp_path / "dataset.toml").write_text('[activity]\norientation = "frames x units"\ntime_key = "t"\n')
    assert left_open(tmp_path / "one.npz", options) == {"key": "a", "nan": "drop"}
    assert left_open(tmp_path / "nothing.npz", options) == options
    units = {"leave_out": ["one/2", "other/2", "p0/c1", "7"]}  # of sessions, or units whose names have a slash
    assert left_open(tmp_path / "one.npz", units, ["one", "other"]) == {"leave_out": ["one/2", "p0/c1", "7"]}
    plane = tmp_path / "animal" / "suite2p" / "plane0"
    plane.mkdir(parents=True)
    np.save(plane / "F.npy", np.ones((3, 40), np.float32))
    assert left_open(plane.parent, options) == options
    np.save(plane / "ops.npy", np.array({"fs": 7.5}, dtype=object), allow_pickle=True)
    without_rate = {name: value for name, value in options.items() if name != "rate_hz"}
    assert left_open(plane.parent, options) == without_rate
