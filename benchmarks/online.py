"""What adapting beside a stream costs it: ``python -m benchmarks.online``: latency of frames before, during and after.

Both are told: what ``push`` took, and what the loop around it saw: from when the frame was due to its forecast.

A session of so many simulated units is streamed at its rate by a POCO of the published sizes with random weights;
after a while the model is adapted to the frames seen so far in a process of its own, and swapped in.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import poco
from benchmarks import environment
from benchmarks.arguments import count, duration
from benchmarks.measure import load_average
from poco.online import AdaptationFailedError


def measure(
    units: int, rate_hz: float, seen: int, steps: int, seconds: float, threads: int, cpus: list[int], priority: int
) -> dict[str, Any]:
    """Milliseconds of a frame, wall clock, in ``push`` and since it was due, and how long the adaptation took."""
    poco.stream.set_realtime(cpus, priority)
    recording = poco.simulate(1, units, seen + 2000, seed=0)[0]
    torch.manual_seed(0)
    model = poco.adapt(poco.POCO(poco.POCOConfig()), recording, mode="zero-shot").model
    assert isinstance(model, poco.POCO)
    stream = poco.Stream(model, recording.session, precision="bf16", threads=threads, keep=seen)
    frames = recording.activity.T
    for frame in frames[:seen]:
        stream.push(frame)
    parts: dict[str, list[float]] = {"before": [], "during": [], "the swap": [], "after": []}
    parts |= {f"{name}, loop": [] for name in parts}
    part, adaptation, began = "before", None, time.perf_counter()
    changed, number = began, 0
    while True:
        due = began + number / rate_hz
        time.sleep(max(0.0, due - time.perf_counter()))
        start = time.perf_counter()
        forecast = stream.push(frames[number % len(frames)])
        end = time.perf_counter()
        taken, late = (end - start) * 1e3, (end - due) * 1e3
        number += 1
        swapped = "adapted" in forecast.marks
        parts["the swap" if swapped else part].append(taken)
        parts[f"{'the swap' if swapped else part}, loop"].append(late)
        if swapped:
            part, changed = "after", time.perf_counter()
            continue
        if part == "before" and time.perf_counter() - changed > seconds:
            asked = time.perf_counter()
            adaptation = stream.adapt_online(steps=steps, patience=None, score_every=steps)
            parts["the call"] = [(time.perf_counter() - asked) * 1e3]
            part = "during"
        if adaptation is not None and part == "during" and adaptation.done:
            adaptation.result()  # an error if it failed: there will be no swap to wait for
        if part == "after" and time.perf_counter() - changed > seconds:
            break
    assert adaptation is not None
    rows = {
        name: {"median": float(np.median(taken)), "99%": float(np.quantile(taken, 0.99)), "most": max(taken)}
        | {"frames": len(taken)}
        for name, taken in parts.items()
    }
    return {
        "units": units,
        "rate_hz": rate_hz,
        "threads": threads,
        "frames": seen,
        "steps": steps,
        "seconds": adaptation.result()["seconds"],
        "load": load_average(),
        "milliseconds": rows,
    }


def main() -> int:
    """Measures, prints, writes; 1 if the adaptation failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.online", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--units", type=count, default=512)
    parser.add_argument("--rate", type=duration, default=30.0, help="frames a second")
    parser.add_argument("--frames", type=count, default=2000, help="seen before")
    parser.add_argument("--steps", type=count, default=200)
    parser.add_argument("--seconds", type=duration, default=10.0, help="of streaming before and after")
    parser.add_argument("--threads", type=count, default=1, help="of the stream")
    parser.add_argument("--cpu", type=int, help="to pin the thread that pushes to, as poco.stream.set_realtime does")
    parser.add_argument("--priority", type=int, default=0, help="of SCHED_FIFO, of the thread that pushes")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    cpus = [] if given.cpu is None else [given.cpu]
    stream = (given.seconds, given.threads, cpus, given.priority)
    try:
        found = measure(given.units, given.rate, given.frames, given.steps, *stream)
    except AdaptationFailedError as error:
        print(f"python -m benchmarks.online: {error}", file=sys.stderr)
        return 1
    print(
        f"{found['units']:,} units at {found['rate_hz']:g} Hz, stream on {found['threads']} threads, adapted to "
        f"{found['frames']:,} frames in {found['steps']} steps, {found['seconds']:.1f} s, load {found['load']}"
    )
    for name, row in found["milliseconds"].items():
        print(
            f"  {name:14} median {row['median']:8.2f} ms   99% {row['99%']:8.2f} ms   most {row['most']:8.2f} ms   "
            f"{row['frames']} frames"
        )
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        report = {"environment": environment.describe("none", {}), "cases": [found]}
        given.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
