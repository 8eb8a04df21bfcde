"""What the documentation says in Python: the names are there after ``import poco`` alone, and the examples run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from helpers.recordings import waves

import poco
from poco.scores import Evaluation

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def names() -> list[str]:
    """All ``poco.x.y`` in blocks of Python and between backticks, but the C header and what is imported by name."""
    found: set[str] = set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for code in (*python_blocks(page), *re.findall(r"`(poco\.[^`\n]+)`", text)):
            lines = [line for line in code.splitlines() if not re.match(r"\s*(from|import) ", line)]
            found |= set(re.findall(r"(?<![\w./])poco(?:\.[A-Za-z_]\w*)+", "\n".join(lines)))
    return sorted(found - {"poco.h"})


def test_names_of_the_documentation_are_there_after_a_bare_import(run_python) -> None:
    found = names()
    assert {"poco.read", "poco.published.download", "poco.adapted.Adapted.load", "poco.data.preprocess"} <= set(found)
    # Each in a process of its own: what one imports is not there for the next.
    run_python(
        f"""
import functools, os, poco
for name in {found}:
    child = os.fork()
    if not child:
        functools.reduce(getattr, name.split(".")[1:], poco)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, name
"""
    )


def test_the_examples_of_a_forecaster_of_ones_own_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="needs the extra 'plots'")
    monkeypatch.chdir(tmp_path)
    for folder in ("my_data", "recordings/fish"):
        poco.data.write.write([waves("a"), waves("b", units=3, frames=450)], tmp_path / folder)
    names: dict[str, object] = {}
    for block in python_blocks(ROOT / "docs" / "forecasters.md"):
        exec(block, names)
    evaluation = names["evaluation"]
    assert isinstance(evaluation, Evaluation)
    assert evaluation.forecaster == "damped"
    assert evaluation.score > 0
    assert "| damped |" in capsys.readouterr().out
    assert {"scores.csv", "scores-leak-free.png", "fish--published--1--damped.json"} <= {
        path.name for path in (tmp_path / "scores").iterdir()
    }


def test_the_examples_of_the_two_passes_run() -> None:
    names: dict[str, object] = {}
    torch.manual_seed(0)
    for block in python_blocks(ROOT / "docs" / "model.md"):
        exec(block, names)
    assert {"pooled", "forecast"} <= set(names)  # the blocks compare them with the reference


def test_modules_are_there_after_a_bare_import(run_python) -> None:
    run_python(
        "import poco; poco.data.write.write; poco.data.preprocess.downsample; poco.training.fit; poco.data.read.read"
    )
    for module in ("poco", "poco.data"):
        with pytest.raises(AttributeError, match=f"module '{module}' has no attribute 'nothing'"):
            _ = eval(module, {"poco": poco}).nothing  # noqa: S307
