"""poco.scoreboard: each cell is made once, of these recordings, and is shown."""

from __future__ import annotations

import csv
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from poco import scoreboard
from poco.baselines import Copy
from poco.data.read import read
from poco.data.simulate import simulate
from poco.data.splits import Split
from poco.errors import CheckpointError, ConfigError, DataError
from poco.intervals import interval
from poco.training import DivergedError

RECORDINGS = simulate(2, units=4, frames=1000)


def data_set(folder: Path, place: int = 0) -> Path:
    """A folder with one of the recordings."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "a.npy", RECORDINGS[place].activity)
    (folder / "dataset.toml").write_text('[activity]\norientation = "units x frames"\nrate_hz = 20.0\n')
    return folder


def test_the_scoreboard_writes_scores_of_single_steps(tmp_path: Path) -> None:
    pytest.importorskip("typer", reason="the command line needs the extra 'cli'")
    pytest.importorskip("matplotlib", reason="needs the extra 'plots'")
    from poco.__main__ import run

    data_set(tmp_path / "data" / "some")
    assert run(["bench-data", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--only", "copy, ridge"]) == 0
    with (tmp_path / "out" / "steps.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 16  # protocols, forecasters, steps
    assert {row["score"] for row in rows if row["forecaster"] == "copy"} == {"0.0"}
    for protocol in ("leak-free", "published"):
        assert (tmp_path / "out" / f"scores-{protocol}.png").read_bytes().startswith(b"\x89PNG")


def test_all_else_has_a_table_when_a_forecaster_diverges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("typer", reason="the command line needs the extra 'cli'")
    from poco.__main__ import run

    whole = scoreboard.fit

    def fit(name: str, *options: Any) -> Any:
        if name == "nlinear":
            raise DivergedError("the training loss is not finite")
        return whole(name, *options)

    monkeypatch.setattr(scoreboard, "fit", fit)
    data_set(tmp_path / "data" / "some")
    out = tmp_path / "out"
    bench = ["bench-data", str(tmp_path / "data"), "--out", str(out), "--only", "copy,nlinear,ridge", "--seeds", "1"]
    assert run(bench) != 0
    said = capsys.readouterr()
    assert "2 cells could not be made: some, leak-free, nlinear, seed 0: the training loss is not finite" in said.err
    assert "| ridge |" in said.out
    assert "| ridge |" in (out / "scores.md").read_text()
    assert len((out / "scores.csv").read_text().splitlines()) == 1 + 2 * 2
    assert (out / "steps.csv").exists()


@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_title_of_a_scoreboard_lies_within_it(count: int) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra 'plots'")
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from poco.plots.board import board_figure

    some = {"copy": (0.0, None), "nlinear": (0.2, 3.0)}
    title = "Score on the test part, leak-free protocol; mean over seeds and its 95% interval"
    figure = board_figure({f"data {n}": some for n in range(count)}, tuple(some), title)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    (text,) = figure.texts
    assert text.get_window_extent().x1 <= figure.bbox.x1
    assert figure.axes[0].get_xlim()[1] < 1.1  # an interval over seeds goes on, a score does not


def test_the_scoreboard_says_what_recordings_warn_of(tmp_path: Path) -> None:
    folder = data_set(tmp_path / "data" / "some")
    description = folder / "dataset.toml"
    description.write_text(f"neural = false\n{description.read_text()}")
    lines: list[str] = []
    scoreboard.run([folder], tmp_path / "out", forecasters=("copy",), protocols=("published",), report=lines.append)
    assert lines[0].startswith("some: warning: session 'a': ")
    assert "neural" in lines[0]


def test_a_control_is_marked(tmp_path: Path) -> None:
    control, other = data_set(tmp_path / "gfp"), data_set(tmp_path / "worms", 1)
    description = control / "dataset.toml"
    description.write_text("neural = false\n" + description.read_text())
    cells = scoreboard.run([control, other], tmp_path / "out", forecasters=["copy"], protocols=["leak-free"])
    table = scoreboard.table(cells)
    assert "| leak-free | gfp (control) | worms | seconds, median |" in table
    assert "A control is no neural activity: its scores never count." in table
    scoreboard.write_csv(cells, tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open() as file:
        assert [row["data"] for row in csv.DictReader(file)] == ["gfp (control)", "worms"]


def test_scoreboard_makes_each_cell_once(tmp_path: Path) -> None:
    folder = data_set(tmp_path / "data" / "some")
    lines: list[str] = []
    for _ in range(2):
        cells = scoreboard.run(
            [folder], tmp_path / "out", forecasters=("copy", "nlinear"), seeds=2, steps=2, report=lines.append
        )
    assert len(cells) == len(lines) == 2 * (1 + 2)
    assert all(cell["score"] == 0 for cell in cells if cell["forecaster"] == "copy")
    assert "| nlinear |" in scoreboard.table(cells)
    scoreboard.write_csv(cells, tmp_path / "scores.csv")
    assert len((tmp_path / "scores.csv").read_text().splitlines()) == 7
    kept = json.loads((tmp_path / "out" / "some--published--0--nlinear.json").read_text())
    assert kept["parameters"] == 48 * 16 + 16
    with pytest.raises(ConfigError, match="made with steps 2, now 3"):
        scoreboard.run([folder], tmp_path / "out", forecasters=("nlinear",), seeds=1, steps=3)
    assert kept["interval"][0] < kept["score"] < kept["interval"][1]
    assert 2 <= kept["blocks"] <= 136 / 64  # 136 windows
    assert list(interval(scoreboard.resampled([kept])[0], most=1.0) or ()) == pytest.approx(kept["interval"], abs=1e-4)
    with (tmp_path / "scores.csv").open() as file:
        assert {row["blocks"] for row in csv.DictReader(file)} >= {str(kept["blocks"])}
    one = {**kept, "forecaster": "of-no-scoreboard"}
    assert [line.split(" |")[0] for line in scoreboard.table([one, kept]).splitlines()[2:4]] == [
        "| nlinear",
        "| of-no-scoreboard",
    ]
    shown = scoreboard.table(scoreboard.load(tmp_path / "out"))
    del kept["window_error"], kept["copy_window_error"], kept["block"]
    (tmp_path / "out" / "some--published--0--nlinear.json").write_text(json.dumps(kept))
    assert scoreboard.table(scoreboard.load(tmp_path / "out")) == shown


def test_gradient_steps_may_be_of_bfloat16(tmp_path: Path) -> None:
    folder, only = data_set(tmp_path / "some"), ("mean", "mlp", "poco", "grounded")
    options: dict[str, Any] = {"protocols": ("published",), "seeds": 1, "steps": 5, "batch": 4, "forecasters": only}
    scores = {}
    for precision in ("float32", "bf16"):
        cells = scoreboard.run([folder], tmp_path / precision, precision=precision, **options)
        assert {cell["forecaster"]: cell["precision"] for cell in cells} == {
            **dict.fromkeys(only[1:], precision),
            "mean": None,
        }
        scores[precision] = {cell["forecaster"]: cell["score"] for cell in cells}
    assert scores["bf16"] == pytest.approx(scores["float32"], abs=0.02)
    assert scores["bf16"]["mlp"] != scores["float32"]["mlp"]
    with pytest.raises(ConfigError, match="made with precision bf16, now float32"):
        scoreboard.run([folder], tmp_path / "bf16", **options)
    with pytest.raises(ConfigError, match="precision must be one of float32, bf16, got 'half'"):
        scoreboard.run([folder], tmp_path / "none", precision="half", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "none").exists()


def test_forecasters_of_ones_own(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra 'plots'")
    folder, out, seeds = data_set(tmp_path / "some"), tmp_path / "out", []

    def mine(cut: Split, seed: int) -> Copy:
        seeds.append(seed)
        return Copy(cut.context, cut.horizon)

    options: dict[str, Any] = {"forecasters": ("mean",), "own": {"mine": mine}, "protocols": ("leak-free",), "seeds": 2}
    cells = scoreboard.run([str(folder)], str(out), **options)
    assert [(cell["forecaster"], cell["seed"]) for cell in cells] == [("mean", 0), ("mine", 0), ("mine", 1)]
    assert (seeds, cells[1]["score"], cells[1]["steps"]) == ([0, 1], 0, None)
    assert scoreboard.run([folder], out, **options) == cells
    assert seeds == [0, 1]
    assert "| mine | 0.000 ± 0.000 |" in scoreboard.table(cells)
    (figure,) = scoreboard.draw(cells, out)
    assert figure.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ConfigError, match="there is a forecaster 'ridge' already"):
        scoreboard.run([folder], out, own={"ridge": mine})

    def diverging(cut: Split, seed: int) -> Copy:
        raise DivergedError("the training loss is not finite")

    both = r"^2 cells could not be made: some, leak-free, wild, seed 0: the training loss is not fin.*; some, published"
    with pytest.raises(DivergedError, match=both):
        scoreboard.run([folder], out / "two", forecasters=("copy",), seeds=1, own={"wild": diverging, "mine": mine})
    assert [cell["forecaster"] for cell in scoreboard.load(out / "two")] == ["copy", "mine"] * 2
    with pytest.raises(ConfigError, match=r"got a function"):
        scoreboard.run([folder], out, forecasters=(), own={"none": lambda cut, seed: lambda batch: batch.x})


def test_cells_say_which_recordings_they_are_of(tmp_path: Path) -> None:
    folder, out = data_set(tmp_path / "some"), tmp_path / "out"
    (cell,) = scoreboard.run([folder], out, forecasters=("copy",), protocols=("published",))
    data_set(folder, 1)
    with pytest.raises(ConfigError, match=r"some--published--0--copy\.json was made of other recordings: take another"):
        scoreboard.run([folder], out, forecasters=("copy",), protocols=("published",))
    del cell["recordings"]  # as cells of before
    (out / "some--published--0--copy.json").write_text(json.dumps(cell))
    assert scoreboard.run([folder], out, forecasters=("copy",), protocols=("published",)) == [cell]
    (out / "some--published--0--copy.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"cannot read the results in .*copy\.json: .*: delete this file"):
        scoreboard.load(out)
    with pytest.raises(CheckpointError, match=r"cannot read the results in .*copy\.json: .*: delete this file"):
        scoreboard.run([folder], out, forecasters=("copy",), protocols=("published",))


def test_each_data_set_is_read_once_and_told_of_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def count(folder: Path, **options: Any) -> Any:
        seen.append(folder.name)
        if folder.name == "bad":
            raise DataError("it is damaged")
        return read(folder, **options)

    monkeypatch.setattr(sys.modules["poco.data.read"], "read", count)
    folders = [data_set(tmp_path / "data" / name) for name in ("bad", "one", "short", "two")]
    np.save(folders[2] / "a.npy", RECORDINGS[0].activity[:, :50])
    lines: list[str] = []
    cells = scoreboard.run(folders, tmp_path / "out", forecasters=("mean", "copy"), report=lines.append)
    assert seen == ["bad", "one", "short", "two"]
    assert {cell["data"] for cell in cells} == {"one", "two"}
    told = [line.split(":")[0] for line in lines]
    each = [f"{protocol}, {name}, seed 0" for protocol in scoreboard.PROTOCOLS for name in ("mean", "copy")]
    assert told == [
        *("bad", *(f"one, {what}" for what in each)),
        *(*(f"short, {protocol}" for protocol in scoreboard.PROTOCOLS), *(f"two, {what}" for what in each)),
    ]
    assert lines[0] == "bad: left out, it is damaged"


def test_a_folder_without_data_sets_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("typer", reason="the command line needs the extra 'cli'")
    from poco.__main__ import run

    flat, out = data_set(tmp_path / "flat"), tmp_path / "out"
    bench = ["bench-data", str(tmp_path), "--out", str(out)]
    assert run(["bench-data", str(flat), "--out", str(out)]) == 2
    assert f"one for each data set: put these files into {flat / 'NAME'}/" in capfd.readouterr().err
    assert run([*bench, "--only", " , "]) == 2
    assert "--only names nothing" in capfd.readouterr().err
    assert not out.exists()
    assert run([*bench, "--only", "copy, mean", "--data", " flat", "--protocols", "published ,"]) == 0
    assert {path.name for path in out.glob("*.json")} == {
        f"flat--published--0--{name}.json" for name in ("copy", "mean")
    }
    (tmp_path / "bad").mkdir()
    np.save(tmp_path / "bad" / "a.npy", RECORDINGS[0].activity)
    capfd.readouterr()
    assert run([*bench, "--only", "copy", "--data", "bad,flat"]) == 0
    told = capfd.readouterr().out.strip().splitlines()
    assert told[0].startswith("bad: left out, ")
    assert told[0].endswith("(there are no such options here: write it in dataset.toml beside the recordings)")
    assert told[-1] == told[0]  # once more, after the table
    np.save(flat / "a.npy", RECORDINGS[0].activity[:, :50])
    capfd.readouterr()
    assert run([*bench, "--data", "flat", "--out", str(tmp_path / "none")]) == 2
    assert "none of the data sets could be used; flat, leak-free: left out, session 'a'" in capfd.readouterr().err


def test_what_makes_no_scoreboard_is_refused(tmp_path: Path) -> None:
    one, other = data_set(tmp_path / "one" / "some"), data_set(tmp_path / "other" / "some", 1)
    with pytest.raises(ConfigError, match=r"two data sets are called 'some', .*one/some and .*other/some: rename one"):
        scoreboard.run([one, other], tmp_path / "out", forecasters=("copy",))
    for name in ("seeds", "steps", "batch"):
        with pytest.raises(ConfigError, match=f"{name} must be at least 1, got 0"):
            scoreboard.run([one], tmp_path / "out", **{name: 0})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_scores_that_are_not_finite_are_kept_and_shown(
    value: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Blown(Copy):
        def forward_packed(self, batch: Any) -> torch.Tensor:
            return super().forward_packed(batch) + value

    def blown(name: str, data: Split, *options: int) -> Copy:
        return Blown(data.context, data.horizon)

    monkeypatch.setattr(scoreboard, "fit", blown)
    lines: list[str] = []
    options: dict[str, Any] = {"forecasters": ("nlinear",), "protocols": ("published",), "report": lines.append}
    for _ in range(2):
        cells = scoreboard.run([data_set(tmp_path / "some")], tmp_path / "out", **options)
    assert len(lines) == 3
    assert [str(cell["score"]) for cell in cells] == [str(-value)] * 3
    assert cells[0]["interval"] is None
    assert f"| nlinear | {-value} |" in scoreboard.table(cells)
    scoreboard.write_csv(cells, tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open() as file:
        assert [(row["score"], row["low"]) for row in csv.DictReader(file)] == [(str(-value), "")] * 3
    pytest.importorskip("matplotlib", reason="figures need the extra 'plots'")
    scoreboard.draw(cells, tmp_path)


def test_the_ground_has_as_many_parameters_as_a_report_says(tmp_path: Path) -> None:
    (cell,) = scoreboard.run(
        [data_set(tmp_path / "some")], tmp_path / "out", forecasters=("ground",), protocols=("published",)
    )
    assert cell["parameters"] > 2 * 48 * 16
