"""poco.studies.zapbench: the benchmark's cut and error, by hand on small recordings."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch

from poco import studies
from poco.baselines import Copy
from poco.data.recording import Recording
from poco.data.simulate import simulate
from poco.errors import ConfigError
from poco.published import zapbench as benchmark
from poco.studies import zapbench
from poco.training import TrainConfig


def fish(units: int = 3) -> Recording:
    """A recording with the conditions of the benchmark; what it does in each is noise of another size."""
    frames = benchmark.BORDERS[-1]
    size = np.repeat(np.arange(1.0, 10.0), np.diff(benchmark.BORDERS))
    activity = np.random.default_rng(0).standard_normal((units, frames)) * size
    return Recording(activity, "zapbench", dataset="zapbench", stretches=tuple(itertools.pairwise(benchmark.BORDERS)))


def test_the_cut_is_the_benchmarks() -> None:
    recording = fish()
    for context in (4, 256):
        data = zapbench.cut([recording], context)
        trained = [name for name in benchmark.CONDITIONS if name != "taxis"]
        for part in ("train", "val", "test"):
            assert data.segments[part][0] == tuple(benchmark.parts(name, context)[part] for name in trained)
        held = zapbench.cut([recording], context, held_out=True)
        assert held.segments == {"train": ((),), "val": ((),), "test": ((benchmark.parts("taxis", context)["test"],),)}
        # nothing is normalised
        assert not data.mean[0].any()
        assert (data.std[0] == 1).all()


def test_absolute_errors_by_hand() -> None:
    recording = fish()
    data = zapbench.cut([recording], 4)
    found = zapbench.absolute_errors(Copy(4, 32), data)
    assert list(found) == [name for name in benchmark.CONDITIONS if name != "taxis"]
    start, stop = benchmark.parts("flash", 4)["test"]
    last = range(start + 3, stop - 32)  # last frames of the contexts
    for ahead in (1, 32):
        expected = np.abs(recording.activity[:, np.array(last)] - recording.activity[:, np.array(last) + ahead]).mean()
        assert found["flash"][ahead - 1] == pytest.approx(expected, rel=1e-5)
    assert benchmark.mean_errors(found)[0] == pytest.approx(np.mean([e[0] for e in found.values()]))


def test_the_study(tmp_path: Path) -> None:
    study = studies.load("zapbench")
    lines: list[str] = []
    cells = studies.run(study, tmp_path / "fish", [fish()], reduced=True, report=lines.append)
    assert {(c["forecaster"], c["value"]) for c in cells} == {
        (name, context) for name in ("poco", "tsmixer") for context in ("context 4", "context 256")
    }
    assert [cell["value"] for cell in studies.cells(tmp_path / "fish")] == ["context 4"] * 2 + ["context 256"] * 2
    for cell in cells:
        assert cell["protocol"] == "zapbench"
        assert set(cell["mae_by_condition"]) == set(benchmark.CONDITIONS)
        assert len(cell["mae_per_step"]) == 32
        kept = [errors for name, errors in cell["mae_by_condition"].items() if name != "taxis"]
        np.testing.assert_allclose(cell["mae_per_step"], np.mean(kept, axis=0))
    table = studies.table(cells).splitlines()
    assert table[0] == "| MAE | forecaster | 1 | 4 | 8 | 16 | 32 | seeds |"
    first = cells[0]
    assert table[2].startswith(f"| {first['value']} | {first['forecaster']} | {first['mae_per_step'][0]:.4f} |")
    studies.steps.write_csv(cells, tmp_path / "steps.csv")
    assert (tmp_path / "steps.csv").read_text().splitlines()[0].endswith("step,mae,score")


def test_passes_over_the_windows_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from poco.training import trainer

    seen = []

    def record(model: object, data: object, settings: TrainConfig, **options: object) -> None:
        seen.append(settings)

    monkeypatch.setattr(trainer, "fit", record)
    study = dataclasses.replace(studies.load("zapbench"), forecasters=("poco",))
    recordings = simulate(1, units=2, frames=900)
    studies.run(dataclasses.replace(study, epochs=2), tmp_path, recordings, seeds=1)
    windows = [len(zapbench.cut(recordings, context).windows("train")) for context in (4, 256)]
    assert [s.steps for s in seen] == [2 * -(-count // 8) for count in windows]
    assert {(s.loss, s.batch_size) for s in seen} == {("mae", 8)}


def test_contexts_that_do_not_fit_are_left_out(tmp_path: Path) -> None:
    lines: list[str] = []
    study = dataclasses.replace(studies.load("zapbench"), forecasters=("tsmixer",))
    cells = studies.run(study, tmp_path, simulate(1, units=2, frames=400), reduced=True, report=lines.append)
    assert [cell["value"] for cell in cells] == ["context 4"]
    assert "context 256: left out, 'animal-1/1' has no window of 256 + 32 frames for train" in lines[0]
    with pytest.raises(ConfigError, match="'zapbench' does not fit these recordings: 'animal-1/1' has no window"):
        studies.run(study, tmp_path / "no", simulate(1, units=2, frames=100), reduced=True)


def test_what_is_forecast_is_not_normalised() -> None:
    torch.manual_seed(0)
    recordings = simulate(1, units=2, frames=900)
    louder = [dataclasses.replace(r, activity=r.activity * 3) for r in recordings]
    errors = [zapbench.absolute_errors(Copy(4, 32), zapbench.cut(some, 4)) for some in (recordings, louder)]
    np.testing.assert_allclose(errors[1]["animal-1/1"], 3 * np.array(errors[0]["animal-1/1"]), rtol=1e-5)
