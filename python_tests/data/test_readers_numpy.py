"""Formats that need numpy only: NPY, NPZ, CSV, pickles, suite2p."""

from __future__ import annotations

import os
import pickle
import re
from collections import OrderedDict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from poco.data.read import read
from poco.data.readers import csv, open_file, pickles
from poco.errors import DataError

ROWS = {"orientation": "units x frames", "rate_hz": 1.0}


def values(units: int = 4, frames: int = 30) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((units, frames))


# NPY and NPZ


@pytest.mark.parametrize("dtype", ["f4", "f8", ">f4", "f2", "i2", "u1", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_of_any_real_type(tmp_path: Path, dtype: str, order: Any) -> None:
    array = np.asarray(values() * 3, dtype=dtype, order=order)
    np.save(tmp_path / "a.npy", array)
    (found,) = read(tmp_path / "a.npy", **ROWS)
    assert found.activity.dtype == np.float32
    np.testing.assert_array_equal(found.activity, array.astype(np.float32))


def test_npz_takes_the_only_array_with_two_axes(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", traces=values(), fs=np.array(3.0), ids=np.arange(4))
    (found,) = read(tmp_path / "a.npz", orientation="units x frames", rate_key="fs")
    assert (found.units, found.rate_hz, found.provenance["key"]) == (4, 3.0, "traces")
    with pytest.raises(DataError, match="no key 'x'"):
        read(tmp_path / "a.npz", orientation="units x frames", rate_key="x")


def test_npz_with_objects_is_refused_when_they_are_asked_for(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", traces=values(), other=np.array([{}, []], dtype=object))
    assert len(read(tmp_path / "a.npz", **ROWS)) == 1
    with pytest.raises(DataError, match="cannot be read as npz"):
        read(tmp_path / "a.npz", key="other", **ROWS)


def test_format_by_content(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", values())
    (tmp_path / "a.npy").rename(tmp_path / "a.bin")
    assert open_file(tmp_path / "a.bin").format == "npy"


# CSV


@pytest.mark.parametrize(("suffix", "mark"), [("csv", ","), ("csv", ";"), ("tsv", "\t"), ("txt", " ")])
def test_tables(tmp_path: Path, suffix: str, mark: str) -> None:
    array = values()
    np.savetxt(tmp_path / f"a.{suffix}", array, delimiter=mark)
    (found,) = read(tmp_path / f"a.{suffix}", **ROWS)
    np.testing.assert_allclose(found.activity, array, rtol=1e-6)


def test_header_missing_cells_and_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfa,b,c\r\n1,,3\r\n4,nan,inf\r\n\r\n")
    (found,) = read(tmp_path / "a.csv", orientation="frames x units", rate_hz=1, header=True)
    np.testing.assert_array_equal(found.activity, np.array([[1, 4], [np.nan, np.nan], [3, np.inf]], dtype=np.float32))


def test_cells_that_are_missing_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\na,b,c\n1,NA,nan\nNaN,5,null\n")
    (found,) = read(tmp_path / "a.csv", orientation="frames x units", rate_hz=1, header=True)
    np.testing.assert_array_equal(np.isnan(found.activity), [[False, True], [True, False], [True, True]])


def test_a_wrong_cell_below_a_header(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n1,x\n3,4\n")
    with pytest.raises(DataError, match=r"line 2, column 2 is not a number: 'x'$"):
        read(tmp_path / "a.csv", orientation="frames x units", header=True)


def test_header_names_units(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("time,cell 1,cell 2\n0,1,2\n0.5,3,4\n1,5,6\n")
    options = {"orientation": "frames x units", "header": True}
    (found,) = read(tmp_path / "a.csv", time_column=0, **options)
    assert (found.unit_ids, found.rate_hz) == (("cell 1", "cell 2"), 2.0)
    (tmp_path / "a.csv").write_text("a,a\n0,1\n3,4\n")
    with pytest.raises(DataError, match=r"unit id 'a' occurs more than once, of units 0, \d.*: give each"):
        read(tmp_path / "a.csv", **options)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('1,2,3\n4,"x",6\n', "line 2, column 2 is not a number: 'x'"),
        (
            "a,b\n1,2\n",
            "line 1, column 1 is not a number: 'a'; if the first line holds names, say --header",
        ),
        ("1;2\n1,5;2\n", "line 2, column 1 is not a number: '1,5'; with semicolons between the numbers, decimals"),
        ("1,2,3\ncell1,2,3\n", "not a number: 'cell1'; a table holds numbers alone, below a line of names: take out"),
        ("0,5;1,25\n1,5;2\n", "line 1, column 2 is not a number: '5;1'; with semicolons between the numbers, decimals"),
        ("1,2\n3,1_0\n", "line 2, column 2 is not a number: '1_0'"),
        ("1,2,3\n4,5\n", "line 2 has 2 cells where the first has 3"),
        ("", "is empty"),
        ("\n\n", "is empty"),
    ],
)
def test_wrong_tables(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(DataError, match=re.escape(message)):
        read(tmp_path / "a.csv", **ROWS)


def test_a_first_line_of_numbers_of_columns(tmp_path: Path) -> None:
    for first, told in (("0,1,2", True), ("1,2,3", True), (",0,1", True), ("0,1,3", False), ("0.0,1.0,2.0", False)):
        (tmp_path / "a.csv").write_text(f"{first}\n5,3,4\n2,8,9\n")
        (found,) = read(tmp_path / "a.csv", orientation="frames x units", rate_hz=1)
        assert found.frames == 3
        assert any("say --header" in line for line in found.warnings) == told
    assert read(tmp_path / "a.csv", **ROWS)[0].frames == 3


def test_a_first_line_of_values_taken_for_names(tmp_path: Path) -> None:
    options = {"orientation": "frames x units", "rate_hz": 1, "header": True}
    for first, told in (("-2.5e-01,1e3", True), ("a,.5", True), ("0,1", False), ("v1.0,cell 2.5", False)):
        (tmp_path / "a.csv").write_text(f"{first}\n5,3\n2,8\n")
        (found,) = read(tmp_path / "a.csv", **options)
        assert any("leave out --header" in line for line in found.warnings) == told


def test_names_are_read_without_the_rest(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b'\n"cell, 1","cell, 2"\n' + b"1,2\n" * 100_000 + b"\xff")
    assert csv.read(tmp_path / "a.csv", header=True).columns == ("cell, 1", "cell, 2")


def test_empty_lines_above_names_that_are_numbers(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\n\n7,8,9\n1,2,3\n2,1,1\n")
    (found,) = read(tmp_path / "a.csv", orientation="frames x units", header=True)
    assert found.unit_ids == ("7", "8", "9")
    np.testing.assert_array_equal(found.activity, [[1, 2], [2, 1], [3, 1]])


def test_header_alone(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n")
    with pytest.raises(DataError, match="holds no numbers"):
        read(tmp_path / "a.csv", header=True, **ROWS)


# Pickles


class Attack:
    """Runs a command when a plain unpickler loads it."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.target}'",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    content = {
        "traces": values().astype(np.float32),
        "fortran": np.asfortranarray(values()),
        "number": np.float64(2.5),
        "nested": {"list": [1, "two", (3.0, None)], ("a", 1): OrderedDict(x=frozenset({1}))},
        "names": np.array(["a", "b"]),
        "bytes": b"\x00\xff",
        "objects": np.array(["x", 1], dtype=object),
    }
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    found = open_file(tmp_path / "a.pkl")
    np.testing.assert_array_equal(found.get("traces"), content["traces"])
    np.testing.assert_array_equal(found.get("fortran"), content["fortran"])
    assert found.get("nested/list") == [1, "two", (3.0, None)]
    assert found.get("nested/a,1/x") == frozenset({1})
    assert found.get("bytes") == b"\x00\xff"
    assert found.get("objects").tolist() == ["x", 1]
    (recording,) = read(tmp_path / "a.pkl", key="traces", rate_key="number", orientation="units x frames")
    assert recording.rate_hz == 2.5


def test_a_pickle_of_one_array(tmp_path: Path) -> None:
    (tmp_path / "a.pickle").write_bytes(pickle.dumps(values()))
    assert read(tmp_path / "a.pickle", **ROWS)[0].units == 4


@pytest.mark.parametrize("protocol", [0, 2, pickle.HIGHEST_PROTOCOL])
def test_malicious_pickles_are_named_and_not_run(tmp_path: Path, protocol: int) -> None:
    target = tmp_path / "attacked"
    content = {"traces": values(), "extra": Attack(target)}
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(content, protocol=protocol))
    with pytest.raises(DataError, match=r"asks for '(posix|nt)\.system'") as caught:
        read(tmp_path / "a.pkl", key="traces", **ROWS)
    assert "\n" not in str(caught.value)
    assert not target.exists()


@pytest.mark.parametrize(
    "line",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cbuiltins\ngetattr\n(S'1'\nS'x'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cnumpy.core.multiarray\nfromfile\n(S'x'\ntR.",
        b"cnumpy.testing\nrundocs\n(S'x'\ntR.",
        b"c_codecs\ndecode\n(S'x'\ntR.",
        b"cposix\nsystem\n(S'true'\ntR.",
    ],
)
def test_other_globals_are_refused(tmp_path: Path, line: bytes) -> None:
    (tmp_path / "a.pkl").write_bytes(line)
    with pytest.raises(DataError, match="only numpy arrays and plain containers"):
        pickles.load(tmp_path / "a.pkl")


def test_dotted_names_do_not_lead_further(tmp_path: Path) -> None:
    content = b"\x80\x04\x8c\x05numpy\x8c\x0dndarray.dump\x93."
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(DataError):
        pickles.load(tmp_path / "a.pkl")


# suite2p


def suite2p(folder: Path, rois: int = 6, frames: int = 50, *, seed: int = 0, fs: float = 30.0) -> np.ndarray:
    folder.mkdir(parents=True)
    traces = np.random.default_rng(seed).random((rois, frames)).astype(np.float32)
    np.save(folder / "F.npy", traces)
    np.save(folder / "Fneu.npy", np.full_like(traces, 0.5))
    np.save(folder / "iscell.npy", np.stack([np.arange(rois) % 2, np.linspace(0, 1, rois)], axis=1))
    stat = np.array([{"med": [float(i), 2.0 * i], "ypix": np.arange(3)} for i in range(rois)], dtype=object)
    np.save(folder / "stat.npy", stat, allow_pickle=True)
    np.save(folder / "ops.npy", np.array({"fs": fs, "nframes": frames}, dtype=object), allow_pickle=True)
    return traces


@pytest.mark.parametrize("where", ["", "suite2p", "suite2p/plane0"])
def test_suite2p_folder(tmp_path: Path, where: str) -> None:
    traces = suite2p(tmp_path / "mouse1" / "suite2p" / "plane0")
    (found,) = read(tmp_path / "mouse1" / where)
    np.testing.assert_array_equal(found.activity, traces[1::2])
    assert (found.session, found.rate_hz, found.unit_ids) == ("mouse1", 30.0, ("1", "3", "5"))
    assert found.coordinates is not None
    np.testing.assert_array_equal(found.coordinates[0], [2.0, 1.0])
    assert found.provenance["dropped_units"] == "0, 2, 4"


def test_suite2p_options(tmp_path: Path) -> None:
    traces = suite2p(tmp_path / "plane0")
    (every,) = read(tmp_path, rois="all", neuropil=0.7)
    np.testing.assert_allclose(every.activity, traces - 0.35, rtol=1e-5, atol=1e-6)
    assert every.labels["iscell"][:2] == ("not a cell", "cell")
    (tmp_path / "plane0" / "Fneu.npy").unlink()
    with pytest.raises(DataError, match=r"needs Fneu\.npy"):
        read(tmp_path, neuropil=0.7)


def test_suite2p_subtracts_parts_of_whole_numbers(tmp_path: Path) -> None:
    suite2p(tmp_path / "plane0")
    for name, level in (("F", 100), ("Fneu", 10)):
        np.save(tmp_path / "plane0" / f"{name}.npy", np.arange(300, dtype=np.int16).reshape(6, 50) + level)
    (found,) = read(tmp_path, rois="all", neuropil=0.7)
    np.testing.assert_allclose(found.activity, 0.3 * np.arange(300).reshape(6, 50) + 93, rtol=1e-6)


def test_suite2p_planes(tmp_path: Path) -> None:
    parts = [suite2p(tmp_path / f"plane{i}", seed=i, frames=50 - i // 10) for i in (2, 10)]
    (found,) = read(tmp_path, rois="all")
    assert found.activity.shape == (12, 49)
    np.testing.assert_array_equal(found.activity[6:], parts[1])
    assert found.unit_ids[:1] + found.unit_ids[6:7] == ("plane2/0", "plane10/0")
    assert set(found.labels["plane"]) == {"plane2", "plane10"}
    assert any("differ by one frame" in line for line in found.warnings)
    suite2p(tmp_path / "plane3", frames=40)
    with pytest.raises(DataError, match=r"planes differ in length .* as with files = \[\"suite2p/plane\*\"\]"):
        read(tmp_path)


def test_suite2p_spikes(tmp_path: Path) -> None:
    for name in ("plane0", "plane1"):
        np.save(tmp_path / name / "spks.npy", np.square(suite2p(tmp_path / name)))
    (found,) = read(tmp_path, key="spks")
    traces = read(tmp_path)[0]
    np.testing.assert_array_equal(found.activity, np.square(traces.activity))
    assert (found.unit_ids, found.provenance["key"]) == (traces.unit_ids, "spks")
    with pytest.raises(DataError, match="is subtracted from F, not from spks: leave it out"):
        read(tmp_path, key="spks", neuropil=0.7)
    np.save(tmp_path / "plane1" / "spks.npy", np.zeros((5, 50)))
    with pytest.raises(DataError, match=r"plane1: spks\.npy has shape \(5, 50\), F\.npy \(6, 50\)"):
        read(tmp_path, key="spks")
    (tmp_path / "plane1" / "spks.npy").unlink()
    with pytest.raises(DataError, match="no key 'spks'; it has 'F'"):
        read(tmp_path, key="spks")


def test_suite2p_without_its_optional_files(tmp_path: Path) -> None:
    suite2p(tmp_path / "plane0")
    for name in ("iscell", "stat", "ops", "Fneu"):
        (tmp_path / "plane0" / f"{name}.npy").unlink()
    (found,) = read(tmp_path)
    assert (found.units, found.rate_hz, found.coordinates) == (6, None, None)
    assert any("no iscell.npy" in line for line in found.warnings)


def test_suite2p_with_other_objects_in_its_pickles(tmp_path: Path) -> None:
    suite2p(tmp_path / "plane0")
    ops = {"fs": 30.0, "date": datetime(2020, 1, 1, tzinfo=timezone.utc)}
    np.save(tmp_path / "plane0" / "ops.npy", np.array(ops, dtype=object), allow_pickle=True)
    (found,) = read(tmp_path)
    assert found.rate_hz is None
    assert any("ops.npy skipped" in line and "datetime.datetime" in line for line in found.warnings)


def test_suite2p_with_lists_of_another_length(tmp_path: Path) -> None:
    suite2p(tmp_path / "plane0")
    np.save(tmp_path / "plane0" / "iscell.npy", np.ones((5, 2)))
    with pytest.raises(DataError, match=r"iscell\.npy has 5 ROIs, F\.npy 6"):
        read(tmp_path)
    (tmp_path / "plane0" / "F.npy").unlink()
    with pytest.raises(DataError, match=r"no plane\*/F\.npy in it"):
        read(tmp_path, format="suite2p")
