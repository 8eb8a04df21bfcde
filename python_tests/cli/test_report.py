"""``poco report``: of what ``poco train`` and ``poco adapt`` wrote."""

from __future__ import annotations

import html
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
    assert done.json["report"] == str(out / "report.html")
    text = (out / "report.html").read_text()
    assert "2-adaptation" in text
    assert "No map of the units" in text
    given = next(line for line in commands(out / "report.html") if line[1] == "adapt")
    shutil.rmtree(adapted)
    done = poco(*given[1:], "--json")
    assert done.code == 0, done.err
    again = done.json
    assert {**again, "seconds": 0, "history": []} == {**before, "seconds": 0, "history": []}


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
