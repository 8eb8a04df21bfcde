"""Training settings, the learning rate, and what counts as the same run."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from poco.data.recording import Recording
from poco.data.splits import split
from poco.errors import ConfigError
from poco.ground.grounded import GroundedConfig
from poco.nn import POCOConfig
from poco.training import TrainConfig, recipe, recipes
from poco.training.loop import config_changes
from poco.training.schedule import learning_rate


def test_defaults_are_the_published_ones() -> None:
    config = TrainConfig()
    assert (config.batch_size, config.learning_rate, config.weight_decay, config.clip) == (64, 3e-4, 1e-4, 5.0)
    assert config.amsgrad
    assert config.val_every == 100
    assert config.for_sessions(1).steps == 5_000
    assert config.for_sessions(2).steps == 10_000
    assert TrainConfig(steps=7).for_sessions(2).steps == 7
    sizes, settings = recipe("published")
    assert settings == config
    assert (sizes.width, sizes.latents, sizes.ffn_dropout, sizes.latent_dropout) == (128, 8, 0.2, 0.4)
    with pytest.raises(ConfigError, match="no recipe 'best': the recipes are grounded, published"):
        recipe("best")


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"learning_rate": float("nan")}, {"clip": -1.0},
        {"ema": 1.0}, {"patience": 0}, {"schedule": "step"}, {"precision": "fp8"}, {"val_every": 0}, {"warmup": -1},
        {"weight_decay": -1.0}, {"seed": -1}, {"loss": "mape"}, {"weight_decay": float("inf")},
        {"weight_decay": float("nan")}, {"clip": float("inf")}, {"clip": float("nan")}, {"ema": float("nan")},
        {"checkpoint_seconds": float("nan")},
    ],
)  # fmt: skip
def test_impossible_settings(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        TrainConfig(**wrong)  # type: ignore[arg-type]


def test_a_learning_rate_without_bounds_is_refused_in_words() -> None:
    with pytest.raises(ConfigError, match="learning_rate must be a finite number above 0, got inf"):
        TrainConfig(learning_rate=float("inf"))


def test_numbers_of_numpy_are_plain_ones() -> None:
    config = TrainConfig(steps=np.int64(5), learning_rate=np.float32(0.5))  # type: ignore[arg-type]
    assert json.loads(json.dumps(config.to_json())) == TrainConfig(steps=5, learning_rate=0.5).to_json()
    json.dumps(GroundedConfig(context=np.int64(9), own_means=[np.int64(3)]).to_dict())  # type: ignore[arg-type]
    json.dumps(POCOConfig(context=np.int64(32)).to_dict())  # type: ignore[arg-type]


def test_settings_survive_json() -> None:
    config = TrainConfig(steps=3, ema=0.9, clip=None)
    assert TrainConfig.from_json(config.to_json()) == config
    with pytest.raises(ConfigError, match="no training setting 'lr'"):
        TrainConfig.from_json({"lr": 1.0})
    with pytest.raises(ConfigError, match="steps must be a whole number or none, got 'many'"):
        TrainConfig.from_json({"steps": "many"})


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert TrainConfig(device="cpu").torch_device().type == "cpu"
    with pytest.raises(ConfigError, match="not a torch device"):
        TrainConfig(device="gpu7").torch_device()
    with pytest.raises(ConfigError, match="nothing is trained on device 'meta': use 'auto', 'cpu' or 'cuda'"):
        TrainConfig(device="meta").torch_device()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert TrainConfig(device="cuda:1").torch_device().index == 1
    with pytest.raises(ConfigError, match="'cuda:2' was asked for, but torch sees 2 GPUs here"):
        TrainConfig(device="cuda:2").torch_device()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ConfigError, match="torch sees no GPU here"):
        TrainConfig(device="cuda").torch_device()


def test_warmup_and_cosine() -> None:
    config = TrainConfig(steps=110, warmup=10, schedule="cosine", learning_rate=1.0)
    assert learning_rate(config, 1) == pytest.approx(0.1)
    assert learning_rate(config, 10) == pytest.approx(1.0)
    assert learning_rate(config, 60) == pytest.approx(0.5)
    assert learning_rate(config, 110) == pytest.approx(0.0)
    constant = dataclasses.replace(config, schedule="constant")
    assert learning_rate(constant, 5) == pytest.approx(0.5)
    assert learning_rate(constant, 110) == 1.0


def test_what_may_change_on_resume() -> None:
    config = TrainConfig(steps=100)
    more = dataclasses.replace(config, steps=200, log_every=1, checkpoint_seconds=1.0, device="cpu")
    assert config_changes(config, more) == []
    assert config_changes(config, dataclasses.replace(config, seed=1, steps=50)) == [
        "steps was 100, now 50",
        "seed was 0, now 1",
    ]
    cosine = dataclasses.replace(config, schedule="cosine")
    assert config_changes(cosine, dataclasses.replace(cosine, steps=200)) == ["steps was 100, now 200"]


def test_a_recipe_and_its_kind_of_model() -> None:
    assert recipes.of(None) == "grounded"
    assert recipes.of(POCOConfig()) == "published"
    assert recipes.of(GroundedConfig(), "grounded") == "grounded"
    with pytest.raises(ConfigError, match="a POCOConfig belongs to the recipe 'published', not to 'grounded'"):
        recipes.of(POCOConfig(), "grounded")
    with pytest.raises(ConfigError, match="must be a GroundedConfig or a POCOConfig, got dict"):
        recipes.of({"context": 24})  # type: ignore[arg-type]


@pytest.mark.parametrize(("frames", "steps"), [(600, 800), (12000, 1400), (60000, 3200)])
def test_steps_grow_with_the_windows(frames: int, steps: int) -> None:
    recording = Recording(np.random.default_rng(0).normal(size=(2, frames)), "a")
    cut = split([recording])
    settings = recipes.complete("grounded", recipe("grounded")[1], cut)
    assert (settings.steps, settings.batch_size, settings.val_stride) == (steps, 16, 1)
    settings = recipes.complete("published", recipe("published")[1], cut)
    assert (settings.steps, settings.batch_size, settings.val_stride) == (5000, 64, 1)


@pytest.mark.parametrize(("units", "windows", "stride"), [(2000, 16, 1), (8000, 4, 2), (40000, 2, 6)])
def test_a_step_has_fewer_windows_where_units_are_many(units: int, windows: int, stride: int) -> None:
    cut = split([Recording(np.random.default_rng(0).normal(size=(units, 1000)).astype(np.float32), "a")])
    settings = recipes.complete("grounded", recipe("grounded")[1], cut)
    assert (settings.batch_size, settings.val_stride) == (windows, stride)
    given = dataclasses.replace(recipe("grounded")[1], batch_size=16, val_stride=1, steps=7)
    assert recipes.complete("grounded", given, cut) == given
    assert recipes.bounded(given, cut, most=64) == given
