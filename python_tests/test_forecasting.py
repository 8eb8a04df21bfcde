"""Forecasting: forecasts in the recording's own units."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.recordings import waves

import poco
from poco.data.recording import Recording
from poco.errors import CheckpointError, ConfigError, DataError, VocabularyError
from poco.forecasting import Forecasts, forecast

SIZES = poco.POCOConfig(
    context=12, horizon=4, segment_length=4, latents=2, width=8, heads=2, head_width=4, film_width=8
)


@pytest.fixture(scope="module")
def model() -> poco.POCO:
    torch.manual_seed(0)
    model = poco.POCO(SIZES, [poco.SessionSpec("z", ("u",)), poco.SessionSpec("a", tuple("01234"))])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.set_normalisation("a", torch.arange(5.0), torch.arange(1.0, 6.0))
    return model


def expected(model: poco.POCO, recording: Recording, start: int) -> np.ndarray:
    mean, std = np.arange(5.0)[:, None], np.arange(1.0, 6.0)[:, None]
    x = torch.from_numpy(((recording.activity[:, start : start + 12] - mean) / std).astype(np.float32))
    with torch.no_grad():
        out = model(x[None], session="a")[0].numpy()
    return out * std + mean


def test_a_session_whose_normalisation_was_never_set_is_told_of(model: poco.POCO) -> None:
    recording = Recording(waves("z", units=1).activity, "z", unit_ids=("u",))
    with pytest.warns(RuntimeWarning, match=r"call model.set_normalisation\('z', mean, std\)"):
        forecast(model, recording)


def test_values_in_the_recordings_own_units(model: poco.POCO) -> None:
    recording = waves("a", frames=60, rate_hz=2.0)
    found = forecast(model, recording)
    assert found.values.shape == (60 - 12 + 1, 5, 4)
    assert found.values.dtype == np.float32
    assert found.frame.tolist() == list(range(12, 61))
    assert (found.session, found.unit_ids, found.rate_hz) == ("a", tuple("01234"), 2.0)
    for window in (0, 17, 48):
        np.testing.assert_allclose(found.values[window], expected(model, recording, window), rtol=1e-4, atol=1e-4)


def test_stride_latest_and_another_name(model: poco.POCO) -> None:
    recording = waves("new name", frames=60)
    everything = forecast(model, recording, session="a")
    some = forecast(model, recording, session="a", stride=7)
    assert some.frame.tolist() == list(range(12, 61, 7))
    np.testing.assert_allclose(some.values, everything.values[::7], rtol=1e-5, atol=1e-5)
    last = forecast(model, recording, session="a", latest=True)
    assert last.frame.tolist() == [60]
    with pytest.raises(ConfigError, match=r"leave out stride \(--stride\), got 7"):
        forecast(model, recording, session="a", stride=7, latest=True)
    np.testing.assert_allclose(last.values[0], everything.values[-1], rtol=1e-5, atol=1e-5)


def test_many_batches_give_the_same(model: poco.POCO, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = waves("a", frames=60)
    one = forecast(model, recording)
    monkeypatch.setattr("poco.forecasting.ROWS_A_BATCH", 12)
    np.testing.assert_allclose(forecast(model, recording).values, one.values, rtol=1e-5, atol=1e-5)


def test_contexts_stay_within_stretches(model: poco.POCO) -> None:
    found = forecast(model, waves("a", frames=60, stretches=((0, 20), (20, 30), (40, 60))))
    assert found.frame.tolist() == [*range(12, 21), *range(52, 61)]
    with pytest.raises(DataError, match="its last stretch has 5 frames, one context takes 12"):
        forecast(model, waves("a", frames=60, stretches=((0, 20), (55, 60))), latest=True)


def test_bad_recordings(model: poco.POCO) -> None:
    with pytest.raises(VocabularyError, match="unknown session 'b'"):
        forecast(model, waves("b"))
    with pytest.raises(VocabularyError, match="session 'a' has 4 units, the model learnt 5"):
        forecast(model, waves("a", units=4))
    with pytest.raises(VocabularyError, match="unit 1 is 'AVA', the model learnt '1' there"):
        forecast(model, waves("a", unit_ids=("0", "AVA", "2", "3", "4")))
    with pytest.raises(DataError, match="11 frames, but a forecast takes the 12 frames of the model's context"):
        forecast(model, waves("a", frames=11))
    activity = waves("a", frames=60).activity.copy()
    activity[2, 33] = activity[1, 40] = np.nan
    with pytest.raises(DataError, match=r"NaN or infinite values .* the first in unit '2' at frame 33"):
        forecast(model, Recording(activity, "a"))
    with pytest.raises(ConfigError, match="stride"):
        forecast(model, waves("a"), stride=0)
    with pytest.raises(DataError, match="one recording is wanted, not list"):
        forecast(model, [waves("a")])  # type: ignore[arg-type]


def test_another_rate_than_in_training(tmp_path: Path) -> None:
    settings = poco.TrainConfig(steps=2, batch_size=4, val_every=2, device="cpu")
    poco.train(
        [waves("a", frames=200, rate_hz=2.0)],
        model_config=SIZES, train_config=settings, progress=False, out=tmp_path / "run",
    )  # fmt: skip
    assert forecast(tmp_path / "run", waves("a", frames=60, rate_hz=2.1), latest=True).values.shape == (1, 5, 4)
    with pytest.raises(DataError, match="session 'a' has 4 frames a second, the model learnt it at 2: resample"):
        forecast(tmp_path / "run", waves("a", frames=60, rate_hz=4.0))
    with pytest.raises(DataError, match="session 'a' has 4 frames a second, the model learnt it at 2: resample"):
        forecast(poco.POCO.from_pretrained(tmp_path / "run" / "model"), waves("a", frames=60, rate_hz=4.0))


def forecasts() -> Forecasts:
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    return Forecasts(values, np.array([5, 6]), "a", ("x", "y", "é"), None)


def test_npz(tmp_path: Path) -> None:
    path = forecasts().save(tmp_path / "f.npz")
    with pytest.raises(ConfigError, match=r"holds forecasts already: .*--overwrite"):
        forecasts().save(path)
    forecasts().save(path, overwrite=True)
    with np.load(path) as file:
        np.testing.assert_array_equal(file["values"], forecasts().values)
        assert file["frame"].tolist() == [5, 6]
        assert file["unit_ids"].tolist() == ["x", "y", "é"]
        assert str(file["session"]) == "a"
        assert np.isnan(file["rate_hz"])


def test_zarr(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    path = forecasts().save(tmp_path / "f.zarr")
    with pytest.raises(ConfigError, match=r"holds forecasts already: .*--overwrite"):
        forecasts().save(path)
    forecasts().save(path, overwrite=True)
    group = zarr.open_group(str(path), mode="r")
    np.testing.assert_array_equal(group["values"][:], forecasts().values)
    assert group.attrs["unit_ids"] == ["x", "y", "é"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["f.zarr"]


def test_only_forecasts_are_ever_replaced(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    np.savez(tmp_path / "recording.npz", activity=np.ones((2, 3)))
    zarr.open_group(str(tmp_path / "recording.zarr"), mode="w").create_array("activity", data=np.ones((2, 3)))
    shared = forecasts().save(tmp_path / "shared.zarr")
    (shared / "thesis.tex").write_text("years of work")
    (tmp_path / "link.zarr").symlink_to(forecasts().save(tmp_path / "linked.zarr"))
    (tmp_path / "damaged.npz").write_bytes(b"PK")
    before = {path: path.is_dir() or path.read_bytes() for path in tmp_path.rglob("*")}
    for name in ("recording.npz", "recording.zarr", "shared.zarr", "link.zarr", "damaged.npz"):
        with pytest.raises(ConfigError, match=f"{name} exists and does not hold forecasts: choose another name"):
            forecasts().save(tmp_path / name, overwrite=True)
    assert {path: path.is_dir() or path.read_bytes() for path in tmp_path.rglob("*")} == before


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"written to .npz or .zarr, got 'f.csv'"):
        forecasts().save(tmp_path / "f.csv")
    with pytest.raises(CheckpointError, match="there is no folder"):
        forecasts().save(tmp_path / "none" / "f.npz")


def test_activity_on_another_scale_than_the_model_learnt_is_told(model: poco.POCO) -> None:
    known = np.arange(5.0)[:, None] + np.arange(1.0, 6.0)[:, None] * np.random.default_rng(0).normal(size=(5, 300))
    with pytest.warns(RuntimeWarning, match=r"'a': its activity is not on the scale .*its means lie 6\.8\d* standard"):
        forecast(model, Recording(known[:, :20] + 7 * np.arange(1.0, 6.0)[:, None], "a"), latest=True)
    with pytest.warns(RuntimeWarning, match=r"\(its standard deviations are 98\.9 times .*dF/F, raw F"):
        forecast(model, Recording(100 * (known - np.arange(5.0)[:, None]), "a"), latest=True)
    with pytest.warns(RuntimeWarning, match=r"its standard deviations are 0\.00989 times"):
        forecast(model, Recording(known / 100, "a"), latest=True)


def test_drift_quiet_stretches_and_missing_values_are_not_another_scale(model: poco.POCO) -> None:
    known = np.arange(5.0)[:, None] + np.arange(1.0, 6.0)[:, None] * np.random.default_rng(0).normal(size=(5, 300))
    drifted = known + 3 * np.arange(1.0, 6.0)[:, None]
    quiet = known.copy()
    quiet[:4] = np.arange(4.0)[:, None]
    short = known[:, :100] * 4
    missing = known.copy()
    missing[:, :200], missing[2, 200] = np.nan, np.inf
    for activity in (drifted, quiet, short, missing):
        forecast(model, Recording(activity, "a"), latest=True)
