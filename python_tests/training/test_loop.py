"""poco.training.loop: what is trained, what is kept, and that a stopped run continues exactly."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.recordings import waves
from torch import nn

import poco
from poco.baselines import MLP, NLinear
from poco.baselines.fitted import fit_baseline
from poco.data.packed import PackedBatch
from poco.data.splits import Split, split
from poco.data.windows import Packer, ShuffledWindows
from poco.errors import CheckpointError, ConfigError
from poco.training import Callback, DivergedError, TrainConfig, errors_of, fit
from poco.training.checkpoint import load_checkpoint, take

SMALL = TrainConfig(steps=30, batch_size=16, val_every=7, log_every=4, learning_rate=1e-2, device="cpu")


@pytest.fixture(scope="module")
def cut() -> Split:
    return split([waves("a"), waves("b", units=3, frames=450)], context=12, horizon=4)


def mlp(seed: int = 0) -> MLP:
    torch.manual_seed(seed)
    return MLP(12, 4, width=8)


def small_poco(cut: Split, seed: int = 0) -> poco.POCO:
    torch.manual_seed(seed)
    config = poco.POCOConfig(
        context=12, horizon=4, segment_length=4, latents=2, width=8, heads=2, head_width=4, film_width=8
    )
    return poco.POCO(config, [poco.SessionSpec(r.session, r.unit_ids) for r in cut.recordings])


def test_a_poco_is_told_how_its_sessions_are_normalised(cut: Split) -> None:
    model = small_poco(cut)
    model.set_normalisation("b", np.zeros(3), np.ones(3))
    fit(model, cut, dataclasses.replace(SMALL, steps=2))
    assert np.array_equal(model.normalisation("a")[0], cut.mean[0])
    assert np.array_equal(model.normalisation("a")[1], cut.std[0])
    assert torch.equal(model.normalisation("b")[1], torch.ones(3))


class StopAt(Callback):
    """Ends the process, as far as the loop can tell, after a step."""

    class StopError(Exception):
        pass

    def __init__(self, step: int) -> None:
        self.at = step

    def log(self, record: Mapping[str, Any]) -> None:
        if record["step"] >= self.at:
            raise self.StopError


class Keep(Callback):
    """Keeps what the loop reports."""

    def __init__(self) -> None:
        self.records: list[Mapping[str, Any]] = []
        self.messages: list[str] = []
        self.started: tuple[int, int] | None = None
        self.ended = 0

    def start(self, step: int, steps: int) -> None:
        self.started = (step, steps)

    def log(self, record: Mapping[str, Any]) -> None:
        self.records.append(record)

    def validated(self, record: Mapping[str, Any]) -> None:
        self.records.append(record)

    def message(self, text: str) -> None:
        self.messages.append(text)

    def end(self, history: object) -> None:
        self.ended += 1


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_one_step_by_hand(cut: Split) -> None:
    config = TrainConfig(steps=1, batch_size=16, device="cpu")
    model, expected = mlp(), mlp()
    from poco.data.windows import ShuffledWindows

    (windows,) = ShuffledWindows(cut, 16, 0).next()
    batch = Packer(cut).pack(windows)
    loss = ((expected.forward_packed(batch) - batch.target) ** 2).mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(expected.parameters(), 5.0)
    torch.optim.AdamW(expected.parameters(), lr=3e-4, weight_decay=1e-4, amsgrad=True).step()
    history = fit(model, cut, config)
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert history.records[0]["loss"] == pytest.approx(loss.item())


def test_losses_of_data_sets_are_summed_and_their_mean_is_recorded() -> None:
    both = split([waves("a", dataset="x"), waves("b", dataset="y")], context=12, horizon=4)
    torch.manual_seed(0)
    sampler, model = ShuffledWindows(both, 16, 0), mlp()
    losses = [(model.forward_packed(b) - b.target).square().mean() for b in map(Packer(both).pack, sampler.next())]
    config = TrainConfig(steps=1, batch_size=16, clip=None, device="cpu")
    trained = mlp()
    assert fit(trained, both, config).records[0]["loss"] == pytest.approx(sum(losses).item() / 2)
    sum(losses).backward()
    for ours, theirs in zip(trained.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_of_parts_that_are_trained_apart_the_mean_is_recorded_as_of_validation(cut: Split) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = mlp(0), mlp(1)

        def trained_apart(self) -> dict[str, str]:
            return {"one": "one.", "other": "other."}

        def each_packed(self, batch: PackedBatch, names: Iterable[str]) -> list[torch.Tensor]:
            return [getattr(self, name).forward_packed(batch) for name in names]

        def forward_packed(self, batch: PackedBatch) -> torch.Tensor:
            return self.one.forward_packed(batch)

    config = TrainConfig(steps=1, batch_size=16, clip=None, device="cpu")
    alone = [fit(mlp(seed), cut, config).records for seed in (0, 1)]
    for ours, one, other in zip(fit(Two(), cut, config).records, *alone, strict=True):
        for key in {"loss", "val_mse"} & set(ours):
            assert ours[key] == pytest.approx((one[key] + other[key]) / 2)


def test_the_loss_of_a_model_trains_like_its_forecast(cut: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    found = fit(small_poco(cut), cut, SMALL)
    monkeypatch.delattr(poco.POCO, "loss_packed")
    expected = fit(small_poco(cut), cut, SMALL)
    for key in ("loss", "val_mse"):
        ours, theirs = ([r[key] for r in history.records if key in r] for history in (found, expected))
        assert ours == pytest.approx(theirs, rel=1e-3)


def test_absolute_errors_can_be_what_is_made_small(cut: Split) -> None:
    (windows,) = ShuffledWindows(cut, 16, 0).next()
    batch = Packer(cut).pack(windows)
    config = TrainConfig(steps=1, batch_size=16, loss="mae", device="cpu")
    for build in (mlp, lambda: small_poco(cut)):
        model = build()
        loss = (model.eval().forward_packed(batch) - batch.target).abs().mean()
        found = fit(build(), cut, config).records[0]["loss"]
        assert found == pytest.approx(loss.item(), rel=0.05)  # dropout of a POCO
    settings = TrainConfig(steps=200, batch_size=16, learning_rate=1e-2, device="cpu", val_every=200, patience=None)
    errors = {}
    for loss in ("mse", "mae"):
        fit(model := mlp(), cut, dataclasses.replace(settings, loss=loss))
        all_windows = Packer(cut).pack(cut.windows("train"))
        errors[loss] = (model.forward_packed(all_windows) - all_windows.target).abs().mean().item()
    assert errors["mae"] < errors["mse"]


def test_validation_is_pooled_over_sessions(cut: Split) -> None:
    model, packer = mlp(), Packer(cut)
    batch = packer.pack(cut.windows("val"))
    with torch.no_grad():
        expected = (model.forward_packed(batch) - batch.target).square().mean().item()
    assert errors_of(model, packer, cut.windows("val")).pooled() == pytest.approx([expected], rel=1e-5)


def test_the_best_weights_are_kept(cut: Split) -> None:
    model = mlp()
    history = fit(model, cut, TrainConfig(steps=60, batch_size=4, val_every=3, learning_rate=0.1, device="cpu"))
    validations = {r["step"]: r["val_mse"] for r in history.records if "val_mse" in r}
    assert sorted(validations) == list(range(3, 61, 3))
    assert history.best_step == min(validations, key=validations.__getitem__) < 60
    assert history.best_errors[""] == validations[history.best_step]
    assert errors_of(model, Packer(cut), cut.windows("val")).pooled() == [history.best_errors[""]]
    assert history.stopped == "steps"
    assert not model.training


def test_a_last_validation_comes_after_the_last_step(cut: Split) -> None:
    history = fit(mlp(), cut, SMALL)
    assert [r["step"] for r in history.records if "val_mse" in r] == [7, 14, 21, 28, 30]
    assert [r["step"] for r in history.records if "loss" in r] == [4, 8, 12, 16, 20, 24, 28, 30]


def test_the_time_is_kept_without_a_checkpoint(cut: Split) -> None:
    history = fit(mlp(), cut, SMALL)
    assert history.seconds > 0
    assert history.seconds >= history.records[-1]["seconds"] - 0.001  # records are rounded


def test_early_stopping(cut: Split) -> None:
    config = TrainConfig(steps=400, batch_size=4, val_every=2, learning_rate=0.3, patience=3, device="cpu")
    history = fit(mlp(), cut, config)
    assert history.stopped == "patience"
    assert history.step < 400
    assert history.step == history.best_step + 3 * 2


def test_frozen_parameters_stay(cut: Split) -> None:
    model = mlp()
    before = [p.clone() for p in model.parameters()]
    model.layers[0].requires_grad_(False)
    fit(model, cut, SMALL)
    changed = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert changed == [False, False, True, True]
    with pytest.raises(ConfigError, match="no parameter to train"):
        fit(model.requires_grad_(False), cut, SMALL)


def test_same_seed_same_weights_and_the_callers_random_state_is_kept(cut: Split) -> None:
    models = [small_poco(cut) for _ in range(3)]
    torch.manual_seed(5)
    expected = torch.rand(3)
    for model, seed in zip(models, (0, 0, 1), strict=True):
        torch.manual_seed(5)
        fit(model, cut, TrainConfig(steps=6, batch_size=8, val_every=3, seed=seed, device="cpu"))
        assert torch.equal(torch.rand(3), expected)
    assert same(models[0], models[1])
    assert not same(models[0], models[2])


def test_gpus_that_nothing_is_trained_on_are_not_seeded(cut: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    fit_baseline("mlp", cut, config=dataclasses.replace(SMALL, steps=1))
    assert not seeded


def test_ema_is_what_is_validated_and_kept(cut: Split) -> None:
    plain, averaged = mlp(), mlp()
    config = TrainConfig(steps=2, batch_size=16, val_every=2, learning_rate=1e-2, device="cpu")
    start = [p.clone() for p in mlp().parameters()]
    one_step = mlp()
    fit(one_step, cut, TrainConfig(**{**config.to_json(), "steps": 1}))
    fit(plain, cut, config)
    fit(averaged, cut, TrainConfig(**{**config.to_json(), "ema": 0.5}))
    for s, a, b, average in zip(start, one_step.parameters(), plain.parameters(), averaged.parameters(), strict=True):
        torch.testing.assert_close(average, 0.25 * s + 0.25 * a + 0.5 * b)


def test_bfloat16_trains_and_keeps_float32_weights(cut: Split) -> None:
    model = mlp()
    history = fit(model, cut, TrainConfig(**{**SMALL.to_json(), "precision": "bf16"}))
    exact = fit(mlp(), cut, SMALL)
    assert next(model.parameters()).dtype == torch.float32
    assert history.best_errors[""] == pytest.approx(exact.best_errors[""], rel=0.05)
    assert history.best_errors[""] != exact.best_errors[""]


def test_a_diverged_run_is_ended(cut: Split) -> None:
    model = mlp()
    with torch.no_grad():
        next(model.parameters()).fill_(math.inf)
    keep = Keep()
    with pytest.raises(DivergedError, match="not finite at step 4: lower the learning rate"):
        fit(model, cut, SMALL, callbacks=[keep])
    assert keep.ended == 1


@pytest.mark.parametrize("stop", [1, 8, 20, 28])
@pytest.mark.parametrize("more", [{}, {"ema": 0.9, "warmup": 5, "schedule": "cosine", "patience": 50}])
def test_a_stopped_run_continues_exactly(cut: Split, tmp_path: Path, stop: int, more: dict[str, Any]) -> None:
    config = TrainConfig(**{**SMALL.to_json(), **more, "checkpoint_seconds": 0.02})
    whole, stopped, going_on = small_poco(cut), small_poco(cut), small_poco(cut, seed=1)
    file, file_whole = tmp_path / "resume", tmp_path / "whole"
    expected = fit(whole, cut, config, checkpoint=file_whole)
    with pytest.raises(StopAt.StopError):
        fit(stopped, cut, config, checkpoint=file, callbacks=[StopAt(stop)])
    if not file.exists():  # killed before the first checkpoint: the run starts anew
        going_on = small_poco(cut)
    history = fit(going_on, cut, config, checkpoint=file, resume=True)
    assert same(whole, going_on)
    drop = {"seconds"}
    assert [{k: v for k, v in r.items() if k not in drop} for r in history.records] == [
        {k: v for k, v in r.items() if k not in drop} for r in expected.records
    ]
    one, other = load_checkpoint(file_whole, "training").tensors, load_checkpoint(file, "training").tensors
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert any(not torch.equal(t, take(one, "best/")[n]) for n, t in take(one, "model/").items()) or not more


def test_resuming_a_finished_run_changes_nothing_and_more_steps_go_on(cut: Split, tmp_path: Path) -> None:
    file = tmp_path / "resume"
    config = TrainConfig(**{**SMALL.to_json(), "steps": 21, "log_every": 7})
    done, again, longer, whole = mlp(), mlp(1), mlp(1), mlp()
    fit(done, cut, config, checkpoint=file)
    keep = Keep()
    fit(again, cut, config, checkpoint=file, resume=True, callbacks=[keep])
    assert same(done, again)
    assert keep.started == (21, 21)
    assert keep.records == []
    more = TrainConfig(**{**config.to_json(), "steps": 35})
    fit(longer, cut, more, checkpoint=file, resume=True)
    fit(whole, cut, more)
    assert same(longer, whole)


def test_a_checkpoint_of_another_run_is_refused(cut: Split, tmp_path: Path) -> None:
    file = tmp_path / "resume"
    fit(mlp(), cut, SMALL, checkpoint=file)
    with pytest.raises(CheckpointError, match=r"other settings: learning_rate was 0\.01, now 0\.5"):
        fit(mlp(), cut, TrainConfig(**{**SMALL.to_json(), "learning_rate": 0.5}), checkpoint=file, resume=True)
    with pytest.raises(CheckpointError, match="a model with other parameters"):
        fit(NLinear(12, 4), cut, SMALL, checkpoint=file, resume=True)
    other = split([waves("a", seed=1), waves("b", units=3, frames=450)], context=12, horizon=4)
    for not_it in (split([waves("a")], context=12, horizon=4), other):
        with pytest.raises(CheckpointError, match="resume is of training on other recordings, parts or sizes"):
            fit(mlp(), not_it, SMALL, checkpoint=file, resume=True)


class Batched(NLinear):
    """A forecaster whose buffers move with every step."""

    def __init__(self) -> None:
        super().__init__(12, 4)
        self.norm = nn.BatchNorm1d(12)

    def forward_packed(self, batch: PackedBatch) -> torch.Tensor:
        return self.linear(self.norm(batch.x))


def test_buffers_that_move_go_with_the_weights(cut: Split, tmp_path: Path) -> None:
    config = dataclasses.replace(SMALL, learning_rate=0.3, criterion="pooled")  # best long before the end
    whole, stopped, going_on = Batched(), Batched(), Batched()
    for model in (stopped, going_on):
        model.load_state_dict(whole.state_dict())
    history = fit(whole, cut, config)
    assert history.best_step < 30
    found = errors_of(whole, Packer(cut), cut.windows("val")).pooled()
    assert found[0] == pytest.approx(history.best_errors[""], rel=1e-6)
    with pytest.raises(StopAt.StopError):
        fit(stopped, cut, config, checkpoint=tmp_path / "resume", callbacks=[StopAt(20)])
    fit(going_on, cut, config, checkpoint=str(tmp_path / "resume"), resume=True)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, going_on.state_dict()[name]), name


class Cached(NLinear):
    """A forecaster that makes a buffer on the way, and one that grows."""

    def __init__(self) -> None:
        super().__init__(12, 4)
        self.register_buffer("seen", torch.zeros(0))

    def forward_packed(self, batch: PackedBatch) -> torch.Tensor:
        self.register_buffer("cache", torch.ones(4), persistent=False)
        self.seen = torch.zeros(len(self.seen) + 1)
        return self.linear(batch.x) * self.cache


def test_caches_among_the_buffers_are_the_models_own(cut: Split, tmp_path: Path) -> None:
    stopped, going_on = Cached(), Cached()
    going_on.load_state_dict(stopped.state_dict())
    with pytest.raises(StopAt.StopError):
        fit(stopped, cut, SMALL, checkpoint=tmp_path / "resume", callbacks=[StopAt(20)])
    fit(going_on, cut, SMALL, checkpoint=tmp_path / "resume", resume=True)
    assert len(going_on.seen)


def test_what_cannot_be_trained_is_said(cut: Split) -> None:
    class Detached(MLP):
        def forward_packed(self, batch: PackedBatch) -> torch.Tensor:
            return super().forward_packed(batch).detach()

    with pytest.raises(ConfigError, match="the forecast of Detached does not hang on its parameters: was it detached"):
        fit(Detached(12, 4, width=8), cut, SMALL)
    with pytest.raises(ConfigError, match=r"what is trained on is a split, poco.split\(recordings\), got list"):
        fit(mlp(), [waves("a")], SMALL)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"the settings of the loop are a poco\.TrainConfig, got dict"):
        fit(mlp(), cut, {"steps": 3})  # type: ignore[arg-type]


def test_a_full_disk_ends_the_run_and_spares_the_checkpoint(
    cut: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "resume"
    fit(mlp(), cut, TrainConfig(**{**SMALL.to_json(), "steps": 14}), checkpoint=file)
    before = file.read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(CheckpointError, match="No space left on device; the file that was there is intact"):
            fit(mlp(), cut, SMALL, checkpoint=file, resume=True)
    assert file.read_bytes() == before
    model = mlp(1)
    fit(model, cut, SMALL, checkpoint=file, resume=True)
    whole = mlp()
    fit(whole, cut, SMALL)
    assert same(model, whole)


def test_another_number_of_threads_is_told(threads, cut: Split, tmp_path: Path) -> None:
    file = tmp_path / "resume"
    fit(mlp(), cut, SMALL, checkpoint=file)
    keep = Keep()
    threads(torch.get_num_threads() + 1)
    fit(mlp(), cut, SMALL, checkpoint=file, resume=True, callbacks=[keep])
    assert any("threads" in message for message in keep.messages)


def test_what_training_starts_from_may_be_the_best(cut: Split, tmp_path: Path) -> None:
    """Also where the run is stopped and goes on before anything is better."""
    config = TrainConfig(**{**SMALL.to_json(), "val_first": True, "learning_rate": 1.0, "checkpoint_seconds": 1e-6})
    good = mlp()
    fit(good, cut, SMALL)
    start = {name: value.clone() for name, value in good.state_dict().items()}
    model, keep = mlp(), Keep()
    model.load_state_dict(start)
    with pytest.raises(StopAt.StopError):
        fit(model, cut, config, checkpoint=tmp_path / "resume", callbacks=[keep, StopAt(12)])
    assert keep.records[0]["step"] == 0
    assert keep.records[0]["best"]
    history = fit(model, cut, config, checkpoint=tmp_path / "resume", resume=True)
    assert history.best_step == 0
    assert history.best_errors[""] == keep.records[0]["val_mse"]
    assert [r["step"] for r in history.records if "val_mse" in r] == [0, 7, 14, 21, 28, 30]
    assert all(torch.equal(value, start[name]) for name, value in model.state_dict().items())
