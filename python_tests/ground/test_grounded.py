"""poco.ground.grounded, gain and job: networks that start from nothing, learn on unseen forecasts, and are weighed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.recordings import waves

import poco.ground.grounded
import poco.ground.job
from poco import models
from poco.baselines import GroundBaseline
from poco.data.packed import PackedBatch
from poco.data.splits import Split, shorten, split
from poco.data.windows import Packer
from poco.errors import CheckpointError, ShapeError, VocabularyError
from poco.evaluation import evaluate
from poco.ground import add_session, gain
from poco.ground.grounded import Grounded, GroundedConfig
from poco.ground.job import finish, prepare
from poco.ground.networks import ShapeResidual
from poco.ground.selection import fit_selected
from poco.scoring import score_forecasters
from poco.training import Callback, errors_of, recipe
from poco.training import fit as train
from poco.training.validation import training_loss

CONFIG = GroundedConfig(12, 4, latents=2, width=16)
WITH_POPULATION = dataclasses.replace(CONFIG, population=True)
SETTINGS = dataclasses.replace(
    recipe("grounded")[1], steps=30, batch_size=8, learning_rate=5e-3, clip=5.0, ema=0.9, val_every=10
)
BEST_LEVEL = np.array([[1.0, 1.0, 1.0], [1.0, 0.5, 0.9], [1.0, 0.9, 0.9]])  # products of errors


@pytest.fixture(scope="module")
def cut() -> Split:
    return split([waves("a", frames=600), waves("b", units=3, frames=450)], context=12, horizon=4)


def test_the_residual_starts_at_exactly_zero(cut: Split) -> None:
    fitted, _ = fit_selected(cut, CONFIG.ground, cross=True)
    model = gain.start(fitted, cut, CONFIG, seed=3).eval()
    batch = Packer(cut, model.sessions).pack(cut.windows("val"))
    assert torch.equal(model.forward_packed(batch), fitted.ground.forward_packed(batch))
    one, other = (m.networks["level"].input for m in (model, gain.start(fitted, cut, CONFIG, seed=4)))
    assert not torch.equal(one.weight, other.weight)


def test_training_windows_are_forecast_with_coefficients_that_have_not_seen_them(cut: Split) -> None:
    fitted, _ = fit_selected(cut, CONFIG.ground, cross=True)
    model = gain.start(fitted, cut, CONFIG, seed=0)
    packer = Packer(cut, model.sessions)
    windows = cut.windows("train")
    order = np.random.default_rng(0).permutation(len(windows))[:50]
    windows = dataclasses.replace(windows, session=windows.session[order], start=windows.start[order])
    out = model.train().forward_packed(packer.pack(windows))
    row = 0
    for session, start in zip(windows.session, windows.start, strict=True):
        cross = fitted.cross[session]
        assert cross is not None
        fold = int(np.flatnonzero(cross.first <= start)[-1])
        one = dataclasses.replace(windows, session=np.array([session]), start=np.array([start]))
        x = packer.pack(one).x[None]
        expected = fitted.ground.mixed(x, int(session), [c[fold] for c in cross.coefficients]).forecast[0]
        torch.testing.assert_close(out[row : row + len(expected)], expected)
        row += len(expected)
    assert not torch.allclose(out, model.eval().forward_packed(packer.pack(windows)), atol=1e-3)


def test_units_too_short_for_folds_show_nothing_of_their_own_in_training() -> None:
    short = split([waves("a", frames=84)], context=12, horizon=4)
    fitted, _ = fit_selected(short, CONFIG.ground, cross=True)
    assert fitted.cross == (None,)
    model = gain.start(fitted, short, CONFIG, seed=0)
    batch = Packer(short, model.sessions).pack(short.windows("train"))
    base = fitted.ground.mixed(batch.x.view(-1, 5, 12), 0).base.reshape(-1, 4)
    torch.testing.assert_close(model.train().forward_packed(batch), base)


def test_training_moves_the_residual_alone_and_never_ends_worse_on_validation(cut: Split) -> None:
    model, fitted = prepare(cut, CONFIG, SETTINGS)
    before = {name: value.clone() for name, value in model.ground.state_dict().items()}
    history = train(model, cut, SETTINGS)
    assert [r["step"] for r in history.records if "val_mse" in r] == [0, 10, 20, 30]
    assert all(torch.equal(value, before[name]) for name, value in model.ground.state_dict().items())
    assert history.best_steps.keys() == history.best_errors.keys() == {"level", "shape", "apart"}
    assert history.best_step > 0  # waves leave something to learn
    reasons = finish(model, fitted, cut, SETTINGS, history.best_steps)
    assert not model._remembered
    assert len(reasons["gains"]) == 3
    assert 0 < sum(reasons["gains"]) <= 1 + 1e-6
    assert model.gains.tolist() == pytest.approx(reasons["gains"])
    assert [s["stretch"] for s in reasons["stretches"]] == ["rehearsal on the last quarter of training", "validation"]
    scores = score_forecasters({"whole": model, "ground": fitted.ground}, cut, "val")
    assert scores["whole"].score > scores["ground"].score
    assert scores["ground"].score == pytest.approx(reasons["stretches"][1]["ground"], abs=1e-5)


def test_a_residual_that_was_never_better_is_not_used(cut: Split) -> None:
    model, fitted = prepare(cut, CONFIG, SETTINGS)
    assert finish(model, fitted, cut, SETTINGS, {"level": 0, "shape": 0})["gains"] == [0, 0, 0]
    with torch.no_grad():
        model.networks["shape"].output.weight.normal_(std=10)  # never better, and far off
    assert finish(model, fitted, cut, SETTINGS, {"shape": 10, "apart": 10})["gains"] == [0, 0, 0]


def test_the_shorter_validation_is_the_less_is_used() -> None:
    for sessions, frames, trust in ((1, 400, 0.8), (2, 400, 0.9), (1, 160, 0.5)):  # a fifth of them validates
        some = split([waves(name, frames=frames) for name in "ab"[:sessions]], context=12, horizon=4)
        assert gain.trust(some) == pytest.approx(trust)
        shreds = tuple((*own, (0, 15)) for own in some.segments["val"])  # with no room for a window
        assert gain.trust(dataclasses.replace(some, segments={**some.segments, "val": shreds})) == pytest.approx(trust)
        model, fitted = prepare(some, CONFIG, SETTINGS)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gain, "rehearse", lambda *_: None)
            patch.setattr(gain, "products", lambda *_: np.pad(BEST_LEVEL, (0, 1), constant_values=0.9))
            gains = finish(model, fitted, some, SETTINGS, {"level": 10, "shape": 10, "apart": 10})["gains"]
        assert gains == pytest.approx([0.8 * trust, 0, 0.2 * trust])


def test_a_fifth_goes_to_what_does_not_stand_on_the_ground_where_it_has_learnt() -> None:
    for level, apart, error, gains in (
        (True, True, 1.1, [0.8, 0, 0.2]),
        (True, True, 1.2, [1, 0, 0]),  # far worse than the ground
        (True, False, 1.0, [1, 0, 0]),
        (False, True, 1.0, [0, 0, 0.2]),
    ):
        learnt = {"level": level, "shape": True, "apart": apart}
        assert gain.weigh([BEST_LEVEL], (1.0, error), learnt).tolist() == pytest.approx(gains)


def test_the_population_is_read_by_a_residual_of_its_own(cut: Split) -> None:
    model, fitted = prepare(cut, WITH_POPULATION, SETTINGS)
    assert model.residuals == ["level", "shape", "population"]
    batch = Packer(cut, model.sessions).pack(cut.windows("val"))
    assert torch.equal(model.eval().forward_packed(batch), fitted.ground.forward_packed(batch))
    history = train(model, cut, SETTINGS)
    assert all(parameter.grad is not None for parameter in model.parameters())
    own, shape, whole = model.each_packed(batch, model.residuals)
    ground = model.ground.forward_packed(batch)
    torch.testing.assert_close(model.forward_packed(batch), (own + shape + whole) / 3)
    assert not torch.allclose(own, whole, atol=1e-3)
    reasons = finish(model, fitted, cut, SETTINGS, history.best_steps)
    assert len(reasons["gains"]) == 4
    assert 0 < sum(reasons["gains"]) <= 1 + 1e-6
    added = [g * (each - ground) for g, each in zip(reasons["gains"], model.each_packed(batch), strict=True)]
    mixed = ground + sum(added)
    torch.testing.assert_close(model.forward_packed(batch), mixed, rtol=1e-4, atol=1e-5)
    # The forecast of a unit depends on units of its own window, and of no other.
    changed = batch.x.clone()
    changed[1] += 3
    model.gains.copy_(torch.tensor([0.0, 0.0, 1.0, 0.0]))
    unit = int(batch.window_offsets[1])
    moved = model.forward_packed(dataclasses.replace(batch, x=changed)) - model.forward_packed(batch)
    assert (moved[:unit].abs().sum(1) > 0).all()
    assert (moved[unit:] == 0).all()


def test_the_loss_is_that_of_each_network_alone(cut: Split) -> None:
    model, _ = prepare(cut, WITH_POPULATION, SETTINGS)
    batch = Packer(cut, model.sessions).pack(cut.windows("train"))
    assert batch.target is not None
    errors = [(forecast - batch.target).square().mean() for forecast in model.eval().each_packed(batch)]
    torch.testing.assert_close(training_loss(model, batch, "float32"), sum(errors, torch.zeros(())))
    model.networks["shape"].requires_grad_(False)
    torch.testing.assert_close(training_loss(model, batch, "float32"), errors[0] + errors[2] + errors[3])
    three = [forecast - batch.target for forecast in model.each_packed(batch, ("level", "population", "apart"))]
    absolute = sum((error.abs().mean() for error in three), torch.zeros(()))
    torch.testing.assert_close(training_loss(model, batch, "float32", "mae"), absolute)


def test_each_network_keeps_its_own_best_weights(cut: Split) -> None:
    model, _ = prepare(cut, CONFIG, SETTINGS)

    class Spoil(Callback):
        """From step 15 on one network is thrown off its course."""

        def log(self, record: Mapping[str, Any]) -> None:
            if record["step"] >= 15:
                with torch.no_grad():
                    model.networks["level"].output.bias.add_(5)

    settings = dataclasses.replace(SETTINGS, log_every=5)
    spoilt = train(model, cut, settings, callbacks=[Spoil()])
    assert spoilt.best_steps["level"] < spoilt.best_steps["shape"]
    packer = Packer(cut, model.sessions)
    errors = dict(zip(model.networks, errors_of(model, packer, cut.windows("val")).relative(), strict=True))
    assert errors == pytest.approx(spoilt.best_errors)
    scores = score_forecasters({"ground": model.ground}, cut, "val")
    assert all(1 - errors[name] > scores["ground"].score for name in model.residuals)


def test_the_shape_residual_sees_neither_level_nor_scale() -> None:
    residual = ShapeResidual(12, 4, 16, clip=3.0)
    with torch.no_grad():
        for parameter in residual.parameters():
            parameter.normal_()
    x, condition = torch.randn(7, 12) * 30, torch.randn(7, 8) * 30
    out = residual(x, condition)
    torch.testing.assert_close(residual(x + 4, condition), out, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(residual(5 * x, 5 * condition), 5 * out, rtol=1e-2, atol=1e-1)  # but for the least size
    still = residual(torch.ones(1, 12), torch.zeros(1, 8))
    assert still.isfinite().all()


def test_one_network_does_not_stand_on_the_ground(cut: Split) -> None:
    model, _ = prepare(cut, CONFIG, SETTINGS)
    batch = Packer(cut, model.sessions).pack(cut.windows("val"))
    mean = batch.x.mean(1, keepdim=True).expand(-1, 4)
    (alone,) = model.eval().each_packed(batch, ["apart"])
    torch.testing.assert_close(alone, mean)  # before it has learnt anything
    with torch.no_grad():
        for parameter in model.networks["apart"].parameters():
            parameter.normal_()
        for form in model.ground.forms:
            form.weight.normal_()  # nothing that its conditions hang on
    (alone,) = model.each_packed(batch, ["apart"])
    condition = model._parts(batch).condition
    torch.testing.assert_close(alone, mean + model.networks["apart"](batch.x, condition))
    model.gains.copy_(torch.tensor([0.0, 0.0, 0.3]))
    expected = 0.7 * model.ground.forward_packed(batch) + 0.3 * alone
    torch.testing.assert_close(model.forward_packed(batch), expected, rtol=1e-4, atol=1e-4)


def test_forecasts_of_training_windows_are_remembered(cut: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    fitted, _ = fit_selected(cut, CONFIG.ground, cross=True)
    batch = Packer(cut, fitted.ground.sessions).pack(cut.windows("train", stride=7))
    remembered = gain.start(fitted, cut, CONFIG, seed=0).train()
    monkeypatch.setattr(poco.ground.grounded, "_REMEMBERED", 0)
    anew = gain.start(fitted, cut, CONFIG, seed=0).train()
    assert remembered._remembered
    assert not anew._remembered
    torch.testing.assert_close(remembered.forward_packed(batch), anew.forward_packed(batch))


def test_once_training_is_over_a_session_may_join_and_train_as_after_a_file(cut: Split, tmp_path: Path) -> None:
    model, fitted = prepare(cut, CONFIG, SETTINGS)
    finish(model, fitted, cut, SETTINGS, train(model, cut, SETTINGS).best_steps)
    new = split([waves("new", frames=450)], context=12, horizon=4)
    add_session(model.ground, new, fitted.penalties)
    model.save_pretrained(tmp_path)
    batch = Packer(new, model.sessions).pack(new.windows("train"))
    forecasts = [one.train().forward_packed(batch) for one in (model, Grounded.from_pretrained(tmp_path))]
    assert torch.equal(*forecasts)


def test_a_residual_for_the_population_where_there_are_windows_for_it(
    cut: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "population" not in prepare(cut, CONFIG, SETTINGS)[0].networks
    monkeypatch.setattr(poco.ground.job, "POPULATION_WINDOWS", len(cut.windows("train")))
    assert "population" in prepare(cut, CONFIG, SETTINGS)[0].networks


@pytest.mark.parametrize("config", [CONFIG, WITH_POPULATION])
def test_files(cut: Split, tmp_path: Path, config: GroundedConfig) -> None:
    model, _ = prepare(cut, config, SETTINGS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    model.gains.fill_(0.3)
    model.save_pretrained(tmp_path / "model")
    again = models.load(tmp_path / "model")
    assert isinstance(again, Grounded)
    assert again.config == model.config == dataclasses.replace(config, population=config.population or False)
    assert again.sessions == model.sessions
    assert again.metadata == model.metadata
    assert not again.training
    batch = Packer(cut, again.sessions).pack(cut.windows("test"))
    assert torch.equal(model.eval().forward_packed(batch), again.forward_packed(batch))
    x = batch.x[: 2 * 5].view(2, 5, 12)
    torch.testing.assert_close(again(x, session="a").reshape(-1, 4), again.forward_packed(batch)[:10])
    with pytest.raises(CheckpointError, match="holds a model of kind 'Grounded', not 'POCO'"):
        poco.POCO.from_pretrained(tmp_path / "model")


def test_no_windows_have_no_forecasts(cut: Split) -> None:
    model, _ = prepare(cut, CONFIG, SETTINGS)
    nothing = torch.zeros(0, dtype=torch.int32)
    batch = PackedBatch(torch.zeros(0, 12), nothing, torch.zeros(1, dtype=torch.int32), nothing.long())
    units = cut.recordings[0].units
    for one in (model.eval(), model.ground):
        assert one.forward_packed(batch).shape == (0, 4)
        assert one(torch.zeros(0, units, 12), session="a").shape == (0, units, 4)
        with pytest.raises(ShapeError, match=r"takes a tensor \[windows, .* frames\], got ndarray"):
            one(np.zeros((1, units, 12), np.float32), session="a")
        with pytest.raises(VocabularyError, match="the model knows 2 sessions: choose one"):
            one(torch.zeros(1, units, 12))


def test_the_baseline_is_the_ground_that_the_model_stands_on(cut: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = prepare(cut, GroundedConfig(12, 4), SETTINGS)
    fitted = evaluate(GroundBaseline(12, 4).fit(cut), cut, baselines=())
    monkeypatch.setattr("poco.evaluation.fit_baseline", None)  # not called
    assert evaluate(model, cut, baselines=("ground",)).baselines["ground"].score == pytest.approx(fitted.score)
    assert model.fitted_to(cut)
    other = dataclasses.replace(cut, mean=tuple(mean + 1 for mean in cut.mean))
    assert not model.fitted_to(other)
    published = split(cut.recordings, protocol="published", context=12, horizon=4)
    of_published, _ = prepare(published, GroundedConfig(12, 4), SETTINGS)
    assert of_published.fitted_to(published)
    assert not of_published.fitted_to(shorten(published, 100))  # normalised alike
    model.metadata["adaptations"] = [{}]
    assert not model.fitted_to(cut)


def test_export(cut: Split) -> None:
    model = prepare(cut, CONFIG, SETTINGS)[0].eval()
    x = torch.randn(3, 5, 12)
    exported = torch.export.export(model, (x,), {"session": "a"})
    torch.testing.assert_close(exported.module()(x, session="a"), model(x, session="a"))


def test_the_recipe() -> None:
    sizes, settings = recipe("grounded")
    assert sizes == GroundedConfig()
    assert GroundedConfig.from_dict(sizes.to_dict()) == sizes
    assert (settings.steps, settings.ema, settings.val_first) == (None, 0.99, True)
