"""Environment variables of the process, chosen so that the peers run at their best. Nothing here imports torch.

Torch's threads come from OpenMP, which by default may put two of them on one processor while they spin; its large
tensors come from malloc, which by default gives them back to the system, which clears every page again for the next.
Which settings are best depends on the machine, so the published form is timed under each of them.
"""

from __future__ import annotations

import os
import subprocess
import sys

_KEEP = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**45)}
_PASSIVE = {"OMP_WAIT_POLICY": "passive"}
_SPREAD = {"OMP_PROC_BIND": "spread", "OMP_PLACES": "cores"}
SETTINGS: dict[str, dict[str, str]] = {
    "none": {},
    "keep": _KEEP,
    "keep-passive": {**_KEEP, **_PASSIVE},
    "keep-spread": {**_KEEP, **_SPREAD},
    "keep-spread-passive": {**_KEEP, **_SPREAD, **_PASSIVE},
}
DEFAULT = "keep-passive"
_ROUNDS = 2


def in_force(name: str) -> bool:
    """Whether the process was started under these settings."""
    return all(os.environ.get(key) == value for key, value in SETTINGS[name].items())


def restart(name: str, arguments: list[str]) -> None:
    """Starts the command again in place of this process, under these settings."""
    environment = {**os.environ, **SETTINGS[name]}
    os.execve(sys.executable, [sys.executable, "-m", "benchmarks", *arguments], environment)


def choose(threads: int | None) -> tuple[str, dict[str, float]]:
    """The settings under which the published form is fastest, and its seconds under each."""
    best: dict[str, float] = {}
    for _ in range(_ROUNDS):
        for name, variables in SETTINGS.items():
            command = [sys.executable, "-m", "benchmarks.settings", str(threads or 0)]
            done = subprocess.run(
                command, env={**os.environ, **variables}, capture_output=True, text=True, check=True, timeout=300
            )
            best[name] = min(best.get(name, float("inf")), float(done.stdout.split()[-1]))
    return min(best, key=best.__getitem__), best


def start_torch(threads: int | None) -> None:
    """Loads torch and starts its threads. OpenMP may bind this one to a processor: that is undone."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    import torch

    if threads:
        torch.set_num_threads(threads)
    torch.ones(1_000_000).add_(1)
    if allowed is not None:
        os.sched_setaffinity(0, allowed)


def _published_seconds() -> float:
    """Geometric mean of the published form's medians, small and large: in float32, and under autocast if that pays."""
    import math

    from benchmarks.cases import FORWARD, Case
    from benchmarks.ceilings import library_multiplies_bfloat16
    from benchmarks.contestants import AUTOCAST, FLOAT32, Contestant, Entry
    from benchmarks.inputs import Inputs
    from benchmarks.measure import take_turns

    precisions = (FLOAT32, AUTOCAST) if library_multiplies_bfloat16() else (FLOAT32,)
    medians = []
    for units in (512, 4_096, 16_384):
        case = Case("model", FORWARD, 1, units)
        inputs = Inputs.of(case)
        calls = {p: Entry(Contestant("published", p), case, inputs).call for p in precisions}
        medians += [times.median for times in take_turns(calls, 1.0, 3, 30).values()]
    return math.prod(medians) ** (1 / len(medians))


if __name__ == "__main__":
    start_torch(int(sys.argv[1]) or None)
    print(_published_seconds())
