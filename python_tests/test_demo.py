"""The demo in its tiny version: everything it promises lies in its folder, and it only replaces itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from poco.demo import FULL, QUICK, Demo, run_demo
from poco.errors import ConfigError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "out"


@pytest.fixture(scope="module")
def demo(folder: Path) -> Demo:
    pytest.importorskip("matplotlib", reason="the figure needs the extra 'plots'")
    return run_demo(folder, quick=True)


def test_everything_is_in_the_folder(demo: Demo, folder: Path) -> None:
    assert demo.figure == folder / "figure.png"
    assert demo.figure.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert demo.figure.stat().st_size > 50_000
    stored = json.loads((folder / "demo.json").read_text())
    assert stored["evaluation"]["score"] == demo.evaluation.score
    assert stored["adaptation"]["after"] == demo.adapted.after
    assert len(list((folder / "recordings").glob("*.npz"))) == QUICK.animals
    assert (folder / "adapted" / "model" / "model.safetensors").exists()


def test_rows_hold_every_forecaster_with_adaptation_before_and_after(demo: Demo) -> None:
    rows = demo.rows()
    assert [row[0] for row in rows[:2]] == ["POCO, adapted", "POCO, not adapted"]
    assert {row[0] for row in rows[2:]} == {"copy", "mean", "ridge", "ridge, refitted"}
    assert rows[0][1:] == (demo.evaluation.score, demo.adapted.after)
    assert rows[1][1:] == (None, demo.adapted.before)
    assert {row[0]: row[1:] for row in rows}["copy"] == (0.0, 0.0)


def test_the_unseen_animal_is_unseen(demo: Demo) -> None:
    assert demo.adapted.session == f"animal-{QUICK.animals + 1}"
    assert demo.adapted.session not in [spec.name for spec in demo.run.model.sessions]
    assert demo.evaluation.protocol == demo.adapted.split.protocol == "leak-free"


def test_it_replaces_itself_only(demo: Demo, folder: Path, tmp_path: Path) -> None:
    again = run_demo(folder, quick=True)
    assert again.evaluation.score == demo.evaluation.score
    assert again.adapted.after == demo.adapted.after
    (tmp_path / "precious").write_text("")
    with pytest.raises(ConfigError, match="holds no demo"):
        run_demo(tmp_path, quick=True)
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_full_size_compares_with_every_forecaster() -> None:
    assert set(FULL.baselines) == {"copy", "mean", "ridge", "nlinear", "mlp"}
