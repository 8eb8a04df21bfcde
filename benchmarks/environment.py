"""Where and with what the figures were taken."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch

import poco
from benchmarks.measure import load_average

_ROOT = Path(__file__).resolve().parents[1]
_VARIABLES = ("OMP_", "GOMP_", "KMP_", "MKL_", "MALLOC_", "GLIBC_TUNABLES", "POCO_", "LD_PRELOAD")


def describe(settings: str, tried: dict[str, float]) -> dict[str, Any]:
    """As plain values.

    Args:
        settings: name of the settings in force.
        tried: seconds of the published form under each, where they were tried.
    """
    info = poco.info()
    return {
        **_when_and_what(info),
        "processor": _processor(),
        "processors": info["threads"]["processors"],
        "memory_bytes": memory_bytes("MemTotal"),
        "instruction_sets": info["core"]["cpu_features"],
        "kernels": info["core"]["isa"],
        "core": info["core"]["reason"],
        "versions": {
            **info["versions"],
            **{name: _version(name) for name in ("onnx", "onnxscript", "onnxruntime")},
            "compiler": _compiler(),
        },
        "torch_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "settings": settings,
        "settings_tried_seconds": tried,
        "variables": {k: v for k, v in sorted(os.environ.items()) if k.startswith(_VARIABLES)},
        "load_average": load_average(),
    }


def describe_gpu() -> dict[str, Any]:
    """As plain values, for the current CUDA device."""
    found = torch.cuda.get_device_properties(torch.cuda.current_device())
    info = poco.info()
    return {
        **_when_and_what(info),
        "versions": info["versions"],
        "gpu": {
            "name": found.name,
            "capability": f"{found.major}.{found.minor}",
            "processors": found.multi_processor_count,
            "memory_bytes": found.total_memory,
            "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").partition("\n")[0],
            "triton": _version("triton"),
            "cuda": torch.version.cuda,
        },
    }


def _when_and_what(info: dict[str, Any]) -> dict[str, Any]:
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "HEAD") or "unknown",
        "dirty": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "backends": {name: found["reason"] for name, found in info["backends"].items()},
    }


def memory_bytes(field: str) -> int | None:
    """A line of Linux's /proc/meminfo in bytes; None elsewhere."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(field + ":")), None)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = found.get("model name", platform.machine())
    numbers = [f"{key.split()[-1]} {found[key]}" for key in ("cpu family", "model") if key in found]
    return f"{name} ({', '.join(numbers)})" if numbers else name


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _compiler() -> str:
    """What torch.compile has C++ compiled by."""
    for name in (os.environ.get("CXX"), "g++", "clang++", "c++"):
        if name and shutil.which(name):
            return _output(name, "--version").partition("\n")[0]
    return "missing"


def _git(*arguments: str) -> str:
    return _output("git", "-C", str(_ROOT), *arguments)


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30).stdout.strip()
    except OSError:
        return ""
