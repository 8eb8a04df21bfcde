"""NWB: series of ROIs in their containers, numbered plain series, time stamps, channels, controls."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from poco.data.inspect import inspect
from poco.data.read import read
from poco.data.readers.nwb import control_reason
from poco.errors import DataError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pynwb = pytest.importorskip("pynwb")

pytestmark = pytest.mark.filterwarnings("ignore")

FRAMES, ROIS = 40, 5


def values(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((FRAMES, ROIS)).astype(np.float32)


def write(path: Path, fill: Callable[[Any], None], **facts: Any) -> None:
    start = datetime(2024, 1, 2, tzinfo=timezone.utc)
    given = {"session_description": "a session", "identifier": "id1", "session_start_time": start, **facts}
    nwb = pynwb.NWBFile(**given)
    fill(nwb)
    with pynwb.NWBHDF5IO(str(path), mode="w") as io:
        io.write(nwb)


def ophys(
    nwb: Any, *, indicator: str = "GCaMP6s", accepted: bool = False, imaging_rate: float | None = None
) -> tuple[Any, Any]:
    """A processing module and a function that makes table regions of all ROIs."""
    device = nwb.create_device(name="microscope")
    channel = pynwb.ophys.OpticalChannel(name="green", description="green", emission_lambda=520.0)
    plane = nwb.create_imaging_plane(
        name="plane",
        optical_channel=channel,
        description="plane",
        device=device,
        excitation_lambda=920.0,
        indicator=indicator,
        location="V1",
        imaging_rate=imaging_rate,
    )
    table = pynwb.ophys.PlaneSegmentation(name="rois", description="rois", imaging_plane=plane)
    for i in range(ROIS):
        table.add_roi(pixel_mask=[(i, i, 1.0)], id=10 + i)
    table.add_column(name="region", description="area", data=["a", "b", "a", "", "c"])
    if accepted:
        table.add_column(name="iscell", description="accepted", data=[[1.0, 0.9], [0.0, 0.1]] * 2 + [[1.0, 0.8]])
    module = nwb.create_processing_module(name="ophys", description="ophys")
    module.add(pynwb.ophys.ImageSegmentation(plane_segmentations=[table]))
    return module, lambda: table.create_roi_table_region(region=list(range(ROIS)), description="all")


def response(name: str, rois: Any, data: np.ndarray, **time: Any) -> Any:
    return pynwb.ophys.RoiResponseSeries(name=name, data=data, rois=rois, unit="a.u.", **time)


def test_df_over_f_is_preferred_to_fluorescence(tmp_path: Path) -> None:
    def fill(nwb: Any) -> None:
        module, rois = ophys(nwb)
        raw = response("RoiResponseSeries", rois(), values(1), rate=30.0)
        dff = response("RoiResponseSeries", rois(), values(0), rate=30.0)
        module.add(pynwb.ophys.Fluorescence(roi_response_series=[raw]))
        module.add(pynwb.ophys.DfOverF(roi_response_series=[dff]))

    subject = pynwb.file.Subject(subject_id="m1", species="Mus musculus", genotype="Thy1-GCaMP6f")
    write(tmp_path / "a.nwb", fill, subject=subject)
    (found,) = read(tmp_path / "a.nwb")
    np.testing.assert_array_equal(found.activity, values(0).T)
    assert (found.session, found.subject, found.rate_hz) == ("a", "m1", 30.0)
    assert found.unit_ids == ("10", "11", "12", "13", "14")
    assert found.labels["region"] == ("a", "b", "a", "", "c")
    assert found.provenance["key"] == "processing/ophys/DfOverF/RoiResponseSeries"
    assert found.provenance["indicator"] == "GCaMP6s"
    assert found.provenance["neural"] == "yes"
    assert any("--key takes others: processing/ophys/Fluorescence" in line for line in found.warnings)
    (raw,) = read(tmp_path / "a.nwb", key="processing/ophys/Fluorescence/RoiResponseSeries")
    assert not any("--key" in line for line in raw.warnings)
    np.testing.assert_array_equal(raw.activity, values(1).T)
    with pytest.raises(DataError, match=r"no series 'x'; it has 'processing/ophys/.*' \(40, 5\) RoiResponseSeries"):
        read(tmp_path / "a.nwb", key="x")


def test_time_stamps_gaps_and_accepted_cells(tmp_path: Path) -> None:
    times = np.arange(FRAMES) * 0.5
    times[10:] += 20

    def fill(nwb: Any) -> None:
        module, rois = ophys(nwb, accepted=True)
        module.add(pynwb.ophys.Fluorescence(roi_response_series=[response("F", rois(), values(), timestamps=times)]))
        nwb.add_acquisition(pynwb.TimeSeries(name="speed", data=np.arange(FRAMES * 1.0), timestamps=times, unit="m/s"))
        nwb.add_acquisition(pynwb.TimeSeries(name="licks", data=np.zeros(7), rate=100.0, unit="n"))

    write(tmp_path / "a.nwb", fill)
    (found,) = read(tmp_path / "a.nwb")
    assert (found.rate_hz, found.stretches) == (2.0, ((0, 10), (10, FRAMES)))
    assert found.unit_ids == ("10", "12", "14")
    np.testing.assert_array_equal(found.channels["speed"], np.arange(FRAMES))
    assert any("left out: 'acquisition/licks'" in line for line in found.warnings)
    assert read(tmp_path / "a.nwb", rois="all")[0].units == ROIS


def test_columns_with_several_values_a_unit_are_no_labels(tmp_path: Path) -> None:
    def fill(nwb: Any) -> None:
        module, rois = ophys(nwb)
        region = rois()
        region.table.add_column(name="tags", description="tags", data=list("uvwxyz"), index=[2, 3, 4, 5, 6])
        traces = response("RoiResponseSeries", region, values(), rate=10.0)
        module.add(pynwb.ophys.DfOverF(roi_response_series=[traces]))

    write(tmp_path / "a.nwb", fill)
    assert list(read(tmp_path / "a.nwb")[0].labels) == ["region"]


def test_several_series_need_a_key(tmp_path: Path) -> None:
    def fill(nwb: Any) -> None:
        module, rois = ophys(nwb)
        series = [response(name, rois(), values(), rate=1.0) for name in ("first", "second")]
        module.add(pynwb.ophys.Fluorescence(roi_response_series=series))

    write(tmp_path / "a.nwb", fill)
    with pytest.raises(DataError, match=r"say which series .*'processing/ophys/Fluorescence/first' \(40, 5\)"):
        read(tmp_path / "a.nwb")
    assert read(tmp_path / "a.nwb", key="processing/ophys/Fluorescence/second")[0].units == ROIS


def test_units_written_first_against_the_standard(tmp_path: Path) -> None:
    def fill(nwb: Any) -> None:
        module, rois = ophys(nwb)
        series = response("F", rois(), np.ascontiguousarray(values().T), rate=1.0)
        module.add(pynwb.ophys.Fluorescence(roi_response_series=[series]))

    write(tmp_path / "a.nwb", fill)
    (found,) = read(tmp_path / "a.nwb")
    np.testing.assert_array_equal(found.activity, values().T)
    assert any("has units first, against the standard" in line for line in found.warnings)


def test_every_series_that_fits_a_key_is_a_session(tmp_path: Path) -> None:
    def fill(nwb: Any) -> None:
        module, rois = ophys(nwb)
        series = [response(name, rois(), values(i), rate=1.0 + i) for i, name in enumerate(("F0", "F1", "other"))]
        module.add(pynwb.ophys.Fluorescence(roi_response_series=series))
        for i in range(2):
            nwb.add_acquisition(pynwb.TimeSeries(name=f"n{i}", data=values()[:, i], rate=1.0, unit="n"))

    write(tmp_path / "a.nwb", fill)
    first, second = read(tmp_path / "a.nwb", key="processing/ophys/Fluorescence/F*")
    assert first.session == "a/processing/ophys/Fluorescence/F0"
    assert (first.rate_hz, second.rate_hz) == (1.0, 2.0)
    for i, found in enumerate((first, second)):
        np.testing.assert_array_equal(found.activity, values(i).T)
    assert read(tmp_path / "a.nwb", key="acquisition/n*")[0].unit_ids == ("n0", "n1")
    with pytest.raises(DataError, match=r"no series 'x\*'; it has"):
        read(tmp_path / "a.nwb", key="x*")


def test_behaviour_is_in_step_if_its_clock_is(tmp_path: Path) -> None:
    frames = np.arange(FRAMES)

    def fill(nwb: Any) -> None:
        module, rois = ophys(nwb)
        module.add(pynwb.ophys.DfOverF(roi_response_series=[response("F", rois(), values(), rate=10.0)]))
        clocks: dict[str, dict[str, Any]] = {
            "same": {"rate": 10.0},
            "stamps": {"timestamps": frames * 0.1 + 0.04},
            "late": {"rate": 10.0, "starting_time": 500.0},
            "other": {"timestamps": frames * 3.7 + 1000},
            "half": {"timestamps": frames * 0.1 + 0.06},
        }
        for name, clock in clocks.items():
            nwb.add_acquisition(pynwb.TimeSeries(name=name, data=frames, unit="m", conversion=0.5, offset=5.0, **clock))

    write(tmp_path / "a.nwb", fill)
    (found,) = read(tmp_path / "a.nwb")
    assert set(found.channels) == {"same", "stamps"}
    np.testing.assert_allclose(found.channels["same"], 0.5 * frames + 5)
    assert "not in step with the frames, left out: " in (told := found.warnings[0])
    assert all(f"'acquisition/{name}'" in told for name in ("late", "other", "half"))


def test_time_stamps_in_milliseconds(tmp_path: Path) -> None:
    def fill(nwb: Any) -> None:
        module, rois = ophys(nwb, imaging_rate=10.0)
        series = response("F", rois(), values(), timestamps=np.arange(FRAMES) * 100.0)
        module.add(pynwb.ophys.DfOverF(roi_response_series=[series]))

    write(tmp_path / "a.nwb", fill)
    (found,) = read(tmp_path / "a.nwb")
    assert found.rate_hz == 0.01
    assert "the time stamps say 0.01 Hz, the file's imaging plane 10 Hz" in found.warnings
    assert any("an unusual rate: if they are in ms, say --time-unit ms" in line for line in found.warnings)
    (found,) = read(tmp_path / "a.nwb", time_unit="ms")
    assert (found.rate_hz, found.warnings) == (10.0, ())


def test_a_rate_that_the_file_contradicts(tmp_path: Path) -> None:
    def fill(nwb: Any) -> None:
        module, rois = ophys(nwb)
        module.add(pynwb.ophys.DfOverF(roi_response_series=[response("F", rois(), values(), rate=10.0)]))

    write(tmp_path / "a.nwb", fill)
    (found,) = read(tmp_path / "a.nwb", rate_hz=5)
    assert (found.rate_hz, found.warnings) == (5.0, ("the rate is given as 5 Hz, the file itself says 10 Hz",))
    assert read(tmp_path / "a.nwb", rate_hz=10.1)[0].warnings == ()
    assert "5000 Hz is an unusual rate" in read(tmp_path / "a.nwb", rate_hz=5000)[0].warnings[1]


def test_numbered_plain_series(tmp_path: Path) -> None:
    times = np.cumsum(np.full(FRAMES, 0.25))

    def fill(nwb: Any) -> None:
        for i in (0, 2, 10):
            series = pynwb.TimeSeries(name=f"Activity_{i}", data=values()[:, i % ROIS], timestamps=times, unit="none")
            nwb.add_acquisition(series)

    write(tmp_path / "a.nwb", fill)
    (found,) = read(tmp_path / "a.nwb")
    assert found.unit_ids == ("Activity_0", "Activity_2", "Activity_10")
    np.testing.assert_array_equal(found.activity, values()[:, [0, 2, 0]].T)
    assert found.provenance["key"] == "acquisition/Activity_*"


def test_series_at_different_times_are_refused(tmp_path: Path) -> None:
    def fill(nwb: Any) -> None:
        for i in range(2):
            series = pynwb.TimeSeries(
                name=f"n{i}", data=values()[:, i], timestamps=np.arange(FRAMES) + i * 1.0, unit="n"
            )
            nwb.add_acquisition(series)

    write(tmp_path / "a.nwb", fill)
    with pytest.raises(DataError, match="not recorded at the same times"):
        read(tmp_path / "a.nwb")


def test_series_of_different_rates_are_refused(tmp_path: Path) -> None:
    def fill(nwb: Any) -> None:
        for i in range(2):
            nwb.add_acquisition(pynwb.TimeSeries(name=f"n{i}", data=values()[:, i], rate=1.0 + i, unit="n"))

    write(tmp_path / "a.nwb", fill)
    with pytest.raises(DataError, match="'n1' and 'n0' were not recorded at the same times"):
        read(tmp_path / "a.nwb")


def test_no_traces(tmp_path: Path) -> None:
    write(tmp_path / "a.nwb", lambda nwb: None)
    with pytest.raises(DataError, match="there are no traces to read"):
        read(tmp_path / "a.nwb")


def test_control_by_indicator(tmp_path: Path) -> None:
    def fill(nwb: Any) -> None:
        module, rois = ophys(nwb, indicator="GFP")
        module.add(pynwb.ophys.Fluorescence(roi_response_series=[response("F", rois(), values(), rate=5.0)]))

    write(tmp_path / "a.nwb", fill)
    seen = inspect(tmp_path / "a.nwb")
    assert not seen.sessions[0].neural
    assert "the indicator is GFP" in seen.to_text()


@pytest.mark.parametrize(
    ("facts", "indicator", "control"),
    [
        ({"genotype": "wild type"}, "GCaMP6s", False),
        ({"notes": "nls-GFP marks nuclei"}, "jGCaMP8m", False),
        ({"session_description": "from AML175_moving.hdf5"}, "", True),
        ({"session_description": "AML1750"}, "", False),
        ({"notes": "a GFP control animal"}, "", True),
        ({"session_description": "controls: none; motion corrected"}, "", False),
        ({}, "EGFP", True),
    ],
)
def test_what_counts_as_a_control(facts: dict[str, str], indicator: str, control: bool) -> None:
    assert bool(control_reason(facts, indicator)) == control
