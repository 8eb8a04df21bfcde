"""``python -m benchmarks gpu``: measures; ``--full``: builds, checks, measures, and writes the results."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.arguments import duration, expect_known
from benchmarks.cases import with_takers

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def main(arguments: list[str]) -> int:
    """Measures, prints, writes; 1 if a check failed, an answer was wrong or a contestant of ours failed."""
    import torch

    parser = _parser()
    given = parser.parse_args(arguments)
    if given.contestants:
        from benchmarks import gpu

        expect_known(parser, given.contestants, [c.name for c in gpu.contestants()])
    if not torch.cuda.is_available():
        print("python -m benchmarks gpu needs a GPU that PyTorch sees", file=sys.stderr)
        return 1
    checks: dict[str, str] = {}
    failed = False
    if given.full:
        build()
        for name, command, pattern in CHECKS:
            outcome, bad = check(command, pattern)
            print(f"{name}: {outcome}", flush=True)
            checks[name], failed = outcome, failed or bad
        given.json = given.json or RESULTS / "gpu.json"
    return _measure(given, checks) or int(failed)


def build() -> None:
    """The compiled core and the kernels into the tree, as ``make inplace`` does, for the Python that runs this."""
    cmake = [shutil.which("cmake") or "cmake"]
    where = subprocess.run([sys.executable, "-m", "pybind11", "--cmakedir"], capture_output=True, text=True, check=True)
    folder = ROOT / "build" / "gpu"
    options = [f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={where.stdout.strip()}"]
    subprocess.run([*cmake, "-S", ROOT, "-B", folder, *options], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([*cmake, "--build", folder, "--parallel"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([*cmake, "--install", folder, "--prefix", ROOT], check=True, stdout=subprocess.DEVNULL)
    kernels = ROOT / "poco" / "kernels"
    if not kernels.exists():
        kernels.symlink_to("../kernels", target_is_directory=True)


_SANITIZE = [sys.executable, "-m", "benchmarks.sanitize"]
_STREAM = [sys.executable, "-m", "benchmarks.stream"]
CHECKS: list[tuple[str, list[str], str]] = [
    (
        "tests marked gpu",
        [sys.executable, "-m", "pytest", "-q", "-p", "no:benchmark", "-m", "gpu", "-n", "12"],
        r"(\d+ (?:passed|failed).*)",
    ),
    ("compute-sanitizer memcheck", ["compute-sanitizer", "--tool", "memcheck", *_SANITIZE], r"ERROR SUMMARY: (.*)"),
    ("compute-sanitizer racecheck", ["compute-sanitizer", "--tool", "racecheck", *_SANITIZE], r"SUMMARY: (.*)"),
    (
        "streams",
        [*_STREAM, "--device", "cuda", "--seconds", "5", "--json", str(RESULTS / "stream-gpu.json")],
        r"(poco bf16, cuda .*)",
    ),
]


def check(command: list[str], pattern: str) -> tuple[str, bool]:
    """What a check's last matching line says, and whether it failed."""
    if not shutil.which(command[0]):
        return f"not run: {command[0]} is not here", True
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    except subprocess.TimeoutExpired:
        return "not finished in 240 s", True
    output = done.stdout + done.stderr
    found = re.findall(pattern, output)
    faults = re.search(r"SUMMARY: (?!0 )\d+ (?:errors?|hazards?)", output)  # what a memory checker ends with
    bad = done.returncode != 0 or not found or faults is not None
    if bad:
        print(output[-4000:], flush=True)
    return found[-1] if found else f"ended with status {done.returncode}", bad


def _measure(given: argparse.Namespace, checks: dict[str, str]) -> int:
    import torch

    from benchmarks import ceilings, environment, gpu, gpu_table

    every = [c for c in gpu.contestants() if not given.contestants or c.name in given.contestants]
    every = [c for c in every if not (given.quick and c.how != "eager")]
    cases = [case for case in gpu.plan(given.quick) if not given.only or case.name in given.only]
    cases = with_takers(cases, every)
    if not cases:
        return 1
    torch.backends.cuda.matmul.allow_tf32 = True
    tf32 = ceilings.measure(given.quick, "cuda")
    torch.backends.cuda.matmul.allow_tf32 = False
    found = {"default": ceilings.measure(given.quick, "cuda"), "tf32": tf32}
    report: dict[str, Any] = {
        "environment": environment.describe_gpu(),
        "ceilings": {name: asdict(c) for name, c in found.items()},
        "checks": checks,
        "cases": [],
    }
    print(gpu_table.header(report), flush=True)
    for case in cases:
        done = gpu.run_case(case, every, found, given.seconds)
        report["cases"].append(done)
        if not case.scaling:
            print("\n" + gpu_table.case_table(done), flush=True)
        if given.json:  # after every case: a long run that is cut short has written what it knows
            given.json.parent.mkdir(parents=True, exist_ok=True)
            given.json.write_text(json.dumps(report, indent=1) + "\n")
            given.json.with_suffix(".txt").write_text(gpu_table.report_text(report))
    scaling = [case for case in report["cases"] if case["scaling"]]
    if scaling:
        print("\n" + gpu_table.scaling_table(scaling))
    if given.json:
        gpu_table.draw(report, given.json.with_suffix(".png"))
    bad = [r for case in report["cases"] for r in case["results"] if r["form"] == "poco" and r["status"] != "ok"]
    for result in bad:
        print(f"{result['contestant']} {result['status']}: {result['reason']}", file=sys.stderr)
    return int(bool(bad))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description="What poco costs on a GPU.")
    names = ["latent_pool", "film_forecast", "model", "training", "scaling"]
    parser.add_argument("--full", action="store_true", help="build, test, run the memory checkers, measure, write")
    parser.add_argument("--quick", action="store_true", help="512 units, nothing compiled")
    parser.add_argument("--only", action="append", default=[], choices=names, help="these alone; may be repeated")
    parser.add_argument("--contestants", nargs="+", metavar="NAME", help="these alone, by their names in the table")
    parser.add_argument("--seconds", type=duration, default=2.0, help="for the times of a case; default 2")
    parser.add_argument("--json", type=Path, help="write the report here, text and figure beside it")
    return parser
