"""Every real data set, read with the description that comes with poco, has the shapes its README states."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from poco.data.inspect import inspect
from poco.data.read import read

WORMS = [(130, 799), (146, 800), (141, 800), (145, 800), (135, 800), (130, 800)]
MOTONEURONS = [20, 12, 14, 11, 9, 13, 17, 12, 11]

SHAPES = {
    "celegans_dag2023": WORMS,
    "zebrafish_tectum_triplett2018": [(114, 4245)],
    "zebrafish_units_chen2018": [(115, 640), (133, 1200), (133, 500), (120, 517), (123, 800)],
    "zebrafish_regions_legare2025": [(70, 892)],
    "zebrafish_motoneurons_chen2023": [(n, 985 if i == 0 else 1000) for i, n in enumerate(MOTONEURONS)],
    "zebrafish_dp_odor_rupprecht": [(1005, 260), (1005, 260)],
    "mouse_s1_bale2021": [(15, 9553), (12, 5084), (11, 16605), (10, 10906), (23, 20992), (16, 10373)],
    "mouse_dentate_cagraph": [(43, 3596), (50, 3596), (25, 1801), (42, 1801), (100, 3600)],
    "mouse_visual_allen_excerpt": [(74, 6001)],
    "suite2p_output_pynapple": [(219, 2000)],
    "nwb_gfp_control_scholz2018": [(62, 2244)],
}
RATES = {
    "zebrafish_tectum_triplett2018": 2.2,
    "zebrafish_units_chen2018": 2.0,
    "zebrafish_regions_legare2025": 1.0,
    "zebrafish_motoneurons_chen2023": 4.0,
    "zebrafish_dp_odor_rupprecht": 7.5,
    "mouse_s1_bale2021": 10.8,
    "mouse_dentate_cagraph": 10.0,
    "mouse_visual_allen_excerpt": 30.0,
}
NEEDS = {
    "celegans_dag2023": "h5py",
    "zebrafish_dp_odor_rupprecht": "scipy",
    "mouse_s1_bale2021": "scipy",
    "mouse_visual_allen_excerpt": "scipy",
    "nwb_gfp_control_scholz2018": "pynwb",
}


def _need(name: str) -> None:
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])


@pytest.mark.parametrize("name", SHAPES)
def test_inspect_shows_the_stated_shapes(shared_data: Path, name: str) -> None:
    _need(name)
    seen = inspect(shared_data / name)
    assert [(s.units, s.frames) for s in seen.sessions] == SHAPES[name]
    assert not any(s.error for s in seen.sessions)
    assert seen.dataset == name
    assert Path(seen.description).name == f"{name}.toml"
    if name in RATES:
        assert {s.rate_hz for s in seen.sessions} == {RATES[name]}
    json.dumps(seen.to_json(), allow_nan=False)
    assert all(s.session in seen.to_text() for s in seen.sessions)


def test_worms(shared_data: Path) -> None:
    _need("celegans_dag2023")
    worms = read(shared_data / "celegans_dag2023")
    assert [w.rate_hz for w in worms] == pytest.approx([1.3573] + [1.6666] * 5, abs=1e-3)
    assert [sum(map(bool, w.labels["neuron"])) for w in worms[1:]] == [100, 87, 104, 94, 104]
    assert worms[0].labels == {}
    assert len(worms[1].labels["region"]) == 146
    assert worms[1].channels["velocity"].shape == (800,)
    assert worms[1].channels["body_angle"].shape == (800, 30)
    assert "pumping" in worms[0].channels
    assert "pumping" not in worms[1].channels


def test_worm_labels_belong_to_their_columns(shared_data: Path) -> None:
    h5py = pytest.importorskip("h5py")
    folder = shared_data / "celegans_dag2023"
    (worm,) = read(folder / "swf702_with_id" / "2022-07-26-31-data.h5")
    with h5py.File(folder / "swf702_with_id" / "2022-07-26-31-data.h5") as file:
        traces = file["gcamp/trace_array"][()]
    np.testing.assert_array_equal(worm.activity, traces.T.astype(np.float32))
    classes, neurons = worm.labels["cell_class"], worm.labels["neuron"]
    assert all(neuron.startswith(klass) for neuron, klass in zip(neurons, classes, strict=True))


def test_tectum(shared_data: Path) -> None:
    (fish,) = read(shared_data / "zebrafish_tectum_triplett2018")
    assert fish.coordinates is not None
    np.testing.assert_allclose(fish.coordinates[0], [27.667, 15])
    assert "1" in fish.labels["assembly"][0].split()
    assert fish.labels["assembly"][1] == "3"


def test_units_of_a_fish(shared_data: Path) -> None:
    fish = read(shared_data / "zebrafish_units_chen2018")
    assert fish[0].session == "subject_12"
    assert fish[0].labels["region"][:2] == ("MON", "Cb")


def test_regions_drop_constant_rows(shared_data: Path) -> None:
    (fish,) = read(shared_data / "zebrafish_regions_legare2025")
    assert fish.activity.shape == (67, 892)
    assert fish.provenance["dropped_units"] == "17, 34, 49"
    assert fish.labels["region"][0] == "olfactory_epithelium"
    assert fish.activity.std(axis=1).min() > 0
    (whole,) = read(shared_data / "zebrafish_regions_legare2025", constant="keep")
    assert whole.units == 70


def test_motoneurons(shared_data: Path) -> None:
    fish = read(shared_data / "zebrafish_motoneurons_chen2023")
    assert [f.session for f in fish[:3]] == ["fish1-trace1", "fish1-trace2", "fish3-trace1"]
    assert {f.subject for f in fish} == {"fish1", "fish3", "fish4", "fish5", "fish6"}
    assert fish[0].labels["side"] == ("left",) * 12 + ("right",) * 8
    assert all(f.coordinates is not None for f in fish)


def test_odour_trials_drop_missing_rows(shared_data: Path) -> None:
    _need("zebrafish_dp_odor_rupprecht")
    first, second = read(shared_data / "zebrafish_dp_odor_rupprecht")
    assert first.activity.shape == second.activity.shape == (1003, 260)
    assert first.unit_ids == second.unit_ids
    assert not {"60", "348"} & set(first.unit_ids)
    assert first.subject == second.subject
    seen = inspect(shared_data / "zebrafish_dp_odor_rupprecht")
    assert seen.sessions[0].nan_units == (60, 348)
    assert seen.sessions[0].nan_values == 520


def test_barrel_cortex(shared_data: Path) -> None:
    _need("mouse_s1_bale2021")
    folder = shared_data / "mouse_s1_bale2021" / "0406_20180409"
    (session,) = read(folder)
    assert (session.session, session.subject) == ("0406_20180409", "0406")
    assert session.unit_ids == ("1", "2", "4", "5", "7", "10", "13", "22", "25", "32", "33", "36")
    assert set(session.channels) == {"cues", "go", "nogo", "reward", "punish", "licks"}
    assert np.flatnonzero(session.channels["cues"])[:3].tolist() == [2, 43, 84]
    assert len(session.stretches) == 1
    assert any("41-frame trials" in line for line in session.warnings)
    (cut,) = read(folder, cut_trials=True)
    assert cut.stretches == tuple((i, i + 41) for i in range(0, 5084, 41))
    from scipy.io import loadmat

    raw = loadmat(str(folder / "0406_20180409_10_timeseries.mat"))["dff"].reshape(-1)
    np.testing.assert_array_equal(session.activity[5], raw.astype(np.float32))


def test_dentate(shared_data: Path) -> None:
    mice = {m.session: m for m in read(shared_data / "mouse_dentate_cagraph")}
    assert {m.subject for m in mice.values()} == {"1055-4", "2-1", "396-3"}
    assert mice["1055-4_D5"].labels["context"][:5] == (*["context A"] * 4, "unspecific")
    assert mice["1055-4_D0"].labels == {}
    assert mice["1055-4_D0"].activity[1, 0] == np.float32(1.2292)


def test_suite2p_takes_accepted_cells(shared_data: Path) -> None:
    (accepted,) = read(shared_data / "suite2p_output_pynapple")
    assert accepted.activity.shape == (20, 2000)
    assert accepted.rate_hz is None
    (every,) = read(shared_data / "suite2p_output_pynapple", rois="all", constant="keep")
    assert every.activity.shape == (219, 2000)
    seen = inspect(shared_data / "suite2p_output_pynapple")
    assert len(seen.sessions[0].constant_units) == 47


@pytest.mark.parametrize("described", [True, False])
def test_control_is_flagged(shared_data: Path, described: bool) -> None:
    _need("nwb_gfp_control_scholz2018")
    folder = shared_data / "nwb_gfp_control_scholz2018"
    seen = inspect(folder) if described else inspect(next(folder.glob("*.nwb")), description={})
    (session,) = seen.sessions
    assert (session.units, session.frames) == (62, 2244)
    assert not session.neural
    assert "NOT NEURAL ACTIVITY" in seen.to_text()
    assert session.stretches == 8
    assert any("irregular" in line and "41.2 s" in line for line in session.warnings)
    assert session.channels == {"ss_2D": 2}
