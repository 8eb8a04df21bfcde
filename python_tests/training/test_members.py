"""poco.training.members: several seeds in one run, that ends the same however it is interrupted."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.recordings import waves

import poco
from poco import Ensemble, Run, TrainConfig, train
from poco.errors import CheckpointError, ConfigError
from poco.ground import job as ground_job
from poco.ground.grounded import GroundedConfig
from poco.training import Callback, Progress
from poco.training.folder import read_metrics

POCO_SIZES = poco.POCOConfig(
    context=12, horizon=4, segment_length=4, latents=2, width=8, heads=2, head_width=4, film_width=8
)
SIZES = {"published": POCO_SIZES, "grounded": GroundedConfig(12, 4, latents=2, width=8)}
SETTINGS = TrainConfig(steps=12, batch_size=8, val_every=4, log_every=3, seed=7, device="cpu")
RECORDINGS = [waves("a", frames=260, rate_hz=2.0), waves("b", units=3, frames=260, rate_hz=2.0)]


def trained(folder: Path | None, recipe: str = "published", seeds: int = 3, **more: Any) -> Run:
    options = {"model_config": SIZES[recipe], "train_config": SETTINGS, "progress": False, **more}
    return train(RECORDINGS, out=folder, recipe=recipe, seeds=seeds, **options)


class KillAt(Callback):
    """Ends the process, as far as the code can tell, at a step of a seed, or where the seed begins."""

    class KilledError(Exception):
        pass

    def __init__(self, seed: int, step: int | None = None) -> None:
        self.at, self.seed = (seed, step), 0

    def member(self, seed: int, number: int, of: int) -> None:
        self.seed = seed
        if self.at == (seed, None):
            raise self.KilledError

    def log(self, record: Mapping[str, Any]) -> None:
        if self.at == (record["seed"], record["step"]):
            raise self.KilledError


class Seen(Callback):
    """Which seeds took steps."""

    def __init__(self) -> None:
        self.seeds: list[int] = []
        self.messages: list[str] = []

    def log(self, record: Mapping[str, Any]) -> None:
        self.seeds.append(record["seed"])

    def message(self, text: str) -> None:
        self.messages.append(text)


def without_time(records: Any) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]


def files(folder: Path) -> dict[str, bytes]:
    """Everything that does not hold a time."""
    kept = [folder / "config.json", *folder.glob("model/*"), *folder.glob("members/*/config.json")]
    kept += folder.glob("members/*/model.safetensors")
    return {str(path.relative_to(folder)): path.read_bytes() for path in kept}


def assert_same_run(one: Path, other: Path) -> None:
    assert files(one) == files(other)
    assert without_time(read_metrics(one / "metrics.jsonl")) == without_time(read_metrics(other / "metrics.jsonl"))


@pytest.fixture(scope="module", params=list(SIZES))
def recipe(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def whole(recipe: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    trained(folder, recipe)
    return folder


def test_what_is_in_the_folder(whole: Path) -> None:
    assert json.loads((whole / "config.json").read_text())["seeds"] == 3
    for seed in (7, 8, 9):
        assert {path.name for path in (whole / "members" / str(seed)).iterdir()} == {
            "config.json", "model.safetensors", "resume.safetensors",
        }  # fmt: skip
    assert not (whole / "resume.safetensors").exists()
    metrics = read_metrics(whole / "metrics.jsonl")
    assert [m["seed"] for m in metrics if "loss" in m] == [7] * 4 + [8] * 4 + [9] * 4
    assert [m["step"] for m in metrics if m["seed"] == 8 and "val_mse" in m] == [4, 8, 12]
    log = (whole / "log.txt").read_text()
    assert log.index("seed 7 (1 of 3)") < log.index("training from step 0 to 12") < log.index("seed 8 (2 of 3)")
    made = json.loads((whole / "model" / "config.json").read_text())
    assert made["model"] == "Ensemble"
    assert (made["training"]["seed"], made["training"]["seeds"]) == (7, [7, 8, 9])
    assert [member["training"]["seed"] for member in made["config"]["members"]] == [7, 8, 9]
    assert all(member["training"]["settings"]["steps"] == 12 for member in made["config"]["members"])


def test_each_member_is_the_model_of_a_run_of_that_seed(whole: Path, recipe: str) -> None:
    run = Run.load(whole)
    assert isinstance(run.model, Ensemble)
    member = list(run.model)[1]
    alone = trained(None, recipe, seeds=1, train_config=dataclasses.replace(SETTINGS, seed=8))
    theirs = alone.model.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in member.state_dict().items())
    assert without_time(r for r in run.history if r["seed"] == 8) == [
        {"seed": 8, **record} for record in without_time(alone.history)
    ]


def test_a_run_in_memory_is_the_same(whole: Path, recipe: str) -> None:
    run, kept = trained(None, recipe), Run.load(whole)
    theirs = kept.model.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in run.model.state_dict().items())
    assert without_time(run.history) == without_time(kept.history)
    assert run.model.metadata == kept.model.metadata
    assert not run.model.training


def test_a_run_of_several_seeds_is_evaluated_with_a_figure(whole: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    shutil.copytree(whole, tmp_path / "run")
    run = Run.load(tmp_path / "run")
    evaluation = run.evaluate(RECORDINGS, baselines=("copy",))
    members = [poco.evaluate(member, run.split(RECORDINGS), baselines=()).score for member in run.model]  # type: ignore
    assert evaluation.score > sum(members) / 3  # squared error is convex
    assert (tmp_path / "run" / "figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("at", "left"),
    [
        ((7, 6), [7, 8, 9]),  # in the middle of the first
        ((8, None), [8, 9]),  # at a border
        ((8, 6), [8, 9]),
        ((9, 12), [9]),  # in the last step, before it is validated
    ],
)
def test_killed_and_resumed_is_the_same_run(
    whole: Path, recipe: str, tmp_path: Path, at: tuple[int, int | None], left: list[int]
) -> None:
    folder, seen = tmp_path / "run", Seen()
    with pytest.raises(KillAt.KilledError):
        trained(folder, recipe, callbacks=[KillAt(*at)])
    trained(folder, recipe, resume=True, callbacks=[seen])
    assert list(dict.fromkeys(seen.seeds)) == left
    assert [text for text in seen.messages if "already" in text] == [
        f"seed {seed} is trained already" for seed in (7, 8, 9) if seed not in left
    ]
    assert_same_run(folder, whole)


def test_killed_when_trained_but_not_yet_finished(
    whole: Path, recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All steps of the second seed are done; it is killed while its model is written."""
    folder, seen = tmp_path / "run", Seen()
    kind = poco.POCO if recipe == "published" else ground_job.Grounded
    real = kind.save_pretrained

    def save(self: Any, place: Path, *rest: Any) -> None:
        if Path(place).name == "8":
            (Path(place) / "model.safetensors").write_bytes(b"half")
            raise KillAt.KilledError
        real(self, place, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "save_pretrained", save)
        with pytest.raises(KillAt.KilledError):
            trained(folder, recipe)
    (folder / "members" / "8" / ".config.json.123.part").write_bytes(b"{")
    half = Run.load(folder).model
    assert isinstance(half, Ensemble)
    assert len(half) == 1
    trained(folder, recipe, resume=True, callbacks=[seen])
    assert set(seen.seeds) == {9}
    assert_same_run(folder, whole)
    assert not list(folder.rglob(".*.part"))


def test_a_run_that_is_complete_only_puts_its_model_together(whole: Path, recipe: str, tmp_path: Path) -> None:
    folder, seen = tmp_path / "run", Seen()
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "model")
    run = trained(folder, recipe, resume=True, callbacks=[seen])
    assert not seen.seeds
    assert without_time(run.history) == without_time(Run.load(whole).history)
    assert_same_run(folder, whole)


def test_the_best_of_the_first_member_so_far_is_the_model(recipe: str, tmp_path: Path) -> None:
    with pytest.raises(KillAt.KilledError):
        trained(tmp_path / "run", recipe, callbacks=[KillAt(7, 9)])
    model = Run.load(tmp_path / "run").model
    assert isinstance(model, Ensemble)
    assert len(model) == 1
    assert [member.metadata["training"]["step"] for member in model] in ([4], [8])


def test_seeds_can_be_added(whole: Path, recipe: str, tmp_path: Path) -> None:
    folder, seen = tmp_path / "run", Seen()
    trained(folder, recipe, seeds=2)
    trained(folder, recipe, resume=True, callbacks=[seen])
    assert set(seen.seeds) == {9}
    assert_same_run(folder, whole)


def test_steps_can_be_added(tmp_path: Path) -> None:
    longer = dataclasses.replace(SETTINGS, steps=20)
    trained(tmp_path / "run", seeds=2)
    with pytest.raises(KillAt.KilledError):
        trained(tmp_path / "run", seeds=2, resume=True, train_config=longer, callbacks=[KillAt(8, 15)])
    trained(tmp_path / "run", seeds=2, resume=True, train_config=longer)
    trained(tmp_path / "once", seeds=2, train_config=longer)
    assert files(tmp_path / "run") == files(tmp_path / "once")
    records = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("run", "once")]
    first, second = (sorted(without_time(one), key=lambda r: r["seed"]) for one in records)
    assert [r for r in first if "loss" in r] == [r for r in second if "loss" in r]


@pytest.mark.parametrize(
    ("before", "now", "says"),
    [
        (1, {"seeds": 2}, "seeds was 1, now 2"),
        (2, {"seeds": 1}, "seeds was 2, now 1"),
        (3, {"seeds": 2}, "seeds was 3, now 2"),
        (2, {"seeds": 2, "train_config": dataclasses.replace(SETTINGS, seed=8)}, "seed was 7, now 8"),
        (2, {"seeds": 2, "train_config": dataclasses.replace(SETTINGS, batch_size=9)}, "batch_size was 8, now 9"),
    ],
)
def test_what_cannot_change_on_resume(tmp_path: Path, before: int, now: dict[str, Any], says: str) -> None:
    folder = tmp_path / "run"
    trained(folder, seeds=before)
    kept = files(folder)
    with pytest.raises(CheckpointError, match=says):
        trained(folder, resume=True, **now)
    assert files(folder) == kept


@pytest.mark.parametrize("seeds", [0, -1])
def test_there_is_at_least_one_seed(tmp_path: Path, seeds: int) -> None:
    with pytest.raises(ConfigError, match=f"seeds must be at least 1, got {seeds}"):
        trained(tmp_path / "run", seeds=seeds)
    assert not (tmp_path / "run").exists()


def test_one_seed_is_a_run_as_ever(tmp_path: Path) -> None:
    run = trained(tmp_path / "one", seeds=1)
    train(RECORDINGS, model_config=POCO_SIZES, train_config=SETTINGS, out=tmp_path / "plain", progress=False)
    assert isinstance(run.model, poco.POCO)
    assert files(tmp_path / "one") == files(tmp_path / "plain")
    for folder in ("one", "plain"):
        assert {p.name for p in (tmp_path / folder).iterdir()} == {
            ".lock", "config.json", "log.txt", "metrics.jsonl", "model", "resume.safetensors",
        }  # fmt: skip
    assert "seeds" not in json.loads((tmp_path / "one" / "config.json").read_text())
    assert not [record for record in run.history if "seed" in record]


def test_a_run_of_several_is_replaced(tmp_path: Path) -> None:
    trained(tmp_path / "run", seeds=2)
    trained(tmp_path / "run", seeds=1, overwrite=True)
    assert not (tmp_path / "run" / "members").exists()
    assert isinstance(Run.load(tmp_path / "run").model, poco.POCO)


def test_the_ground_is_fitted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = ground_job.fit_selected, []

    def counted(*args: Any, **more: Any) -> Any:
        calls.append(1)
        return real(*args, **more)

    monkeypatch.setattr(ground_job, "fit_selected", counted)
    trained(None, "grounded")
    assert len(calls) == 1


def test_a_recording_that_the_members_know_is_told(whole: Path) -> None:
    new = dataclasses.replace(RECORDINGS[0], session="new")
    with pytest.warns(RuntimeWarning, match="same activity as session 'a'"):
        poco.adapt(whole, new, steps=1)


def test_progress_names_the_seed(capsys: pytest.CaptureFixture[str]) -> None:
    trained(None, seeds=2, callbacks=[Progress("fitting", seconds_between=0.0)])
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("fitting, seed 7 (1 of 2): step 3/12")
    assert lines[4].startswith("fitting, seed 8 (2 of 2): step 3/12")
    assert "validation" not in lines[4]


def test_tensorboard_keeps_seeds_apart(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trained(None, seeds=2, callbacks=[poco.training.TensorBoard(tmp_path)])
    for seed in (7, 8):
        events = EventAccumulator(str(tmp_path / f"seed-{seed}"))
        events.Reload()
        assert [e.step for e in events.Scalars("validation/mse")] == [4, 8, 12]
