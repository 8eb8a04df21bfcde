"""Latency of a frame: ``python -m benchmarks.stream``: the streaming engine beside ONNX Runtime on the exported model.

A published POCO, and a forecaster on the ground, which is what training makes by default.

One window of the model, pushed frame after frame as at a rig, one call at a time; contestants take turns of many
frames. ONNX Runtime gets the window ready made: what the engine does besides (normalising, keeping the frames,
checking) it is not asked for. Output is judged against the model in float32 first.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import poco
from benchmarks import environment
from benchmarks.cases import FORWARD, Case
from benchmarks.check import TOLERANCES
from benchmarks.contestants import Part, onnx_session
from benchmarks.inputs import Inputs
from benchmarks.measure import load_average
from benchmarks.published import PublishedPOCO
from poco.errors import BackendError

PEER = "ONNX Runtime, published"
SIZES = (512, 1_024, 71_721)


def grounded(units: int) -> poco.Grounded:
    """A forecaster on the ground with 32 latents and three networks of a unit's own, random numbers in all of it."""
    generator = torch.Generator().manual_seed(0)
    model = poco.Grounded(poco.GroundedConfig(latents=32), [poco.SessionSpec("a", tuple(map(str, range(units))))])
    with torch.no_grad():
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if name.endswith(("weight", "bias", "coefficients", "loadings")):
                tensor.copy_(0.05 * torch.randn(tensor.shape, generator=generator))
        model.gains.fill_(0.3)
    return model.eval()


def measure(units: int, seconds: float, threads: int, device: str) -> dict[str, Any]:
    """Milliseconds of a frame: quantiles of every contestant, those of a POCO on ``device`` as well."""
    case = Case("model", FORWARD, 1, units)
    inputs = Inputs.of(case)
    frames = np.random.default_rng(0).normal(size=(96, units)).astype(np.float32)
    window = torch.from_numpy(frames[-48:].T.copy())[None]
    with torch.no_grad(), poco.ops.use_backend("reference"):
        right = inputs.model(window)[0].numpy()
    calls: dict[str, Callable[[int], Any]] = {}
    wrong: dict[str, str] = {}
    missing: dict[str, str] = {}

    def pushes(stream: poco.Stream) -> Callable[[int], Any]:
        return lambda i: stream.push(frames[i % len(frames)])

    ground = grounded(units)
    with torch.no_grad():
        right_on_ground = ground(window)[0].numpy()
    low = TOLERANCES["bfloat16"]
    for name, model, expected, precision, tolerance, where in (
        ("poco float32", inputs.model, right, "float32", TOLERANCES["float32"], "cpu"),
        ("poco bf16", inputs.model, right, "bf16", low, "cpu"),
        ("on the ground, float32", ground, right_on_ground, "float32", TOLERANCES["float32"], "cpu"),
        (f"poco float32, {device}", inputs.model, right, "float32", TOLERANCES["float32"], device),
        (f"poco bf16, {device}", inputs.model, right, "bf16", low, device),
    ):
        if where == "cpu" and name.endswith(", cpu"):
            continue
        stream = poco.Stream(model, precision=precision, threads=threads, device=where)
        *_, last = stream.over(frames)
        assert last.values is not None
        error = float(np.linalg.norm(last.values - expected) / np.linalg.norm(expected))
        if not error <= tolerance:  # NaN is wrong
            wrong[name] = f"off by {error:.1e}"
        calls[name] = pushes(stream)
    try:
        with torch.no_grad():
            run = onnx_session(Part(PublishedPOCO(inputs.model), "model").eval(), window, inputs.z)
        error = float(np.linalg.norm(run(window, inputs.z)[0].numpy() - right) / np.linalg.norm(right))
        if not error <= TOLERANCES["float32"]:
            wrong[PEER] = f"off by {error:.1e}"
        calls[PEER] = lambda _: run(window, inputs.z)
    except ImportError as error:
        missing[PEER] = str(error)
    taken: dict[str, list[float]] = {name: [] for name in calls if name not in wrong}
    until = time.perf_counter() + seconds
    while taken and (time.perf_counter() < until or min(map(len, taken.values())) < 20):
        for name, times in taken.items():
            began = time.perf_counter()
            for i in range(50):
                before = time.perf_counter()
                calls[name](i)
                times.append(1e3 * (time.perf_counter() - before))
                if time.perf_counter() - began > 0.5:
                    break
    rows = {
        name: {str(q): float(np.quantile(times, q)) for q in (0.5, 0.99, 0.999)} | {"calls": len(times)}
        for name, times in taken.items()
    }
    found = {"milliseconds": rows, "wrong": wrong, "missing": missing}
    return {"units": units, "threads": threads, "load": load_average(), **found}


def main() -> int:
    """Measures, prints, writes; 1 if an answer was wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stream", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--seconds", type=float, default=20.0, help="for each size")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cpu", help="'cuda': a GPU as well")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if min(*given.sizes, given.threads) < 1:
        parser.error("sizes and threads are 1 or more")
    if not 0 < given.seconds < math.inf:
        parser.error("seconds are more than 0")
    torch.set_num_threads(given.threads)
    report: dict[str, Any] = {"environment": environment.describe("none", {}), "cases": []}
    for units in given.sizes:
        try:
            found = measure(units, given.seconds, given.threads, given.device)
        except BackendError as error:
            print(f"python -m benchmarks.stream --device {given.device}: {error}", file=sys.stderr)
            return 1
        report["cases"].append(found)
        print(f"{units:,} units, {given.threads} threads, load {found['load']}", flush=True)
        for name, row in found["milliseconds"].items():
            print(f"  {name:28} p50 {row['0.5']:9.3f} ms   p99 {row['0.99']:9.3f} ms   p99.9 {row['0.999']:9.3f} ms")
        for status in ("wrong", "missing"):
            for name, reason in found[status].items():
                print(f"  {name}: {status}: {reason}")
        if given.json:
            given.json.parent.mkdir(parents=True, exist_ok=True)
            given.json.write_text(json.dumps(report, indent=1) + "\n")
    return int(any(found["wrong"] for found in report["cases"]))


if __name__ == "__main__":
    sys.exit(main())
