"""The activity of a session: whose word on the axes counts, columns that are no unit, values beyond float32's steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from poco.data.inspect import inspect
from poco.data.read import read
from poco.errors import DataError

ROWS, COLUMNS = "units x frames", "frames x units"


def values(units: int = 5, frames: int = 40) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((units, frames))


def suite2p(folder: Path) -> np.ndarray:
    plane = folder / "suite2p" / "plane0"
    plane.mkdir(parents=True)
    traces = values(6, 50).astype(np.float32)
    np.save(plane / "F.npy", traces)
    np.save(plane / "iscell.npy", np.ones((6, 2)))
    return traces


def table(path: Path, names: str, columns: np.ndarray) -> Path:
    lines = [names, *(",".join(f"{value:.9g}" for value in row) for row in columns.T)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("time_column", [None, 0])
def test_a_format_that_says_which_axis_is_time_is_believed(tmp_path: Path, time_column: int | None) -> None:
    traces = suite2p(tmp_path / "mouse")
    (found,) = read(tmp_path / "mouse", orientation=COLUMNS, time_column=time_column)
    np.testing.assert_array_equal(found.activity, traces)
    told = 'its format (suite2p) says which axis is time: orientation "frames x units" left aside'
    assert told in found.warnings
    assert told in inspect(tmp_path / "mouse", orientation=COLUMNS).sessions[0].warnings
    assert told not in read(tmp_path / "mouse", orientation=ROWS)[0].warnings


def test_settings_that_a_format_has_no_use_for_are_said(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", values())
    suite2p(tmp_path / "mouse")
    options = {"orientation": ROWS, "neuropil": 0.7, "rois": "all", "header": True, "time_unit": "ms", "gap": 2.0}
    told = set(read(tmp_path / "a.npy", **options, rate_hz=1)[0].warnings)
    settings = ("neuropil = 0.7", 'rois = "all"', "header = true")
    assert {f"its format (npy) has no use for {what}: left aside" for what in settings} <= told
    assert {f"there are no times of frames: {what} left aside" for what in ('time_unit = "ms"', "gap = 2")} <= told
    told = set(read(tmp_path / "mouse", rois="all", time_column=0, rate_hz=1)[0].warnings)
    assert told == {"its format (suite2p) has no use for time_column = 0: left aside"}
    table(tmp_path / "b.csv", "time,a", np.vstack([np.arange(40), values(1)]))
    options = {"orientation": COLUMNS, "header": True, "time_column": 0, "time_unit": "ms", "gap": 2.0}
    (found,) = read(tmp_path / "b.csv", **options)
    assert (found.rate_hz, found.warnings) == (1000.0, ())


def test_accepted_cells_are_no_label_once_the_others_are_out(tmp_path: Path) -> None:
    suite2p(tmp_path / "mouse")
    assert "iscell" not in read(tmp_path / "mouse")[0].labels
    assert "iscell" in read(tmp_path / "mouse", rois="all")[0].labels


def test_an_orientation_for_a_mixed_folder_holds_where_none_is_stated(tmp_path: Path) -> None:
    pynwb = pytest.importorskip("pynwb", reason="NWB needs the extra 'formats'")
    from datetime import datetime, timezone

    nwb = pynwb.NWBFile(
        session_description="test", identifier="a", session_start_time=datetime(2024, 1, 1, tzinfo=timezone.utc)
    )
    for i, trace in enumerate(values(3, 40)):
        nwb.add_acquisition(pynwb.TimeSeries(name=f"unit{i}", data=trace, unit="a.u.", rate=5.0))
    with pynwb.NWBHDF5IO(str(tmp_path / "one.nwb"), "w") as io:
        io.write(nwb)
    np.save(tmp_path / "two.npy", values(4, 30).T)
    table(tmp_path / "three.csv", "a,b", values(2, 20))
    found = {one.session: one.activity.shape for one in read(tmp_path, orientation=COLUMNS, header=True)}
    assert found == {"one": (3, 40), "two": (4, 30), "three": (2, 20)}
    found = {one.session: one.activity.shape for one in read(tmp_path, orientation=ROWS, header=True)}
    assert found == {"one": (3, 40), "two": (30, 4), "three": (20, 2)}


def test_lists_of_another_length_than_the_array(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="HDF5 needs the extra 'formats'")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["estimates/C"] = values(4, 30)
        file["estimates/idx_components"] = np.arange(4)
        file["estimates/other"] = values(3, 30)
    with pytest.raises(DataError, match=r"3 units, but a list of accepted cells of 4: is the right array read\?"):
        read(tmp_path / "a.h5", key="estimates/other", rate_hz=1)


@pytest.mark.parametrize("name", ["time", "t", "Time (s)", "frame", "index", "", "Unnamed: 0"])
def test_a_column_of_time_is_no_unit(tmp_path: Path, name: str) -> None:
    activity = values(3, 30)
    path = table(tmp_path / "a.csv", f"{name},n0,n1,n2", np.vstack([np.arange(30) * 0.5, activity]))
    options = {"orientation": COLUMNS, "header": True}
    with pytest.raises(DataError, match=rf"column 0, named '{name[:4]}.*say --time-column 0, or time_column = 0"):
        read(path, **options)
    (found,) = read(path, **options, time_column=0)
    np.testing.assert_allclose(found.activity, activity, rtol=1e-6)
    assert found.unit_ids == ("n0", "n1", "n2")


def test_a_column_that_counts_frames_has_times_by_the_rate(tmp_path: Path) -> None:
    count = np.r_[np.arange(20), np.arange(30, 40)]
    path = table(tmp_path / "a.csv", "frame,n0,n1", np.vstack([count, values(2, 30)]))
    options = {"orientation": COLUMNS, "header": True, "time_column": 0}
    (found,) = read(path, **options, rate_hz=20)
    assert (found.rate_hz, found.stretches) == (20.0, ((0, 20), (20, 30)))
    assert not any("the time stamps say" in line for line in found.warnings)
    (found,) = read(path, **options)
    assert (found.rate_hz, found.stretches) == (None, ((0, 20), (20, 30)))
    assert any("column 0 ('frame'): numbers of frames, which without a rate" in line for line in found.warnings)
    assert any("irregular numbers of frames: a gap longer than 1.5 frames" in line for line in found.warnings)
    assert "times        column 0 ('frame'): numbers of frames" in inspect(path, **options).to_text()


@pytest.mark.parametrize("name", ["", "frame_time_s", "Frame timestamp [ms]", "frame (s)", "sec", "index", "anything"])
def test_seconds_are_no_numbers_of_frames(tmp_path: Path, name: str) -> None:
    times = np.arange(30) * 0.1
    times[20:] += 30
    path = table(tmp_path / "a.csv", f"{name},n0", np.vstack([times, values(1, 30)]))
    options = {"orientation": COLUMNS, "header": True, "time_column": 0}
    for rate in (None, 10.0):
        (found,) = read(path, **options, rate_hz=rate)
        assert (found.rate_hz, found.stretches) == (10.0, ((0, 20), (20, 30)))
        assert any("a gap longer than 0.15 s" in line for line in found.warnings)
    (whole,) = read(table(path, "time,n0", np.vstack([np.arange(30), values(1, 30)])), **options)
    assert whole.rate_hz == 1.0
    assert whole.provenance["times"] == "column 0 ('time'): time stamps in s"


def test_a_second_column_of_time_is_no_unit_either(tmp_path: Path) -> None:
    columns = np.vstack([np.arange(30) * 0.1, values(2, 30), np.arange(30)])
    path = table(tmp_path / "a.csv", "time,n0,n1,frame", columns)
    options = {"orientation": COLUMNS, "header": True, "time_column": 0}
    with pytest.raises(DataError, match=r"column 3, named 'frame', rises .* leave it out: --leave-out frame, or"):
        read(path, **options)
    assert read(path, **options, leave_out=["frame"])[0].unit_ids == ("n0", "n1")
    with pytest.raises(DataError, match="column 0, named 'time', rises"):
        read(path, **{**options, "time_column": 3})


def test_a_unit_that_always_rises_is_said(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", "zeit,n0", np.vstack([np.cumsum(1 + values(1, 40) ** 2), values(1, 40)]))
    options = {"orientation": COLUMNS, "header": True}
    (found,) = read(path, **options)
    assert found.unit_ids == ("zeit", "n0")
    assert any("unit 'zeit' rises from each" in line and "say --time-column 0" in line for line in found.warnings)
    assert not any("rises" in line for line in read(path, **options, leave_out=["zeit"])[0].warnings)
    path = table(path, "time,n0,zeit", np.vstack([np.arange(40), values(1, 40), np.arange(40)]))
    assert any("say --leave-out zeit" in line for line in read(path, **options, time_column=0)[0].warnings)


def test_a_frame_without_a_time(tmp_path: Path) -> None:
    times = np.arange(30) * 0.1
    times[12] = np.nan
    path = table(tmp_path / "a.csv", "time,n0", np.vstack([times, values(1, 30)]))
    with pytest.raises(
        DataError, match=r"frame 12 has no time \(nan in column 0 \('time'\).*: give it one in the file"
    ):
        read(path, orientation=COLUMNS, header=True, time_column=0)


def test_a_unit_of_that_name_that_does_not_rise_is_one(tmp_path: Path) -> None:
    path = table(tmp_path / "a.csv", "t,n0", values(2, 30))
    (found,) = read(path, orientation=COLUMNS, header=True, rate_hz=1)
    assert found.unit_ids == ("t", "n0")
    path = table(path, "t,n0", np.vstack([np.arange(30), values(1, 30)]))
    assert read(path, orientation=COLUMNS, header=True, leave_out=["t"], rate_hz=1)[0].unit_ids == ("n0",)


def test_time_without_a_name_is_said(tmp_path: Path) -> None:
    both = np.vstack([np.arange(30) / 30, values(2, 30)])
    np.savetxt(tmp_path / "a.csv", both.T, delimiter=",")
    assert any("say --time-column 0" in line for line in read(tmp_path / "a.csv", orientation=COLUMNS)[0].warnings)
    np.save(tmp_path / "a.npy", both)
    assert any("say time_row = 0" in line for line in read(tmp_path / "a.npy", orientation=ROWS)[0].warnings)


def test_an_offset_that_float32_cannot_hold(tmp_path: Path) -> None:
    activity = values(5, 600)
    activity[1:3] += 1e8
    np.save(tmp_path / "a.npy", activity)
    options = {"orientation": ROWS, "rate_hz": 1}
    with pytest.raises(DataError, match=r"session 'a': 2 units \(1, 2\) lie so far from 0, at about 1e\+08.*subtract"):
        read(tmp_path / "a.npy", **options)
    assert read(tmp_path / "a.npy", **options, leave_out=["1", "2"])[0].units == 3
    activity[1:3] = 1e8
    activity[3] = 0.1 + 1e-17 * np.arange(600)
    np.save(tmp_path / "a.npy", activity)
    assert read(tmp_path / "a.npy", **options, constant="drop")[0].unit_ids == ("0", "4")


def test_whole_numbers_that_float32_holds_exactly(tmp_path: Path) -> None:
    counts = 10_000_000 + np.random.default_rng(0).integers(0, 9, (3, 200))
    np.save(tmp_path / "a.npy", counts)
    np.testing.assert_array_equal(read(tmp_path / "a.npy", orientation=ROWS)[0].activity, counts)
    np.save(tmp_path / "a.npy", (1_000_000_000 + counts).astype(np.int32))
    with pytest.raises(DataError, match="subtract the offset"):
        read(tmp_path / "a.npy", orientation=ROWS)
