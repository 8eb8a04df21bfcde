"""Signals and kill -9, in processes of their own."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers.processes import environment

from poco import Run
from poco.files import METRICS, RESUME
from poco.training.checkpoint import load_checkpoint
from poco.training.folder import read_metrics

SCRIPT = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
import poco
from poco.errors import PocoError
from poco.training import Callback, TrainConfig, train
from helpers.recordings import waves

class KillAt(Callback):
    def log(self, record):
        if (record["step"], record.get("seed", 0)) == ({kill}, {seed}):
            os.kill(os.getpid(), {signal})

sizes = poco.{sizes}
settings = TrainConfig(steps={steps}, batch_size=8, val_every=6, log_every=1, checkpoint_seconds={every}, device="cpu")
try:
    train([waves("a", frames=200), waves("b", frames=200)], model_config=sizes, train_config=settings, out={out!r},
          resume=True, progress=False, callbacks=[KillAt()], seeds={seeds})
except PocoError as error:
    print(error)
    sys.exit(getattr(error, "exit_code", 2))
"""

POCO = "POCOConfig(context=12, horizon=4, segment_length=4, latents=2, width=8, heads=2, head_width=4, film_width=8)"
GROUNDED = "GroundedConfig(context=12, horizon=4, latents=2, width=8)"


def command(
    out: Path,
    kill: int = 0,
    number: int = 9,
    steps: int = 40,
    every: float = 30.0,
    seeds: int = 1,
    seed: int = 0,
    sizes: str = POCO,
) -> list[str]:
    """Kills itself by the signal ``number`` at step ``kill`` of the seed ``seed``."""
    values = {"kill": kill, "signal": int(number), "steps": steps, "every": every, "seeds": seeds, "seed": seed}
    code = SCRIPT.format(tests=str(Path(__file__).resolve().parents[1]), out=str(out), sizes=sizes, **values)
    return [sys.executable, "-c", code]


def run(*args: object, **more: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*args, **more),  # type: ignore[arg-type]
        capture_output=True, text=True, check=False, timeout=120, env=environment(),
    )  # fmt: skip


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    places = [folder, *sorted(folder.glob("members/*"))]
    found = [load_checkpoint(place / RESUME, "training").tensors for place in places if (place / RESUME).exists()]
    assert found
    return {f"{number} {name}": tensor for number, one in enumerate(found) for name, tensor in one.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    done = run(folder)
    assert done.returncode == 0, done.stderr
    return folder


def assert_same_run(one: Path, other: Path) -> None:
    ours, theirs = tensors(one), tensors(other)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    best, expected = Run.load(one), Run.load(other)
    for a, b in zip(best.model.state_dict().values(), expected.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert best.finished
    assert expected.finished
    without_time = [[{k: v for k, v in r.items() if k != "seconds"} for r in run.history] for run in (best, expected)]
    assert without_time[0] == without_time[1]


def test_killed_at_random_steps_and_resumed_is_the_same_run(whole: Path, tmp_path: Path) -> None:
    first, second = sorted(random.sample(range(1, 40), 2))
    folder = tmp_path / "run"
    every = random.choice([0.001, 30.0])  # a checkpoint after every step, or at validations only
    for step in (first, second):
        killed = run(folder, step, signal.SIGKILL, every=every)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert read_metrics(folder / METRICS)[-1]["step"] == step
    done = run(folder, every=every)
    assert done.returncode == 0, done.stderr
    print(f"killed at steps {first} and {second}, checkpoints every {every} s")
    assert_same_run(folder, whole)


def test_killed_at_a_random_moment_and_resumed_is_the_same_run(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = subprocess.Popen(command(folder, every=0.001), env=environment())
    deadline = time.monotonic() + 100
    while not (folder / RESUME).exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(random.uniform(0, 0.4))
    process.kill()
    process.wait()
    done = run(folder, every=0.001)
    assert done.returncode == 0, done.stderr
    assert_same_run(folder, whole)
    assert not list(folder.glob(".*.part*"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_the_state_and_exits(whole: Path, tmp_path: Path, number: int, code: int) -> None:
    folder = tmp_path / "run"
    stopped = run(folder, 9, number)
    assert stopped.returncode == code, stopped.stderr
    assert f"interrupted at step 9 of 40: the state is saved in {folder / RESUME}" in stopped.stdout
    assert "Traceback" not in stopped.stderr
    assert not Run.load(folder).finished
    if number == signal.SIGINT:
        done = run(folder)
        assert done.returncode == 0, done.stderr
        assert_same_run(folder, whole)


@pytest.fixture(scope="module")
def whole_of_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "two"
    done = run(folder, steps=12, seeds=2)
    assert done.returncode == 0, done.stderr
    return folder


def test_a_signal_in_the_last_step_of_a_seed_ends_the_run_too(whole_of_two: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    stopped = run(folder, 12, signal.SIGTERM, steps=12, seeds=2)
    assert stopped.returncode == 143, stopped.stderr
    assert f"interrupted at step 12 of 12: the state is saved in {folder / 'members' / '0' / RESUME}" in stopped.stdout
    assert not (folder / "members" / "1").exists()
    assert not Run.load(folder).finished
    done = run(folder, steps=12, seeds=2)
    assert done.returncode == 0, done.stderr
    assert_same_run(folder, whole_of_two)


@pytest.mark.parametrize("sizes", [POCO, GROUNDED])
def test_a_signal_in_the_last_step_ends_the_run(tmp_path: Path, sizes: str) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "run"
    done = run(whole, steps=6, sizes=sizes)
    assert done.returncode == 0, done.stderr
    stopped = run(folder, 6, signal.SIGTERM, steps=6, sizes=sizes)
    assert stopped.returncode == 143, stopped.stderr
    assert not Run.load(folder).finished
    done = run(folder, steps=6, sizes=sizes)
    assert done.returncode == 0, done.stderr
    assert_same_run(folder, whole)


def test_the_second_seed_killed_at_a_random_step_and_resumed_is_the_same_run(
    whole_of_two: Path, tmp_path: Path
) -> None:
    folder, step, every = tmp_path / "run", random.randrange(1, 12), random.choice([0.001, 30.0])
    killed = run(folder, step, signal.SIGKILL, steps=12, seeds=2, every=every, seed=1)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert read_metrics(folder / METRICS)[-1]["seed"] == 1
    done = run(folder, steps=12, seeds=2, every=every)
    assert done.returncode == 0, done.stderr
    print(f"killed at step {step}, checkpoints every {every} s")
    assert_same_run(folder, whole_of_two)
