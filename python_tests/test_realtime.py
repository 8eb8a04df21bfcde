"""poco.stream.set_realtime: what is asked for is there, or the message says why not and nothing has changed."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
from helpers.needs import needs_core
from helpers.processes import environment

from poco.errors import ConfigError
from poco.stream import set_realtime

pytestmark = [
    needs_core,
    pytest.mark.skipif(sys.platform != "linux", reason="Linux alone"),
]

ASK = """
import os, sys
from poco.errors import ConfigError
from poco.stream import set_realtime
{drop}
before = os.sched_getaffinity(0), os.sched_getscheduler(0)
try:
    set_realtime({asked})
except ConfigError as error:
    assert (os.sched_getaffinity(0), os.sched_getscheduler(0)) == before, "not as it was"
    print("refused:", error)
else:
    locked = next(line for line in open("/proc/self/status") if line.startswith("VmLck")).split()[1]
    print(sorted(os.sched_getaffinity(0)), os.sched_getscheduler(0) == os.SCHED_FIFO, int(locked) > 0)
"""
FIRST = min(os.sched_getaffinity(0)) if sys.platform == "linux" else 0


def ask(asked: str, *, as_nobody: bool = False) -> str:
    if as_nobody and os.geteuid() != 0:
        pytest.skip("this user cannot become another one")
    drop = "os.setgid(65534); os.setuid(65534)" if as_nobody else ""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0)); " if as_nobody else ""
    code = ASK.format(drop=limit + drop, asked=asked)
    done = run(code)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def run(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment(), cwd="/", capture_output=True, text=True, check=False)


def test_a_cpu_is_chosen() -> None:
    assert ask(f"cpus=[{FIRST}]") == f"[{FIRST}] False False"


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"cpus": [99999]}, "there is no CPU 99999"),
        ({"cpus": [-1]}, "there is no CPU -1"),
        ({"cpus": [10**12]}, "there is no CPU 1000000000000$"),
        ({"cpus": ["0"]}, "there is no CPU '0'$"),
        ({"priority": 1.5}, r"there is no real-time priority 1\.5$"),
        ({"priority": 1000}, "a real-time priority is 1 to 99, or 0 for none, not 1000"),
    ],
    ids=str,
)
def test_what_there_is_not_changes_nothing(asked: dict[str, Any], says: str) -> None:
    before = os.sched_getaffinity(0), os.sched_getscheduler(0)
    with pytest.raises(ConfigError, match=f"^{says}"):
        set_realtime(**asked)
    assert (os.sched_getaffinity(0), os.sched_getscheduler(0)) == before


def test_from_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    from poco.__main__ import run as command_line

    assert command_line(["stream", "nowhere", "--replay", "nothing", "--cpus", "99999"]) == 2
    assert "there is no CPU 99999" in capsys.readouterr().err
    for words in ("two", "\N{SUPERSCRIPT TWO}"):
        assert command_line(["stream", "nowhere", "--replay", "nothing", "--cpus", words]) == 2
        assert "numbers separated by commas" in capsys.readouterr().err


def test_priority_and_memory_where_they_are_permitted() -> None:
    found = ask(f"cpus=[{FIRST}], priority=1, lock_memory=True")
    assert found == f"[{FIRST}] True True" or found.startswith("refused: ")


def test_what_is_not_permitted_says_how_to_get_it() -> None:
    assert "raise 'rtprio'" in ask(f"cpus=[{FIRST}], priority=50", as_nobody=True)
    assert "raise 'memlock'" in ask("lock_memory=True", as_nobody=True)


def test_a_request_that_fails_leaves_memory_locked() -> None:
    if os.geteuid() != 0:
        pytest.skip("this user cannot become another one")
    drop = "set_realtime(lock_memory=True); import resource; resource.setrlimit(resource.RLIMIT_RTPRIO, (0, 0)); "
    code = ASK.format(drop=drop + "os.setgid(65534); os.setuid(65534)", asked="priority=50, lock_memory=True")
    code += 'print(next(line for line in open("/proc/self/status") if line.startswith("VmLck")).split()[1])'
    done = run(code)
    if "raise 'memlock'" in done.stderr:
        pytest.skip("memory cannot be locked here")
    assert done.returncode == 0, done.stderr
    said, locked = done.stdout.strip().splitlines()
    assert "raise 'rtprio'" in said
    assert int(locked) > 0
