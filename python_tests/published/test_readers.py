"""poco.published: files laid out as those that were published, read and compared by hand."""

from __future__ import annotations

import bz2
import json
import weakref
from pathlib import Path

import numpy as np
import pytest

from poco import read
from poco.data.recording import Recording
from poco.errors import ConfigError, DataError
from poco.published import NAMES, registry, zapbench
from poco.published import read as read_published

h5py = pytest.importorskip("h5py", reason="needs the extra 'formats'")
scipy_io = pytest.importorskip("scipy.io", reason="needs the extra 'formats'")
RNG = np.random.default_rng(0)


# --- zebrafish, Chen 2018 ---------------------------------------------------------------------------------------------


def write_chen(folder: Path, units: int = 5, frames: int = 40, **fields: object) -> np.ndarray:
    folder.mkdir(parents=True)
    activity = RNG.standard_normal((units, frames)).astype(np.float32)
    with h5py.File(folder / "TimeSeries.h5", "w") as file:
        file["CellResp"] = activity.T
        file["CellRespAvr"] = activity.T[:10]
    data = {
        "periods": np.array([[10, 10]]),
        "fpsec": 1.97,
        "CellXYZ": np.arange(units * 3).reshape(units, 3),
        "Behavior_full_motorseed": RNG.standard_normal((2, frames)),
        "BehaviorAvr_motorseed": RNG.standard_normal((2, 10)),
        **fields,
    }
    scipy_io.savemat(folder / "data_full.mat", {"data": data})
    return activity


def test_chen(tmp_path: Path) -> None:
    first, tenth = write_chen(tmp_path / "subject_1"), write_chen(tmp_path / "subject_10", units=4)
    found = read_published("chen2018", tmp_path)
    assert [r.session for r in found] == ["subject_1", "subject_10"]
    np.testing.assert_array_equal(found[0].activity, first)
    np.testing.assert_array_equal(found[1].activity, tenth)
    assert found[0].rate_hz == pytest.approx(1.97)
    np.testing.assert_array_equal(found[0].coordinates, np.arange(15).reshape(5, 3))
    assert {name: c.shape for name, c in found[0].channels.items()} == {"Behavior_full_motorseed": (40, 2)}
    (tmp_path / "subject_1" / "data_full.mat").unlink()
    with h5py.File(tmp_path / "subject_10" / "TimeSeries.h5", "a") as file:
        file["absIX"] = np.array([[1.0, 2.0, 4.0, 3.0]])
    chosen = read_published("chen2018", tmp_path / "subject_10")[0]
    np.testing.assert_array_equal(chosen.coordinates, np.arange(12).reshape(4, 3)[[0, 1, 3, 2]])
    bare = read_published("chen2018", tmp_path / "subject_1" / "TimeSeries.h5")[0]
    assert (bare.rate_hz, bare.coordinates) == (None, None)
    assert "there is no data_full.mat" in bare.warnings[0]


def test_what_is_not_as_chen_published_it(tmp_path: Path) -> None:
    for number, (key, value, message) in enumerate(
        (
            ("fpsec", [1.0, 2.0], r"'data/fpsec' has shape \(2,\), it is to be one number"),
            ("fpsec", "fast", "'data/fpsec' is <U4 of shape .*, not numbers"),
            ("Behavior_full_motorseed", "none", "'data/Behavior_full_motorseed' is <U4 of shape .*, not numbers"),
        )
    ):
        write_chen(tmp_path / str(number), **{key: value})
        with pytest.raises(DataError, match=rf"data_full\.mat: {message}"):
            read_published("chen2018", tmp_path / str(number))
    for first in (0.0, 9.0):  # cells are counted from 1, and there are 5
        folder = tmp_path / f"from {first}"
        write_chen(folder)
        with h5py.File(folder / "TimeSeries.h5", "a") as file:
            file["absIX"] = np.array([[first, 2.0, 3.0, 4.0, 5.0]])
        (found,) = read_published("chen2018", folder)
        assert found.coordinates is None
        assert found.warnings == ("'absIX' of TimeSeries.h5 counts cells that data_full.mat has no places of",)
    with h5py.File(folder / "TimeSeries.h5", "a") as file:
        del file["absIX"]
        file["absIX"] = "all"
    with pytest.raises(DataError, match=r"TimeSeries\.h5: 'absIX' is .*, not numbers"):
        read_published("chen2018", folder)


# --- zebrafish, Andalman 2019 -----------------------------------------------------------------------------------------


def write_andalman(path: Path, leave_out: str = "", missing: bool = False) -> np.ndarray:
    fluorescence = np.abs(RNG.standard_normal((6, 30))) + 5
    fluorescence[2] = 0.5  # too dark
    if missing:
        fluorescence[4, 3] = np.nan
    areas = [
        f"in_{side}_{name}"
        for side in "lr"
        for name in ["LHb", "MHb", "ctel", "dthal", "gc", "raphe", "tel", "vent", "vthal"]
    ]
    with h5py.File(path, "w") as file:
        file["M"] = fluorescence
        for place, name in enumerate(a for a in areas if a != leave_out):
            file[name] = np.arange(6) == (place if place < 5 else -1)
    return fluorescence


def test_andalman(tmp_path: Path) -> None:
    fluorescence = write_andalman(tmp_path / "ctrl_1_CNMF_compressed.h5")
    found = read_published("andalman2019", tmp_path)[0]
    kept = [0, 1, 3, 4, 5]
    centre = np.median(fluorescence[kept], axis=1, keepdims=True)
    np.testing.assert_allclose(found.activity, (fluorescence[kept] - centre) / (centre + 1e-6), rtol=1e-5, atol=1e-6)
    assert found.session == "ctrl_1"
    assert found.unit_ids == ("0", "1", "3", "4", "5")
    assert found.labels["area"] == ("l_LHb", "l_MHb", "l_dthal", "l_gc", "")
    assert found.warnings == ("units with a median of 1 or less are left out: 1",)
    write_andalman(tmp_path / "ctrl_1_CNMF_compressed.h5", missing=True)
    found = read_published("andalman2019", tmp_path)[0]
    assert found.unit_ids == ("0", "1", "3", "5")
    assert found.warnings[1:] == ("units with NaN are left out: 1",)
    write_andalman(tmp_path / "b_CNMF_compressed.h5", leave_out="in_r_vent")
    with pytest.raises(DataError, match=r"b_CNMF_compressed.h5 has no 'in_r_vent': it has M"):
        read_published("andalman2019", tmp_path)


# --- mice -------------------------------------------------------------------------------------------------------------


def test_harvey(tmp_path: Path) -> None:
    folder = tmp_path / "m1" / "day2"
    folder.mkdir(parents=True)
    areas = {"V1": RNG.standard_normal((3, 20)), "PPC": RNG.standard_normal((2, 20))}
    for area, values in areas.items():
        scipy_io.savemat(folder / f"m1_{area}_day2.mat", {area: values + 100})
        scipy_io.savemat(folder / f"m1_{area}_df_day2.mat", {f"{area}_df": values})
    found = read_published("harvey", tmp_path)
    assert [(r.session, r.subject) for r in found] == [("m1_day2", "m1")]
    np.testing.assert_allclose(found[0].activity, np.concatenate([areas["PPC"], areas["V1"]]), rtol=1e-6)
    assert found[0].labels["area"] == ("PPC", "PPC", "V1", "V1", "V1")
    assert found[0].unit_ids[2] == "V1_0"
    alone = read_published("harvey", folder / "m1_V1_df_day2.mat")
    np.testing.assert_array_equal(alone[0].activity, found[0].activity)
    assert len(read_published("harvey", sorted(folder.glob("*_df_*.mat")))) == 1
    stray = folder / "m1_A_df_day2.mat"  # sorts first
    stray.touch()
    with pytest.raises(DataError, match=r"m1_A_df_day2\.mat is none of"):
        read_published("harvey", tmp_path)
    stray.unlink()
    scipy_io.savemat(folder / "m1_V1_df_day2.mat", {"V1_df": areas["V1"][:, :19]})
    with pytest.raises(DataError, match="different numbers of frames"):
        read_published("harvey", tmp_path)


# --- worms, Kato 2015 -------------------------------------------------------------------------------------------------


def write_kato(path: Path, worms: list[tuple[np.ndarray, list[object]]], without: str = "") -> None:
    """A struct array as MATLAB writes it in v7.3: for each field an array of references, matrices transposed."""
    with h5py.File(path, "w") as file:
        store = file.create_group("#refs#")

        def put(values: np.ndarray, kind: str) -> h5py.Reference:
            made = store.create_dataset(f"d{len(store)}", data=values)
            made.attrs["MATLAB_class"] = np.bytes_(kind)
            return made.ref

        def text(name: str) -> h5py.Reference:
            return put(np.array([[ord(letter)] for letter in name], np.uint16), "char")

        def cell(name: object) -> h5py.Reference:
            if isinstance(name, list):
                return put(np.array([[text(one)] for one in name], h5py.ref_dtype), "cell")
            if isinstance(name, int):
                return put(np.array([[float(name)]]), "double")
            return text(str(name))

        fields: dict[str, list[h5py.Reference]] = {"deltaFOverF_bc": [], "NeuronNames": [], "fps": [], "States": []}
        for number, (activity, names) in enumerate(worms):
            fields["deltaFOverF_bc"].append(put(activity, "double"))  # MATLAB's T x N, transposed: N x T
            cells = np.array([[cell(name)] for name in names], h5py.ref_dtype)
            fields["NeuronNames"].append(put(cells, "cell"))
            fields["fps"].append(put(np.array([[3.0 + number]]), "double"))
            states = store.create_group(f"s{number}")
            states["fwd"] = np.ones((activity.shape[1], 1))
            fields["States"].append(states.ref)
        struct = file.create_group("NoStim_Data")
        for name, references in fields.items():
            if name != without:
                struct[name] = np.array([references], h5py.ref_dtype)


def test_kato(tmp_path: Path) -> None:
    worms = [
        (RNG.standard_normal((4, 30)), ["AVAL", ["RIML", "RIMR"], 3, "4"]),
        (RNG.standard_normal((2, 25)), ["AVAR", "x"]),
    ]
    write_kato(tmp_path / "NoStim_Data.mat", worms)
    found = read_published("kato2015", tmp_path)
    assert [(r.session, r.rate_hz) for r in found] == [("worm-1", 3.0), ("worm-2", 4.0)]
    for recording, (activity, _) in zip(found, worms, strict=True):
        np.testing.assert_allclose(recording.activity, activity, rtol=1e-6)
        np.testing.assert_array_equal(recording.channels["fwd"], np.ones(activity.shape[1]))
    assert found[0].labels["neuron"] == ("AVAL", "RIML/RIMR", "", "")
    write_kato(tmp_path / "NoStim_Data.mat", [(worms[0][0].T, worms[0][1])])  # the other way round
    np.testing.assert_allclose(read_published("kato2015", tmp_path)[0].activity, worms[0][0], rtol=1e-6)
    write_kato(tmp_path / "NoStim_Data.mat", [(worms[0][0], ["AVAL"])])
    with pytest.raises(DataError, match="worm 1 has 1 names for 4 neurons"):
        read_published("kato2015", tmp_path)
    write_kato(tmp_path / "NoStim_Data.mat", worms, without="fps")
    with pytest.raises(DataError, match="'NoStim_Data' has no field 'fps'"):
        read_published("kato2015", tmp_path)


# --- worms, Atanas and Kim 2023 ---------------------------------------------------------------------------------------


def test_atanas(tmp_path: Path) -> None:
    traces = RNG.standard_normal((3, 20)).tolist()
    worm = {
        "trace_array": traces,
        "labeled": {"2": {"label": "AVAL", "confidence": 4}},
        "timestamp_confocal": (np.arange(20) * 0.6).tolist(),
        "velocity": [None, *np.arange(19.0).tolist()],
        "reversal_events": [[1, 2]],
    }
    file = tmp_path / "2022-06-14-01.json"
    file.write_text(json.dumps(worm))
    (tmp_path / "index.json").write_text("{}")
    found = read_published("atanas2023", tmp_path)
    assert len(found) == 1
    np.testing.assert_allclose(found[0].activity, traces, rtol=1e-6)
    assert (found[0].session, found[0].rate_hz) == ("2022-06-14-01", pytest.approx(1 / 0.6))
    assert found[0].labels["neuron"] == ("", "AVAL", "")
    assert list(found[0].channels) == ["velocity"]
    (tmp_path / f"._{file.name}").write_text("left by a file manager")
    file = file.rename(tmp_path / f"atanas_kim_2023-{file.name}")  # as the site calls what it sends
    assert [recording.session for recording in read_published("atanas2023", tmp_path)] == ["2022-06-14-01"]
    assert np.isnan(found[0].channels["velocity"][0])
    grouped = {
        "gcamp": {"trace_array": np.array(traces).T.tolist()},  # the other way round
        "timing": {"timestamp_confocal": worm["timestamp_confocal"]},
        "behavior": {"velocity": worm["velocity"]},
        "label": {"2": {"label": "AVAL"}},
    }
    packed = tmp_path / "2022-06-14-07.json.bz2"
    packed.write_bytes(bz2.compress(json.dumps(grouped).encode()))
    later = read_published("atanas2023", packed)[0]
    np.testing.assert_allclose(later.activity, traces, rtol=1e-6)
    assert (later.session, list(later.channels)) == ("2022-06-14-07", ["velocity"])
    assert later.labels == {}
    assert "names are left out" in later.warnings[0]
    packed.write_bytes(b"no bzip2")
    with pytest.raises(DataError, match="is not JSON in bzip2"):
        read_published("atanas2023", packed)
    packed.unlink()
    for key, value, message in (
        ("labeled", {"4": {"label": "X"}}, "no unit from 1 to 3"),
        ("labeled", {"²": {"label": "X"}}, "no unit from 1 to 3"),
        ("labeled", ["AVAL"], "'labeled' is no object"),
        ("timestamp_confocal", [1.0], "a number for each of 20 frames"),
        ("trace_array", [[1.0], [1.0, 2.0]], "traces of one length"),
    ):
        file.write_text(json.dumps({**worm, key: value}))
        with pytest.raises(DataError, match=message):
            read_published("atanas2023", tmp_path)
    times = np.arange(20) * 0.6 + 60 * (np.arange(20) >= 8)
    file.write_text(json.dumps({**worm, "labeled": [], "timestamp_confocal": times.tolist()}))
    (broken,) = read_published("atanas2023", tmp_path)
    assert broken.stretches == ((0, 8), (8, 20))
    assert "a gap longer than" in broken.warnings[0]
    assert broken.labels["neuron"] == ("", "", "")
    file.write_text("[1, 2]")
    with pytest.raises(DataError, match="holds no object"):
        read_published("atanas2023", tmp_path)
    file.write_text(json.dumps({"trace_array": traces}))
    with pytest.raises(DataError, match="has no 'labeled': it has trace_array"):
        read_published("atanas2023", tmp_path)


# --- ZAPBench ---------------------------------------------------------------------------------------------------------


def test_zapbench(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr", reason="needs the extra 'formats'")
    traces = RNG.standard_normal((7879, 3)).astype(np.float32)
    array = zarr.create_array(str(tmp_path / "240930_traces"), shape=traces.shape, dtype="float32", chunks=(512, 3))
    array[:] = traces
    found = read_published("zapbench", tmp_path)[0]
    np.testing.assert_array_equal(found.activity, traces.T)
    assert found.stretches[0] == (0, 649)
    assert found.stretches[-1] == (7279, 7879)
    assert len(found.stretches) == len(zapbench.CONDITIONS) == 9
    assert found.channels["condition"][648] == 0
    assert found.channels["condition"][649] == 1
    short = zarr.create_array(str(tmp_path / "short_traces"), shape=(10, 3), dtype="float32")
    short[:] = 0
    with pytest.raises(DataError, match="not 7,879 frames"):
        read_published("zapbench", tmp_path / "short_traces")


def test_parts_of_zapbench() -> None:
    # Frames 1 to 647 are left of 'gain': 129 for test, 64 for validation, 454 for training.
    assert zapbench.parts("gain", context=4) == {"train": (1, 455), "val": (451, 519), "test": (515, 648)}
    assert zapbench.parts("gain", context=256) == {"train": (1, 455), "val": (199, 519), "test": (263, 648)}
    for context in (4, 256):
        begins, stop = zapbench.parts("taxis", context)["test"]
        assert (begins + context, stop) == (3079 + 256, 3734)
    for condition in zapbench.CONDITIONS:
        for context in (4, 256):
            found = zapbench.parts(condition, context)
            if condition != zapbench.HELD_OUT:  # what is forecast in a part follows on what is before it
                assert found["val"][0] + context == found["train"][1]
                assert found["test"][0] + context == found["val"][1]
    with pytest.raises(ConfigError, match=r"no window of 256 .* 65 frames for val"):
        zapbench.parts("gain", context=256, horizon=65)
    with pytest.raises(ConfigError, match="1 to 256"):
        zapbench.parts("gain", context=257)
    assert zapbench.mean_errors({"gain": [1.0, 2.0], "dots": [3.0, 4.0], "taxis": [100.0, 100.0]}) == [2.0, 3.0]


# --- all of them ------------------------------------------------------------------------------------------------------


def test_on_the_command_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from poco.__main__ import run

    folder = tmp_path / "andalman2019"
    folder.mkdir()
    write_andalman(folder / "a_CNMF_compressed.h5")
    (folder / "b_CNMF_compressed.h5").write_bytes(b"no file")
    as_published = ["--published", "andalman2019"]
    assert run(["inspect", str(folder), *as_published, "--rate", "2", "--json"]) == 2
    shown = capfd.readouterr()
    assert "1 of 2 sessions cannot be read" in shown.err
    good, bad = json.loads(shown.out)["sessions"]
    assert (good["session"], good["units"], good["frames"], good["rate_hz"]) == ("a", 5, 30, 2.0)
    assert good["labels"]["area"] == {"labelled": 4, "classes": 4}
    assert "cannot be read as HDF5" in bad["error"]
    (folder / "b_CNMF_compressed.h5").unlink()
    assert run(["inspect", str(folder), *as_published]) == 0
    assert "5 x 30" in capfd.readouterr().out
    assert run(["inspect", str(folder), *as_published, "--key", "M"]) == 2
    assert "leave no 'key' open" in capfd.readouterr().err
    out = ["--out", str(tmp_path / "out")]
    bench = ["bench-data", str(tmp_path), *as_published, "--data", "andalman2019", *out, "--only", "copy"]
    assert run([*bench, "--protocols", "published"]) == 2  # too short for a window: left out, after it was read
    assert "30 frames" in capfd.readouterr().err
    assert run(["bench-data", str(tmp_path), "--published", "kato2015", *out]) == 2
    assert "'kato2015' is not both in" in capfd.readouterr().err
    assert run(["study", "run", "single-session", "--data", str(folder), *as_published, *out, "--reduced"]) == 2
    assert "30 frames" in capfd.readouterr().err
    assert run(["study", "run", "single-session", "--data", str(folder), *as_published * 2, *out]) == 2
    assert "2 times for 1 --data" in capfd.readouterr().err
    assert run(["study", "run", "simulation", *as_published, *out, "--reduced"]) == 2
    assert "1 times for 0 --data" in capfd.readouterr().err


def test_through_read(tmp_path: Path) -> None:
    write_andalman(tmp_path / "a_CNMF_compressed.h5")
    found = read(tmp_path, published="andalman2019", rate_hz=2.0)
    assert [(r.session, r.rate_hz) for r in found] == [("a", 2.0)]
    from poco.__main__ import run

    options = ["--published", "andalman2019", "--rate", "2", "--steps", "2", "--context", "4", "--horizon", "2"]
    assert run(["train", str(tmp_path), *options, "--no-baselines", "--out", str(tmp_path / "run")]) == 0
    assert run(["eval", str(tmp_path / "run"), "--no-baselines"]) == 0  # reads them again in the same way
    assert run(["stream", str(tmp_path / "run"), "--replay", str(tmp_path), "--speed", "0", "--json"]) == 0
    with pytest.raises(ConfigError, match="leave no 'key' open"):
        read(tmp_path, published="andalman2019", key="M")
    with pytest.raises(ConfigError, match="no published data set 'x'"):
        read(tmp_path, published="x")
    for name in NAMES:
        if name != "andalman2019":
            with pytest.raises(DataError, match=f"holds no file of {name}"):
                read(tmp_path, published=name)
        with pytest.raises(DataError, match="no such file"):
            read(tmp_path / "nowhere", published=name)
    (tmp_path / "b_CNMF_compressed.h5").write_bytes(b"no file")
    with pytest.raises(DataError, match="cannot be read as HDF5"):
        read(tmp_path, published="andalman2019")


def test_folders_are_named_from_inside_them_and_from_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_chen(tmp_path / "subject_1")
    day = tmp_path / "m1" / "day2"
    day.mkdir(parents=True)
    scipy_io.savemat(day / "m1_V1_df_day2.mat", {"V1_df": RNG.standard_normal((3, 20))})
    monkeypatch.chdir(tmp_path / "subject_1")
    assert [read_published("chen2018", path)[0].session for path in (".", "TimeSeries.h5")] == ["subject_1"] * 2
    monkeypatch.chdir(day)
    assert [read_published("harvey", path)[0].session for path in (".", "m1_V1_df_day2.mat")] == ["m1_day2"] * 2
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read("~/subject_1", published="chen2018")[0].session == "subject_1"


def test_sessions_that_are_not_wanted_are_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for fish in (1, 2, 3):
        write_chen(tmp_path / f"subject_{fish}")
    own, alive = registry.sessions, []

    def watched(name: str, file: Path) -> list[Recording]:
        assert not any(one() for one in alive)
        found = own(name, file)
        alive.append(weakref.ref(found[0]))
        return found

    monkeypatch.setattr(registry, "sessions", watched)
    found = read(tmp_path, published="chen2018", sessions=["subject_3"])
    assert [recording.session for recording in found] == ["subject_3"]
    assert len(alive) == 3
