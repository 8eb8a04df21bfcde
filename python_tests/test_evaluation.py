"""Evaluation: scores against a computation by hand."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from helpers.recordings import waves
from torch import nn

import poco
from poco.baselines import Copy, Mean, NLinear
from poco.baselines.fitted import fit_baseline
from poco.data.packed import PackedBatch
from poco.data.recording import Recording
from poco.data.splits import Split, shorten, split
from poco.data.windows import Packer
from poco.errors import CheckpointError, ConfigError, DataError, ShapeError, VocabularyError
from poco.evaluation import evaluate
from poco.files import read_json, write_json
from poco.intervals import Ahead
from poco.scores import Evaluation
from poco.scoring import score_forecasters
from poco.training import TrainConfig, errors_of, fit
from poco.training.checkpoint import load_checkpoint, save_checkpoint


@pytest.fixture(scope="module")
def cut() -> Split:
    return split([waves("a"), waves("b", units=3, frames=450)], context=12, horizon=4)


def by_hand(cut: Split, index: int, part: str = "test") -> tuple[np.ndarray, np.ndarray]:
    """Squared errors per step of an NLinear with weight 0 and bias 0.1, and of copy, for one session."""
    recording = cut.recordings[index]
    z = (recording.activity.astype(np.float64) - cut.mean[index][:, None]) / cut.std[index][:, None]
    model, copy = [], []
    for start, stop in cut.segments[part][index]:
        for first in range(start, stop - 16 + 1):
            last, target = z[:, first + 11 : first + 12], z[:, first + 12 : first + 16]
            model.append((last + 0.1 - target) ** 2)
            copy.append((last - target) ** 2)
    return np.mean(model, axis=(0, 1)), np.mean(copy, axis=(0, 1))


def fitted_module() -> ModuleType:
    return sys.modules["poco.baselines.fitted"]


def biased_copy() -> NLinear:
    model = NLinear(12, 4)
    with torch.no_grad():
        model.linear.weight.zero_()
        model.linear.bias.fill_(0.1)
    return model


@pytest.mark.parametrize("part", ["val", "test"])
def test_scores_by_hand(cut: Split, part: str) -> None:
    evaluation = evaluate(biased_copy(), cut, part, baselines=("copy", "mean"))
    expected = []
    for index, session in enumerate(evaluation.sessions):
        model, copy = by_hand(cut, index, part)
        assert session.session == cut.recordings[index].session
        assert session.mse == pytest.approx(model.mean(), rel=1e-5)
        assert session.copy_mse == pytest.approx(copy.mean(), rel=1e-5)
        assert session.score == pytest.approx(1 - model.mean() / copy.mean(), abs=1e-5)
        assert session.score_per_step == pytest.approx(1 - model / copy, abs=1e-5)
        expected.append(session.score)
    assert evaluation.score == pytest.approx(np.mean(expected))
    assert evaluation.sessions[0].windows == len(cut.windows(part).session[cut.windows(part).session == 0])
    assert evaluation.windows == len(cut.windows(part))
    assert evaluation.baselines["copy"].score == 0
    assert evaluation.baselines["copy"].score_per_step == (0, 0, 0, 0)
    assert evaluation.baselines["mean"].sessions[1].units == 3
    assert evaluation.protocol == "leak-free"
    assert evaluation.part == part


def test_errors_of_each_window_by_hand(cut: Split) -> None:
    scores = score_forecasters({"biased": biased_copy(), "copy": Copy(12, 4)}, cut, stride=3)
    windows = cut.windows("test", stride=3)
    expected = []
    for index, first in zip(windows.session, windows.start, strict=True):
        z = (cut.recordings[index].activity.astype(np.float64) - cut.mean[index][:, None]) / cut.std[index][:, None]
        last, target = z[:, first + 11 : first + 12], z[:, first + 12 : first + 16]
        expected.append((((last + 0.1 - target) ** 2).sum(), ((last - target) ** 2).sum()))
    error, copy = np.array(expected).T
    biased = scores["biased"]
    assert biased.window_error is not None
    assert biased.window_error.dtype == np.float64
    assert biased.window_error == pytest.approx(error, rel=1e-4)
    assert biased.copy_window_error == pytest.approx(copy, rel=1e-4)
    assert np.array_equal(scores["copy"].window_error, scores["copy"].copy_window_error)
    for index, session in enumerate(biased.sessions):
        own = biased.window_error[windows.session == index].sum()
        elements = session.windows * session.units * 4
        assert own / elements == pytest.approx(session.mse, rel=1e-12)


def test_intervals(cut: Split) -> None:
    evaluation = evaluate(biased_copy(), cut, baselines=("copy", "mean", "ridge"))
    assert evaluation.interval is not None
    assert evaluation.interval[0] < evaluation.score < evaluation.interval[1]
    for baseline in evaluation.baselines.values():
        assert baseline.interval is not None
        assert baseline.ahead is not None
        assert baseline.ahead.difference == evaluation.score - baseline.score
        assert baseline.window_error is None
    copy, ridge = evaluation.baselines["copy"], evaluation.baselines["ridge"]
    assert copy.interval == (0, 0)
    assert copy.ahead == Ahead(evaluation.score, evaluation.interval)
    assert ridge.ahead is not None
    assert ridge.ahead.interval is not None
    assert ridge.ahead.interval[1] < 0  # a biased copy is behind
    assert evaluate(biased_copy(), cut, baselines=("copy", "mean", "ridge")) == evaluation
    same = evaluate(Mean(12, 4), cut, baselines=("mean",))
    assert same.baselines["mean"].ahead == Ahead(0, (0, 0))


def test_a_session_with_a_single_window_has_no_interval(cut: Split) -> None:
    evaluation = evaluate(biased_copy(), cut, baselines=("mean",), stride=1000)
    assert evaluation.windows == 2
    assert evaluation.interval is None
    assert evaluation.baselines["mean"].ahead == Ahead(evaluation.score - evaluation.baselines["mean"].score, None)
    assert Evaluation.from_json(json.loads(json.dumps(evaluation.to_json(), allow_nan=False))) == evaluation


def test_memory_bounded_batches_give_the_same(cut: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    one = score_forecasters({"mean": Mean(12, 4)}, cut)["mean"]
    monkeypatch.setattr("poco.data.windows.Packer.batches.__defaults__", (7,))
    other = score_forecasters({"mean": Mean(12, 4)}, cut)["mean"]
    assert one.score == pytest.approx(other.score, rel=1e-9)
    assert one.window_error == pytest.approx(other.window_error, rel=1e-9)


def test_stride_takes_fewer_windows(cut: Split) -> None:
    assert evaluate(Copy(12, 4), cut, baselines=(), stride=10).windows == len(cut.windows("test", stride=10))


def test_a_model_with_more_sessions_in_another_order(cut: Split) -> None:
    sizes = poco.POCOConfig(
        context=12, horizon=4, segment_length=4, latents=2, width=8, heads=2, head_width=4, film_width=8
    )
    units = {recording.session: recording.unit_ids for recording in cut.recordings}
    specs = [poco.SessionSpec(name, units.get(name, ("x",))) for name in ("b", "other", "a")]
    torch.manual_seed(0)
    model = poco.POCO(sizes, specs)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    evaluation = evaluate(model, cut, baselines=())
    for index, recording in enumerate(cut.recordings):
        windows = cut.windows("test")
        starts = windows.start[windows.session == index]
        z = (recording.activity - cut.mean[index][:, None]) / cut.std[index][:, None]
        x = torch.from_numpy(np.stack([z[:, s : s + 12] for s in starts]))
        y = torch.from_numpy(np.stack([z[:, s + 12 : s + 16] for s in starts]))
        with torch.no_grad():
            mse = (model(x, session=recording.session) - y).square().mean().item()
        assert evaluation.sessions[index].mse == pytest.approx(mse, rel=1e-4)
    with pytest.raises(VocabularyError, match="does not know session 'b'"):
        evaluate(model.subset(["a"]), cut, baselines=())
    low = evaluate(model, cut, baselines=("mean",), precision="bf16")
    assert low.score == pytest.approx(evaluation.score, rel=0.02)
    assert low.score != evaluation.score
    assert low.to_json()["precision"] == "bf16"
    with pytest.raises(ConfigError, match="precision must be one of float32, bf16, got 'half'"):
        evaluate(model, cut, baselines=(), precision="half")


def test_json_round_trip(cut: Split) -> None:
    evaluation = evaluate(biased_copy(), cut, baselines=("copy", "ridge"))
    values = json.loads(json.dumps(evaluation.to_json()))
    assert {"score", "sessions", "baselines", "protocol", "split"} <= values.keys()
    assert values["split"] == "test"
    assert set(values["baselines"]) == {"copy", "ridge"}
    assert Evaluation.from_json(values) == evaluation
    assert values["interval"] == list(evaluation.interval or ())
    ridge = evaluation.baselines["ridge"]
    assert values["baselines"]["ridge"]["interval"] == list(ridge.interval or ())
    assert ridge.ahead is not None
    assert values["baselines"]["ridge"]["ahead"] == {
        "difference": ridge.ahead.difference,
        "interval": list(ridge.ahead.interval or ()),
        "blocks": ridge.ahead.blocks,
    }
    for bad in ([0.1], [0.1, None], "no"):
        with pytest.raises(CheckpointError, match="incomplete"):
            Evaluation.from_json({**values, "interval": bad})
    with pytest.raises(CheckpointError, match="incomplete"):
        Evaluation.from_json({"score": 1.0})


@pytest.mark.parametrize("bias", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_kept(cut: Split, tmp_path: Path, bias: float) -> None:
    model = biased_copy()
    with torch.no_grad():
        model.linear.bias.fill_(bias)
    with pytest.warns(RuntimeWarning, match=r"session '.' has no finite score: forecasts in"):
        evaluation = evaluate(model, cut, baselines=("mean",))
    assert str(evaluation.score) == ("nan" if np.isnan(bias) else "-inf")
    assert evaluation.interval is None
    write_json(tmp_path / "evaluation.json", evaluation.to_json())
    again = Evaluation.from_json(read_json(tmp_path / "evaluation.json", "scores"))
    assert repr(again.to_json()) == repr(evaluation.to_json())


def test_trained_baselines_are_kept_and_taken_again(
    cut: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitted_module(), "BASELINE_STEPS", 20)
    first = fit_baseline("nlinear", cut, seed=3, folder=tmp_path)
    ridge = fit_baseline("ridge", cut, folder=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["nlinear.safetensors", "ridge.safetensors"]
    with monkeypatch.context() as patch:
        patch.setattr(fitted_module(), "fit", None)  # calling it would fail
        again = fit_baseline("nlinear", cut, seed=3, folder=tmp_path)
        assert torch.equal(first.linear.weight, again.linear.weight)
        assert torch.equal(ridge.weight, fit_baseline("ridge", cut, folder=tmp_path).weight)
        with pytest.raises(TypeError):
            fit_baseline("nlinear", cut, seed=4, folder=tmp_path)
        with pytest.raises(TypeError):
            fit_baseline("nlinear", split([waves("a")], context=12, horizon=4), seed=3, folder=tmp_path)
    shorter = shorten(cut, 40)
    kept = fit_baseline("ridge", shorter, folder=tmp_path)
    assert torch.equal(kept.weight, fit_baseline("ridge", shorter).weight)
    assert not torch.equal(kept.weight, ridge.weight)
    stored = load_checkpoint(tmp_path / "nlinear.safetensors", "baseline")
    for tensors in ({**stored.tensors, "linear.bias": torch.zeros(7)}, {"linear.bias": torch.ones(4)}):
        save_checkpoint(tmp_path / "nlinear.safetensors", dataclasses.replace(stored, tensors=tensors))
        with pytest.warns(RuntimeWarning, match=r"the tensors in .*nlinear.safetensors do not fit the baseline"):
            anew = fit_baseline("nlinear", cut, seed=3, folder=tmp_path)
        assert torch.equal(first.linear.weight, anew.linear.weight)
    (tmp_path / "nlinear.safetensors").write_bytes(b"damaged")
    with pytest.warns(RuntimeWarning, match=r"the kept baseline .*nlinear.safetensors is damaged: it is fitted again"):
        anew = fit_baseline("nlinear", cut, seed=3, folder=tmp_path)
    assert torch.equal(first.linear.weight, anew.linear.weight)


def test_a_folder_that_cannot_be_written_costs_no_scores(cut: Split, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.warns(RuntimeWarning, match="the baseline 'ridge' could not be kept"):
        fit_baseline("ridge", cut, folder=tmp_path / "file")


def test_forecasts_that_are_not_finite_are_told_of(cut: Split) -> None:
    class Broken(Copy):
        def forward_packed(self, batch: PackedBatch) -> torch.Tensor:
            return torch.where(batch.unit_index[:, None] == 6, float("nan"), super().forward_packed(batch))

    with pytest.warns(
        RuntimeWarning, match=r"session 'b' has no finite score: .* not finite of 1 unit, the first is '1'"
    ):
        evaluation = evaluate(Broken(12, 4), cut, baselines=("copy",))
    assert np.isnan(evaluation.score)
    assert evaluation.sessions[0].score == 0


def test_bad_requests(cut: Split) -> None:
    with pytest.raises(ConfigError, match="baselines must be a list of names, got 'ridge'"):
        evaluate(biased_copy(), cut, baselines="ridge")
    with pytest.raises(DataError, match=r"what is scored is a split, poco.split\(recordings\), got list"):
        evaluate(Copy(12, 4), [waves("a")])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="the model has context 48, the split 12"):
        evaluate(Copy(48, 4), cut)
    with pytest.raises(ConfigError, match="no baseline 'arima'"):
        evaluate(Copy(12, 4), cut, baselines=("arima",))
    with pytest.raises(ConfigError, match="part must be one of"):
        evaluate(Copy(12, 4), cut, "dev", baselines=())
    with pytest.raises(DataError, match="needs a split"):
        evaluate(Copy(12, 4))


def test_a_session_that_stands_still_has_no_score_but_that_of_copy() -> None:
    activity = waves(units=1).activity.copy()
    activity[:, 320:] = 1.0
    cut = split([Recording(activity, "a"), waves("b")], context=12, horizon=4)
    with pytest.warns(RuntimeWarning, match="session 'a' stands still in the test part") as warned:
        evaluation = evaluate(Mean(12, 4), cut, baselines=("copy",))
    assert str(warned[0].message) in evaluation.warnings
    assert evaluation.sessions[0].copy_mse == 0
    assert evaluation.sessions[0].score == evaluation.score == -np.inf
    assert evaluation.sessions[0].score_per_step == (-np.inf,) * 4
    assert evaluation.interval is None
    assert evaluation.baselines["copy"].sessions[0].score == evaluation.baselines["copy"].score == 0
    assert np.isfinite(evaluation.sessions[1].score)


def test_a_unit_that_decides_the_score_is_named() -> None:
    activity = waves(units=12).activity.copy()
    activity[5] = np.where(np.arange(400) % 100 == 7, 0.2, 0)  # hardly moves, but for the last part
    activity[5, 330:] += np.arange(70) % 9
    cut = split([waves("b", units=9), Recording(activity, "a")], context=12, horizon=4)
    with pytest.warns(RuntimeWarning, match="unit '5' alone makes up") as warned:
        evaluation = evaluate(biased_copy(), cut, baselines=())
    (line,) = evaluation.warnings[len(cut.warnings) :]
    assert line == str(warned[0].message)
    assert line.startswith("session 'a': unit '5' alone makes up 100%")
    assert f"divided by a deviation of {cut.std[1][5]:.3g} (the median unit by {np.median(cut.std[1]):.3g})" in line
    assert f"deviates by {activity[5, 320:].std():.3g} there" in line
    assert "--leave-out 'a/5'" in line


def test_no_forecaster_is_ahead_of_copy_by_more_than_the_most_that_it_can_score() -> None:
    short = split([waves("a", frames=85)], context=12, horizon=4)  # room for less than one block
    found = evaluate(fit_baseline("ridge", short), short, baselines=("copy", "mean"))
    ahead = {name: one.ahead for name, one in found.baselines.items()}
    assert ahead["copy"] == Ahead(found.score, found.interval)
    assert found.interval is not None
    assert found.interval[1] == 1
    assert ahead["mean"] is not None
    assert ahead["mean"].interval is not None
    assert ahead["mean"].interval[1] > 1  # the score of the mean has no least value


def test_says_where_the_forecaster_is_not_ahead_of_the_mean(cut: Split) -> None:
    assert evaluate(fit_baseline("ridge", cut), cut, baselines=("mean",)).beside_mean == ""
    assert evaluate(biased_copy(), cut, baselines=("copy",)).beside_mean == ""
    assert evaluate(Mean(12, 4), cut, baselines=("mean",)).beside_mean.startswith("Mean is not ahead of mean, which")
    noise = split([Recording(np.random.default_rng(0).normal(size=(9, 400)), "n")], context=12, horizon=4)
    evaluation = evaluate(fit_baseline("ridge", noise), noise, baselines=("mean",))
    assert evaluation.score == pytest.approx(0.5, abs=0.05)
    assert "scores 0.5 on white noise" in evaluation.beside_mean


class WritesInPlace(nn.Module):
    """Normalises each window where it lies, and everything else it is given."""

    def forward_packed(self, batch: PackedBatch) -> torch.Tensor:
        batch.x.sub_(batch.x.mean(1, keepdim=True)).mul_(3)
        batch.unit_index.zero_()
        batch.window_offsets.zero_()
        batch.window_session.zero_()
        return batch.x[:, :4]


def test_a_forecaster_that_writes_into_its_batch_spoils_only_its_own_score(cut: Split) -> None:
    innocent: dict[str, nn.Module] = {name: fit_baseline(name, cut) for name in ("copy", "mean", "ridge", "unit-ridge")}
    alone = score_forecasters(innocent, cut)
    beside = score_forecasters({"first": WritesInPlace(), **innocent, "last": WritesInPlace()}, cut)
    assert {name: beside[name] for name in innocent} == alone
    assert beside["first"] == beside["last"]
    packer = Packer(cut)
    assert errors_of(WritesInPlace(), packer, cut.windows("val")).copy == pytest.approx(
        errors_of(Copy(12, 4), packer, cut.windows("val")).copy
    )


def test_a_forecaster_does_not_see_what_is_to_be_forecast(cut: Split) -> None:
    class Cheat(nn.Module):
        def forward_packed(self, batch: PackedBatch) -> torch.Tensor | None:
            return batch.target

    message = r"forward_packed of Cheat must return \[R, H\], \d+ rows by 4 steps here, got NoneType"
    with pytest.raises(ShapeError, match=message):
        evaluate(Cheat(), cut, baselines=())
    with pytest.raises(ShapeError, match=message):
        errors_of(Cheat(), Packer(cut), cut.windows("val"))


@pytest.mark.parametrize("shape", ["[R, 1]", "[1]", "[R]", "[R, 3]"])
def test_a_forecast_of_another_shape_is_not_broadcast(cut: Split, shape: str) -> None:
    class Wrong(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

        def forward_packed(self, batch: PackedBatch) -> torch.Tensor:
            x = batch.x * self.weight
            return {"[R, 1]": x[:, -1:], "[1]": x.mean().reshape(1), "[R]": x[:, -1], "[R, 3]": x[:, -3:]}[shape]

    message = r"forward_packed of Wrong must return \[R, H\], \d+ rows by 4 steps here, got \["
    with pytest.raises(ShapeError, match=message):
        evaluate(Wrong(), cut, baselines=())
    with pytest.raises(ShapeError, match=message):
        errors_of(Wrong(), Packer(cut), cut.windows("val"))
    for loss in ("mse", "mae"):
        with pytest.raises(ShapeError, match=message):
            fit(Wrong(), cut, TrainConfig(steps=1, batch_size=4, loss=loss, device="cpu"))


def test_a_forecaster_is_called_what_it_is_told(cut: Split) -> None:
    evaluation = evaluate(biased_copy(), cut, baselines=("copy",), name="mine")
    assert evaluation.forecaster == "mine"
    assert list(evaluation.forecasters) == ["mine", "copy"]
    assert Evaluation.from_json(evaluation.to_json()) == evaluation
    assert evaluate(biased_copy(), cut, baselines=()).forecaster == "NLinear"
    for name in ("copy", ""):
        with pytest.raises(ConfigError, match=f"name '{name}' cannot be told from a baseline"):
            evaluate(biased_copy(), cut, baselines=("copy",), name=name)


def test_what_knows_no_sessions_is_not_adapted(cut: Split) -> None:
    for what, call in (
        ("adapted", lambda: poco.adapt(biased_copy(), waves("c"))),  # type: ignore[arg-type]
        ("forecasts a recording", lambda: poco.forecast(biased_copy(), waves("c"))),  # type: ignore[arg-type]
    ):
        with pytest.raises(ConfigError, match=f"what.*{what} is a POCO.* or an ensemble of either, not a NLinear"):
            call()


def test_what_is_no_forecaster(cut: Split) -> None:
    class Plain(nn.Linear):
        pass

    with pytest.raises(ConfigError, match=r"what is scored is a torch.nn.Module with forward_packed.*got a function"):
        evaluate(lambda batch: batch.x, cut)  # type: ignore[arg-type]
    for bad in (lambda: evaluate(Plain(12, 4), cut), lambda: fit(Plain(12, 4), cut, TrainConfig(steps=1))):
        with pytest.raises(ConfigError, match=r"forward_packed\(batch\) -> \[R, H\], got a Plain without it"):
            bad()


@pytest.mark.parametrize(
    ("folder", "sessions", "score"),
    [
        ("celegans_dag2023", 6, 0.170),
        ("zebrafish_tectum_triplett2018", 1, 0.173),
        ("zebrafish_units_chen2018", 5, 0.146),
        ("mouse_dentate_cagraph", 5, 0.206),
    ],
)
def test_nlinear_scores_as_published_code_does(shared_data: Path, folder: str, sessions: int, score: float) -> None:
    cut = split(poco.read(shared_data / folder), protocol="published")
    assert len(cut.recordings) == sessions
    assert score_forecasters({"": fit_baseline("nlinear", cut)}, cut)[""].score == pytest.approx(score, abs=0.01)
