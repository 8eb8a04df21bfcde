from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from poco import core
from poco._version import __version__
from poco.installation import EXTRAS, info
from poco.ops import use_backend


def test_says_what_is_here_and_why_not() -> None:
    found = info()
    assert found["versions"]["poco"] == __version__
    assert set(found["versions"]) >= {"python", "torch", "numpy"}
    assert (found["core"]["available"], found["core"]["reason"]) == core.available()
    assert found["backends"]["reference"]["available"] is True
    for backend in found["backends"].values():
        assert isinstance(backend["available"], bool)
        assert backend["reason"]
    assert found["threads"]["torch"] >= 1
    for name, extra in found["extras"].items():
        assert extra["install"] == f"pip install 'poco-forecast[{name}]'"
        assert extra["available"] == all(extra["packages"].values())


def test_says_which_backend_is_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POCO_BACKEND", raising=False)
    assert info()["forced_backend"] is None
    assert "forced" not in str(info())
    with use_backend("reference"):
        assert "forced     reference, by POCO_BACKEND or poco.ops.use_backend" in str(info())
    monkeypatch.setenv("POCO_BACKEND", "reference")
    assert info()["forced_backend"] == "reference"


def test_prints_as_text_and_as_json() -> None:
    found = info()
    text = str(found)
    for part in (f"poco {__version__}", "torch", "core", "backends", "reference", "extras"):
        assert part in text
    assert json.loads(json.dumps(found)) == found


def test_a_missing_package_is_named_with_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXTRAS, "nothing", (("poco-surely-missing", "poco_surely_missing"),))
    found = info()
    assert found["extras"]["nothing"]["available"] is False
    assert "poco-surely-missing missing: pip install 'poco-forecast[nothing]'" in str(found)


def test_without_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "_core_module", None)
    monkeypatch.setattr(core, "_core_words", "libgone.so.1: cannot open shared object file")
    found = info()
    assert found["core"]["available"] is False
    assert "compiled  no: libgone.so.1" in str(found)


def test_imports_nothing_optional(run_python) -> None:
    code = (
        "import sys; import torch; before = set(sys.modules)\n"
        "from poco.installation import info; str(info())\n"
        "print(sorted({m.split('.')[0] for m in set(sys.modules) - before}))"
    )
    loaded = run_python(code).stdout
    for name in ("triton", *(module for packages in EXTRAS.values() for _, module in packages)):
        assert f"'{name}'" not in loaded


def test_extras_are_those_of_the_package() -> None:
    project = (Path(__file__).resolve().parents[1] / "pyproject.toml").read_text()
    section = project.split("[project.optional-dependencies]")[1].split("\n[")[0]
    written = {}
    for name, packages in re.findall(r"^(\w+) = \[([^\]]*)\]", section, flags=re.MULTILINE):
        written[name] = set(re.findall(r'"([A-Za-z0-9_-]+)[><=]', packages))
    for name, packages in EXTRAS.items():
        assert written[name] == {distribution for distribution, _ in packages}
