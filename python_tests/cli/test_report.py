"""``poco report``: of what ``poco train`` and ``poco adapt`` wrote."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from poco.data.simulate import simulate

pytest.importorskip("jinja2", reason="needs the extra 'report'")
pytest.importorskip("umap", reason="needs the extra 'embed'")


def test_a_trained_and_an_adapted_model(poco, trained: Path, recordings: Path, tmp_path: Path) -> None:
    new = tmp_path / "new" / "stranger.npz"
    new.parent.mkdir()
    (new.parent / "dataset.toml").write_text((recordings / "dataset.toml").read_text())
    np.savez(new, activity=simulate(1, 5, 400, seed=9)[0].activity)
    adapted, out = tmp_path / "adapted", tmp_path / "report"
    done = poco("adapt", trained, new, "--out", adapted, "--steps", 4, "--json")
    assert done.code == 0, done.err
    done = poco("report", trained, adapted, "--out", out, "--json")
    assert done.code == 0, done.err
    assert done.json["report"] == str(out / "report.html")
    text = (out / "report.html").read_text()
    assert "2-adaptation" in text
    assert str(new) in text  # how to adapt again


def test_a_folder_that_holds_no_run(poco, tmp_path: Path) -> None:
    done = poco("report", tmp_path)
    assert done.code == 2
    assert "holds neither a run" in done.err
