"""The command as a whole: help, version, exit codes, errors as one line, missing packages."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import processes

import poco.installation  # noqa: F401  # tests replace what it does
from poco import __version__
from poco.__main__ import BUG, INTERRUPTED, MENDABLE, OK

COMMANDS = ["demo", "inspect", "train", "eval", "forecast", "adapt", "info"]


def subprocess_run(*arguments: str, code: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code] if code is not None else [sys.executable, "-m", "poco", *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        env=processes.environment(**environment),
        cwd=tempfile.gettempdir(),
        check=False,
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_has_examples(poco: Callable, command: str) -> None:
    result = poco(command, "--help")
    assert result.code == OK
    assert "--json" in result.out
    assert re.search(rf"Examples:\n +poco {command}", result.out)
    assert result.err == ""


def test_help_lists_every_command_with_a_whole_sentence(poco: Callable) -> None:
    result = poco("--help")
    assert result.code == OK
    for command in COMMANDS:
        assert re.search(rf"^  {command} +\S.*\.$", result.out, re.MULTILINE)


def test_version(poco: Callable) -> None:
    assert poco("--version").out == f"poco {__version__}\n"
    done = subprocess_run("--version")
    assert (done.returncode, done.stdout, done.stderr) == (OK, f"poco {__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nonsense"], "No such command 'nonsense'"),
        (["train", "--nonsense"], "--nonsense"),
        (["train", "data", "--steps", "many"], "Invalid value for '--steps'"),
        (["forecast"], "Missing argument"),
        (["forecast", "run", "recording"], "Missing option '--out'"),
        (["inspect"], "Missing argument"),
    ],
)
def test_wrong_arguments_give_one_line(poco: Callable, arguments: list[str], message: str) -> None:
    result = poco(*arguments)
    assert result.code == MENDABLE
    assert result.out == ""
    assert result.err.startswith("poco: error: ")
    assert message in result.err
    assert result.err.count("\n") == 1
    assert "--help'" in result.err


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyboardInterrupt(), INTERRUPTED, "poco: error: interrupted\n"),
        (
            OSError(28, "No space left on device", "out.npz"),
            MENDABLE,
            "poco: error: out.npz: No space left on device\n",
        ),
        (PermissionError(13, "Permission denied"), MENDABLE, "poco: error: Permission denied\n"),
        (MemoryError(), MENDABLE, "poco: error: out of memory"),
        (ValueError("two\nlines"), BUG, "poco: error: unexpected ValueError: two lines (a bug"),
    ],
)
def test_any_error_is_one_line(
    poco: Callable, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, line: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(sys.modules["poco.installation"], "info", fail)
    result = poco("info")
    assert result.code == code
    assert result.err.startswith(line)
    assert result.err.count("\n") == 1


def test_debug_keeps_the_traceback(poco: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    from poco.errors import DataError

    monkeypatch.setenv("POCO_DEBUG", "1")
    with pytest.raises(DataError, match="no such file"):
        poco("inspect", "nowhere")


def test_warnings_are_one_line(poco: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    import warnings

    def warn() -> dict[str, str]:
        warnings.simplefilter("always")
        warnings.warn("something\nto know", RuntimeWarning, stacklevel=1)
        return {}

    monkeypatch.setattr(sys.modules["poco.installation"], "info", warn)
    assert poco("info", "--json").err == "poco: warning: something to know\n"


@pytest.mark.parametrize("package", ["typer", "rich"])
def test_without_its_packages_one_line_names_the_extra(package: str) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None; sys.argv = ['poco', 'info']; import poco.__main__ as m; m.main()"
    )
    done = subprocess_run(code=code)
    assert done.returncode == MENDABLE
    assert done.stdout == ""
    assert done.stderr.startswith("poco: error: ")
    assert done.stderr.count("\n") == 1
    assert "pip install 'poco-forecast[cli]'" in done.stderr


def test_ctrl_c_while_torch_is_loaded_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise KeyboardInterrupt\n")
    (tmp_path / "poco").write_text("from poco.__main__ import main\nmain()\n")  # as pip makes it
    for command in (["-m", "poco", "info"], [str(tmp_path / "poco"), "info"], ["-c", "import poco"]):
        done = subprocess.run(
            [sys.executable, *command],
            capture_output=True,
            text=True,
            timeout=120,
            env=processes.environment(tmp_path),
            cwd=tempfile.gettempdir(),
            check=False,
        )
        if command[0] == "-c":  # a program of one's own is interrupted as any other
            assert "Traceback" in done.stderr
        else:
            assert (done.returncode, done.stdout, done.stderr) == (INTERRUPTED, "", "poco: error: interrupted\n")


def test_reader_of_the_output_may_go_away() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "poco", "info"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=processes.environment(),
        cwd=tempfile.gettempdir(),
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        error = process.stderr.read().decode()
        process.wait(timeout=120)
    assert "Traceback" not in error
    assert "Exception ignored" not in error


def test_info(poco: Callable) -> None:
    text, machine = poco("info"), poco("info", "--json")
    assert (text.code, machine.code) == (OK, OK)
    assert __version__ in text.out
    assert machine.json["versions"]["poco"] == __version__
    assert "reference" in machine.json["backends"]


def test_names_that_a_terminal_cannot_show_are_escaped(tmp_path: Path) -> None:
    np.save(tmp_path / "Fisch_ä.npy", np.random.default_rng(0).random((3, 90)))
    options = ("--orientation", "units x frames", "--rate", "2")
    done = subprocess_run("inspect", str(tmp_path), *options, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert r"Fisch_\xe4" in done.stdout
