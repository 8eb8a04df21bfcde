"""Peak memory of one call: how far the resident set grows above what was there before it, in a process of its own."""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.cases import Case
from benchmarks.contestants import COMPILED, Contestant, Entry
from benchmarks.inputs import Inputs

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_TIMEOUT = 600


def missing() -> str | None:
    """Why this system cannot tell; None where it can."""
    return None if os.access(_CLEAR, os.W_OK) else "peak memory is read from Linux's /proc/self/clear_refs"


def measure(contestant: Contestant, case: Case, threads: int) -> int | str:
    """Bytes that one call needs on top of parameters, inputs and optimiser, or why that is not known."""
    # Freed memory goes back to the system at once, or what one call left behind would hide what the next one needs.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    environment["MALLOC_MMAP_THRESHOLD_"] = "131072"
    plan = {"contestant": dataclasses.asdict(contestant), "case": dataclasses.asdict(case), "threads": threads}
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.memory", json.dumps(plan)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return f"took more than {_TIMEOUT} s"
    if done.returncode:
        return f"ended with status {done.returncode}: {(done.stderr.strip().splitlines() or ['no word'])[-1]}"
    return int(done.stdout.split()[-1])


def _kilobytes(field: str) -> int:
    return next(int(line.split()[1]) for line in _STATUS.read_text().splitlines() if line.startswith(field + ":"))


def _growth(contestant: Contestant, case: Case) -> int:
    # Libraries, threads and generated code come with a small case; a compiled form is compiled for one size only.
    small = dataclasses.replace(case, windows=1, units=64)
    if contestant.how != COMPILED:
        Entry(contestant, small, Inputs.of(small)).call()
    entry = Entry(contestant, case, Inputs.of(case))
    if contestant.how == COMPILED:
        entry.call()
    entry.forget()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    _CLEAR.write_text("5")  # the peak is what is there now
    before = _kilobytes("VmRSS")
    entry.call()
    return 1024 * max(0, _kilobytes("VmHWM") - before)


def main() -> None:
    """Measures the contestant and the case that the command line holds as JSON, and prints the bytes."""
    import torch

    plan = json.loads(sys.argv[1])
    torch.set_num_threads(plan["threads"])
    print(_growth(Contestant(**plan["contestant"]), Case(**plan["case"])))


if __name__ == "__main__":
    main()
