"""A small folder of recordings, a small run trained on it, and a way to call the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("typer", reason="the command line needs the extra 'cli'")

from poco.__main__ import run
from poco.data.simulate import simulate

DESCRIPTION = '[activity]\nkey = "activity"\norientation = "units x frames"\nrate_hz = 20.0\n'
UNITS, FRAMES = 8, 400


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def poco(capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Runs the command line in this process."""

    def call(*arguments: object) -> Result:
        capfd.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Result(code, captured.out, captured.err)

    return call


def write_recordings(folder: Path, sessions: int = 2) -> Path:
    """NPZ files with a description beside them."""
    folder.mkdir(parents=True)
    for recording in simulate(sessions, UNITS, FRAMES, seed=3):
        np.savez(folder / f"{recording.session}.npz", activity=recording.activity)
    (folder / "dataset.toml").write_text(DESCRIPTION)
    return folder


@pytest.fixture(scope="session")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two sessions."""
    return write_recordings(tmp_path_factory.mktemp("cli") / "fish")


@pytest.fixture(scope="session")
def trained(recordings: Path) -> Path:
    """A run on the two sessions, trained for a few steps by a small model."""
    from poco.data.read import read
    from poco.nn import POCOConfig
    from poco.training import TrainConfig, train

    out = recordings.parent / "run"
    train(
        read(recordings),
        model_config=POCOConfig(
            context=12, horizon=4, segment_length=6, latents=3, width=8, heads=2, head_width=8, film_width=8
        ),
        train_config=TrainConfig(steps=8, batch_size=8, val_every=4, log_every=2, device="cpu"),
        out=out,
        progress=False,
        source={"path": str(recordings), "options": {}},
    )
    return out
