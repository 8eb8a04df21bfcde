"""Formats that need the extra ``formats``: HDF5, CaImAn, MATLAB, zarr."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from poco.data.read import read
from poco.errors import DataError, MissingExtraError

ROWS = {"orientation": "units x frames", "rate_hz": 1.0}


def values(units: int = 4, frames: int = 30) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((units, frames)).astype(np.float32)


# HDF5


def test_hdf5(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["group/traces"] = values().T
        file["group/times"] = np.arange(30) * 0.1
        file["names"] = np.array(["a", "b", "c", "d"], dtype=object)
        file["empty"] = h5py.Empty("f4")
    options = {"key": "group/traces", "orientation": "frames x units", "time_key": "group/times"}
    (found,) = read(tmp_path / "a.h5", description={"labels": {"name": {"key": "names"}}}, **options)
    np.testing.assert_array_equal(found.activity, values())
    assert found.rate_hz == pytest.approx(10)
    assert found.labels["name"] == ("a", "b", "c", "d")
    with pytest.raises(DataError, match=r"no key 'traces'; it has .*'group/traces' \(30, 4\) float32"):
        read(tmp_path / "a.h5", key="traces", **ROWS)


def test_truncated_hdf5(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = values(50, 500)
    (tmp_path / "a.h5").write_bytes((tmp_path / "a.h5").read_bytes()[:50_000])
    with pytest.raises(DataError, match="cannot be read as HDF5; truncated or damaged"):
        read(tmp_path / "a.h5", **ROWS)


def test_dictionaries_of_julia(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    pair = np.dtype([("first", h5py.ref_dtype), ("second", h5py.ref_dtype)])
    with h5py.File(tmp_path / "labels.jld2", "w") as file:
        count = 0

        def put(value: Any, dtype: Any = None) -> Any:
            nonlocal count
            count += 1
            return file.create_dataset(f"_types/{count}", data=value, dtype=dtype).ref

        def dictionary(content: dict[Any, Any]) -> Any:
            pairs = [put(np.array((put(key), item), dtype=pair)) for key, item in content.items()]
            return put(np.array(pairs, dtype=h5py.ref_dtype))

        records = {3: dictionary({"label": put(b"RIAL")}), 1: dictionary({"label": put(b"AVA?")})}
        top = dictionary({"worm": dictionary({"neurons": dictionary(records)})})
        file.create_dataset("labels", data=top, dtype=h5py.ref_dtype)
    np.save(tmp_path / "worm.npy", values())
    source = {"file": "labels.jld2", "key": "labels/{session}/neurons", "form": "index", "first": 1, "pick": "label"}
    options = {"description": {"labels": {"neuron": source}}, **ROWS}
    (found,) = read(tmp_path / "worm.npy", **options)
    assert found.labels["neuron"] == ("AVA?", "", "RIAL", "")
    source["first"] = 3
    with pytest.raises(DataError, match="unit number 1 is outside the 4 units"):
        read(tmp_path / "worm.npy", **options)
    source["key"] = "labels/fish/neurons"
    with pytest.raises(DataError, match="there is no 'fish' in 'labels'; it has worm"):
        read(tmp_path / "worm.npy", **options)


# CaImAn


def caiman(path: Path, *, dff: bool) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file["estimates/C"] = values()
        if dff:
            file["estimates/F_dff"] = values() * 2
        else:
            file["estimates/F_dff"] = "NoneType"
        file["estimates/idx_components"] = np.array([0, 3])
        file["params/data/fr"] = 15
        file["dims"] = np.array([4, 5])
        file["estimates/A/data"] = np.ones(8)
        file["estimates/A/indices"] = np.arange(8)
        file["estimates/A/indptr"] = np.array([0, 2, 4, 6, 8])


@pytest.mark.parametrize("dff", [True, False])
def test_caiman(tmp_path: Path, dff: bool) -> None:
    caiman(tmp_path / "a.hdf5", dff=dff)
    (found,) = read(tmp_path / "a.hdf5")
    np.testing.assert_array_equal(found.activity, values()[[0, 3]] * (2 if dff else 1))
    assert (found.rate_hz, found.provenance["format"]) == (15.0, "caiman")
    assert found.unit_ids == ("0", "3")
    assert found.coordinates is not None
    np.testing.assert_allclose(found.coordinates, [[0, 0.5], [1, 2.5]])
    (every,) = read(tmp_path / "a.hdf5", rois="all", key="estimates/C")
    np.testing.assert_array_equal(every.activity, values())


@pytest.mark.parametrize("rois", ["accepted", "all"])
def test_caiman_that_nobody_evaluated_says_that_all_components_are_taken(tmp_path: Path, rois: str) -> None:
    caiman(tmp_path / "a.hdf5", dff=True)
    with pytest.importorskip("h5py").File(tmp_path / "a.hdf5", "r+") as file:
        del file["estimates/idx_components"]
        file["estimates/idx_components"] = "NoneType"
    (found,) = read(tmp_path / "a.hdf5", rois=rois)
    said = "there is no estimates/idx_components: all components are taken"
    assert (found.units, said in found.warnings) == (4, rois == "accepted")


# MATLAB


@pytest.mark.parametrize("compressed", [True, False])
def test_matlab_5(tmp_path: Path, compressed: bool) -> None:
    io = pytest.importorskip("scipy.io")
    content: dict[str, Any] = {
        "dff": values(),
        "s": {"fs": 2.0, "names": np.array(["a", "bc", "d", "e"], dtype=object)},
    }
    io.savemat(str(tmp_path / "a.mat"), content, do_compression=compressed)
    description = {"labels": {"name": {"key": "s/names"}}}
    (found,) = read(
        tmp_path / "a.mat", key="dff", orientation="units x frames", rate_key="s/fs", description=description
    )
    np.testing.assert_array_equal(found.activity, values())
    assert (found.rate_hz, found.labels["name"]) == (2.0, ("a", "bc", "d", "e"))
    (tmp_path / "b.mat").write_bytes((tmp_path / "a.mat").read_bytes()[:200])
    with pytest.raises(DataError, match="cannot be read as MATLAB"):
        read(tmp_path / "b.mat", **ROWS)


@pytest.mark.parametrize(("byte", "value"), [(145, 219), (136, 14), (128, 99), (144, 77), (132, 255)])
@pytest.mark.filterwarnings("ignore")
def test_damaged_matlab_5_is_noticed_before_scipy_crashes(tmp_path: Path, byte: int, value: int) -> None:
    io = pytest.importorskip("scipy.io")
    io.savemat(str(tmp_path / "a.mat"), {"x": values(), "y": values()})
    content = bytearray((tmp_path / "a.mat").read_bytes())
    content[byte] = value
    (tmp_path / "a.mat").write_bytes(content)
    with pytest.raises(DataError, match="cannot be read as MATLAB"):
        read(tmp_path / "a.mat", key="x", **ROWS)


def test_matlab_73_has_the_shape_that_matlab_shows(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.mat", "w", userblock_size=512) as file:
        file["dff"] = values().T  # MATLAB writes column by column
        file["#refs#/a"] = np.zeros((2, 2))
    with (tmp_path / "a.mat").open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file".ljust(128))
    (found,) = read(tmp_path / "a.mat", **ROWS)
    np.testing.assert_array_equal(found.activity, values())
    with pytest.raises(DataError, match="shape 4 x 30"):
        read(tmp_path / "a.mat")


def test_cells_of_matlab_5_may_be_empty(tmp_path: Path) -> None:
    io = pytest.importorskip("scipy.io")
    cells = np.array(["a", "", "b c", np.zeros((0, 0))], dtype=object)
    io.savemat(str(tmp_path / "a.mat"), {"x": values(), "s": {"names": cells}})
    description = {"activity": {"key": "x"}, "labels": {"name": {"key": "s/names"}}}
    assert read(tmp_path / "a.mat", description=description, **ROWS)[0].labels["name"] == ("a", "", "b c", "")


def test_text_of_matlab_73(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.mat", "w", userblock_size=512) as file:

        def put(name: str, value: np.ndarray, kind: str, **attributes: object) -> Any:
            made = file.create_dataset(name, data=value)
            made.attrs["MATLAB_class"] = np.bytes_(kind)
            made.attrs.update(attributes)
            return made.ref

        def letters(*rows: str) -> np.ndarray:
            return np.array([[ord(letter) for letter in row] for row in rows], dtype=np.uint16).T

        put("x", values().T, "double")
        put("mouse", letters("m1"), "char")  # the only other array, which is no activity
        put("sides", letters("l ", "r ", "ll", "rr"), "char")
        cells = [put(f"#refs#/{name}", letters(name), "char") for name in ("a", "b c")]
        cells.append(put("#refs#/none", np.zeros(2, np.uint64), "char", MATLAB_empty=np.uint8(1)))
        cells.append(put("#refs#/number", np.array([[7.0]]), "double"))
        put("names", np.array([cells], dtype=h5py.ref_dtype), "cell")
    description = {"labels": {"name": {"key": "names"}, "side": {"key": "sides"}}}
    (found,) = read(tmp_path / "a.mat", description=description, **ROWS)
    np.testing.assert_array_equal(found.activity, values())
    assert found.labels == {"name": ("a", "b c", "", "7"), "side": ("l", "r", "ll", "rr")}


# zarr


def zarr_by_hand(path: Path, version: int) -> None:
    """An uncompressed array in one chunk, written without the library, as the two versions of the format have it."""
    path.mkdir(parents=True)
    data = values().tobytes()
    if version == 2:
        meta: dict[str, Any] = {
            "zarr_format": 2,
            "shape": [4, 30],
            "chunks": [4, 30],
            "dtype": "<f4",
            "compressor": None,
            "fill_value": 0.0,
            "order": "C",
            "filters": None,
        }
        (path / ".zarray").write_text(json.dumps(meta))
        (path / "0.0").write_bytes(data)
        return
    meta = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [4, 30],
        "data_type": "float32",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [4, 30]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0.0,
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        "attributes": {},
    }
    (path / "zarr.json").write_text(json.dumps(meta))
    (path / "c" / "0").mkdir(parents=True)
    (path / "c" / "0" / "0").write_bytes(data)


def _has_zarr(version: int) -> None:
    zarr = pytest.importorskip("zarr")
    if version == 3 and int(zarr.__version__.split(".")[0]) < 3:
        pytest.skip("this zarr reads version 2 only")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("version", [2, 3])
def test_zarr_array(tmp_path: Path, version: int) -> None:
    _has_zarr(version)
    zarr_by_hand(tmp_path / "a.zarr", version)
    (found,) = read(tmp_path / "a.zarr", **ROWS)
    np.testing.assert_array_equal(found.activity, values())
    assert found.session == "a"
    assert len(read(tmp_path, **ROWS)) == 1


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("version", [2, 3])
def test_zarr_group(tmp_path: Path, version: int) -> None:
    _has_zarr(version)
    zarr_by_hand(tmp_path / "a.zarr" / "session" / "traces", version)
    for folder in (tmp_path / "a.zarr", tmp_path / "a.zarr" / "session"):
        if version == 2:
            (folder / ".zgroup").write_text('{"zarr_format": 2}')
        else:
            (folder / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    (found,) = read(tmp_path / "a.zarr", **ROWS)
    np.testing.assert_array_equal(found.activity, values())
    assert found.provenance["key"] == "session/traces"


@pytest.mark.filterwarnings("ignore")
def test_damaged_zarr(tmp_path: Path) -> None:
    _has_zarr(3)
    zarr_by_hand(tmp_path / "a.zarr", 3)
    (tmp_path / "a.zarr" / "zarr.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read as zarr"):
        read(tmp_path / "a.zarr", **ROWS)


# Missing packages


@pytest.mark.parametrize(
    ("package", "suffix", "extra"), [("h5py", "h5", "formats"), ("scipy.io", "mat", "formats"), ("pynwb", "nwb", "nwb")]
)
def test_missing_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, suffix: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(b"x" * 600)
    with pytest.raises(MissingExtraError, match=rf"pip install 'poco-forecast\[{extra}\]'"):
        read(path, **ROWS)


def test_missing_zarr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zarr", None)
    zarr_by_hand(tmp_path / "a.zarr", 2)
    with pytest.raises(MissingExtraError, match="formats"):
        read(tmp_path / "a.zarr", **ROWS)
