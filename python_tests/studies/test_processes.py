"""poco.studies.processes: several processes, none of which outlives the one that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers.processes import environment

from poco.errors import ConfigError, PocoError
from poco.studies.processes import in_processes

PROC = Path("/proc/self/task")


def threads(_: int) -> str:
    return str(torch.get_num_threads())


def left(processes: list[int]) -> list[int]:
    """Those that still run; one that has ended but that nobody asked for its exit code does not."""
    found = []
    for process in processes:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        found += [process] if state not in "ZX" else []
    return found


def test_each_has_its_share_of_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with in_processes(2) as each:
        assert list(each(threads, range(2))) == [str(max(1, min(4, processors // 2)))] * 2
    with in_processes(2, 3) as each:
        assert list(each(threads, [0])) == ["3"]
    with in_processes(1) as each:
        assert each is map
    for name in ("processes", "threads"):
        with (
            pytest.raises(ConfigError, match=f"{name} must be at least 1, got 0"),
            in_processes(**{"processes": 2, name: 0}),
        ):
            pass


def test_one_that_is_killed_is_told_of() -> None:
    with (
        pytest.raises(PocoError, match=r"a process was killed, .* take fewer processes \(--processes\)"),
        in_processes(2, 1) as each,
    ):
        list(each(os._exit, [1]))


def slowly_doubled(number: int) -> int:
    time.sleep(0.3 if number == 0 else 0)
    if number == 9:
        raise ConfigError("no nine")
    return 2 * number


def test_results_come_in_order_and_errors_are_raised_here() -> None:
    with in_processes(2, 1) as each:
        assert list(each(slowly_doubled, range(5))) == [0, 2, 4, 6, 8]
        with pytest.raises(ConfigError, match="no nine"):
            list(each(slowly_doubled, [9]))


def test_leaving_ends_what_is_under_way() -> None:
    def interrupted() -> None:
        with in_processes(2, 1) as each:
            next(iter(each(time.sleep, [0, 600, 600])))
            raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.monotonic() - began < 300


@pytest.mark.skipif(not (PROC / str(os.getpid()) / "children").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_none_is_left_when_the_study_is_ended(how: signal.Signals, tmp_path: Path) -> None:
    pytest.importorskip("typer", reason="the command line needs the extra 'cli'")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "poco", "study", "run", "simulation", "--out", str(out), "--processes", "2"]
    sizes = ["--simulation", "animals=2,units=4,frames=400", "--steps", "1", "--batch", "2", "--seeds", "500"]
    with subprocess.Popen([*command, *sizes], cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL) as study:
        until = time.monotonic() + 240
        while not list(out.glob("*.json")) and study.poll() is None and time.monotonic() < until:
            time.sleep(0.1)
        assert list(out.glob("*.json"))
        workers = [int(number) for number in Path(f"/proc/{study.pid}/task/{study.pid}/children").read_text().split()]
        study.send_signal(how)
        study.wait(60)
    assert len(workers) >= 2
    until = time.monotonic() + 20
    while left(workers) and time.monotonic() < until:
        time.sleep(0.1)
    assert left(workers) == []
