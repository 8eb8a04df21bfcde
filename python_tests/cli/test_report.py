"""``poco report``: of what ``poco train`` and ``poco adapt`` wrote."""

from __future__ import annotations

import html
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from poco.data.simulate import simulate

pytest.importorskip("jinja2", reason="needs the extra 'report'")
pytest.importorskip("umap", reason="needs the extra 'embed'")


def commands(page: Path) -> list[list[str]]:
    """What a page says is to be typed to make its runs again."""
    found = re.findall(r"<h3>Again</h3>\s*<pre>(.*?)</pre>", page.read_text(), re.DOTALL)
    return [shlex.split(line) for text in found for line in html.unescape(text).splitlines()]


def test_a_trained_and_an_adapted_model(poco, trained: Path, recordings: Path, tmp_path: Path) -> None:
    new = tmp_path / "new" / "stranger.npz"
    new.parent.mkdir()
    (new.parent / "dataset.toml").write_text((recordings / "dataset.toml").read_text())
    np.savez(new, activity=simulate(1, 5, 400, seed=9)[0].activity)
    adapted, out = tmp_path / "adapted", tmp_path / "report"
    settings = ("--steps", 4, "--frames", 200, "--patience", 0, "--lr", 0.01, "--seed", 5)
    done = poco("adapt", trained, new, "--out", adapted, *settings, "--json")
    assert done.code == 0, done.err
    before = done.json
    assert before["settings"]["learning_rate"] == 0.01
    assert 0 <= before["kept_step"] <= 4
    done = poco("report", trained, adapted, "--out", out, "--json")
    assert done.code == 0, done.err
    assert "scoring it; nlinear and mlp to compare with are trained, this once" in done.err
    assert done.json["report"] == str(out / "report.html")
    text = (out / "report.html").read_text()
    assert "2-adaptation" in text
    assert "cannot be told from" in text or "is ahead of" in text or "is behind" in text
    assert "No map of the units" in text
    given = next(line for line in commands(out / "report.html") if line[1] == "adapt")
    shutil.rmtree(adapted)
    done = poco(*given[1:], "--json")
    assert done.code == 0, done.err
    again = done.json
    assert {**again, "seconds": 0, "history": []} == {**before, "seconds": 0, "history": []}


def test_a_model_alone_is_no_run(poco, trained: Path) -> None:
    done = poco("report", trained / "model")
    assert done.code == 2
    assert "model holds a model alone, and a report also shows what it was trained on: give the folder" in done.err


def test_what_a_page_says_trains_the_same_run_again(poco, recordings: Path, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    options = ("--recipe", "published", "--context", 12, "--horizon", 4, "--segment-length", 6, "--clip", 0)
    more = ("--steps", 3, "--val-every", 2, "--lr", 0.002, "--seeds", 2, "--seed", 4, "--leave-out", "animal-2/3")
    done = poco("train", recordings, "--without", "animal-1", *options, *more, "--no-baselines", "--out", first)
    assert done.code == 0, done.err
    done = poco("report", first, "--out", tmp_path / "page")
    assert done.code == 0, done.err
    assert "are trained" not in done.err  # the run was to be compared with none of those
    assert not (first / "baselines").exists()
    ((program, *given),) = commands(tmp_path / "page" / "report.html")
    assert program == "poco"
    assert given[-2:] == ["--out", str(first)]
    assert poco(*given[:-1], second, "--no-baselines").code == 0
    configs = [json.loads((folder / "config.json").read_text()) for folder in (first, second)]
    assert configs[0] == configs[1]
    text = (tmp_path / "page" / "report.html").read_text()
    assert f"poco report {first} --out {tmp_path / 'page'}" in text


def test_a_label_that_no_unit_has_is_told_before_anything_is_scored(
    poco, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("poco.reporting.page.score", lambda *_: pytest.fail("it is scored"))
    done = poco("report", trained, "--label", "colour", "--out", tmp_path)
    assert done.code == 2
    assert "no recording has a label 'colour'" in done.err


def test_a_folder_that_holds_no_run(poco, tmp_path: Path) -> None:
    done = poco("report", tmp_path)
    assert done.code == 2
    assert "holds neither a run" in done.err
