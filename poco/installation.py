"""What this installation can do: versions, the compiled core, backends, threads and extras, each with its reason."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any

import numpy as np
import torch

from poco import core
from poco._version import __version__
from poco.modules import is_installed

# Extra -> the packages it brings: (distribution, import name). pyproject.toml is the other place that lists them.
EXTRAS: dict[str, tuple[tuple[str, str], ...]] = {
    "cli": (("typer", "typer"), ("rich", "rich")),
    "formats": (("h5py", "h5py"), ("scipy", "scipy"), ("zarr", "zarr")),
    "nwb": (("pynwb", "pynwb"), ("h5py", "h5py")),
    "plots": (("matplotlib", "matplotlib"),),
    "embed": (("scikit-learn", "sklearn"), ("umap-learn", "umap")),
    "report": (("matplotlib", "matplotlib"), ("scikit-learn", "sklearn"), ("umap-learn", "umap"), ("jinja2", "jinja2")),
    "tensorboard": (("tensorboard", "tensorboard"),),
    "stream": (("pylsl", "pylsl"), ("pyzmq", "zmq")),
    "gpu": (("triton", "triton"),),
    "download": (("pooch", "pooch"),),
    "benchmarks": (("onnx", "onnx"), ("onnxscript", "onnxscript"), ("onnxruntime", "onnxruntime")),
}


class Info(dict[str, Any]):
    """What :func:`info` found: a dictionary ready for JSON; ``str()`` and ``repr()`` give it as text.

    Keys: ``versions`` (name -> version), ``core`` (``available``, ``reason``, ``compiler``, ``cuda_compiler``, ``isa``,
    ``cpu_features``, ``gpus`` on which streams can forecast, ``gpus_missing``: why there are none), ``backends``
    (name -> ``available``, ``reason``), ``forced_backend`` (the name that ``POCO_BACKEND`` or ``poco.ops.use_backend``
    asks for here, or None), ``threads``, ``devices`` and ``extras`` (name -> ``available``, ``packages``, ``install``).
    """

    def __str__(self) -> str:
        lines = [f"poco {self['versions']['poco']}"]
        lines += _rows("versions", {name: text for name, text in self["versions"].items() if name != "poco"})
        compiled = self["core"]
        shown = {"compiled": _yes_no(compiled)}
        if compiled["available"]:
            shown["CUDA compiler"] = f"{compiled['cuda_compiler']} (when it was built)"
            shown["GPUs of streams"] = ", ".join(compiled["gpus"]) or f"none: {compiled['gpus_missing']}"
            shown["CPU"] = " ".join(compiled["cpu_features"]) or "no known instruction sets"
        lines += _rows("core", shown)
        backends = {name: _yes_no(found) for name, found in self["backends"].items()}
        if self["forced_backend"]:
            backends["forced"] = f"{self['forced_backend']}, by POCO_BACKEND or poco.ops.use_backend"
        lines += _rows("backends", backends)
        lines += _rows("threads", {name: str(count) for name, count in self["threads"].items()})
        lines += _rows("devices", self["devices"])
        extras = {}
        for name, found in self["extras"].items():
            packages = ", ".join(f"{package} {version or 'missing'}" for package, version in found["packages"].items())
            extras[name] = packages if found["available"] else f"{packages}: {found['install']}"
        lines += _rows("extras", extras)
        return "\n".join(lines)

    __repr__ = __str__


def info() -> Info:
    """What this installation can do, and why it cannot do the rest.

    Returns:
        A dictionary (see :class:`Info`) that prints as text. Nothing optional is imported to find out.
    """
    return Info(
        versions={
            "poco": __version__,
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "numpy": np.__version__,
            "platform": platform.platform(),
        },
        core=_core(),
        backends=_backends(),
        forced_backend=_forced_backend(),
        threads={"torch": torch.get_num_threads(), "processors": processors()},
        devices=_devices(),
        extras={name: _extra(name, packages) for name, packages in EXTRAS.items()},
    )


def _core() -> dict[str, Any]:
    here, reason = core.available()
    build = core.build_info()
    gpus, gpus_missing = core.gpus()
    return {
        "available": here,
        "reason": reason,
        "compiler": build.get("compiler", ""),
        "cuda_compiler": build.get("cuda_compiler", ""),
        "isa": build.get("isa", ""),
        "cpu_features": build.get("cpu_features", []),
        "gpus": gpus,
        "gpus_missing": gpus_missing,
    }


def _backends() -> dict[str, dict[str, Any]]:
    from poco.ops import backends

    return {name: {"available": here, "reason": reason} for name, (here, reason) in backends.report().items()}


def _forced_backend() -> str | None:
    from poco.ops import backends

    return backends.forced() or None


def processors() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _devices() -> dict[str, str]:
    """Torch devices by name, with what they are."""
    found = {"cpu": platform.machine()}
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            found[f"cuda:{i}"] = torch.cuda.get_device_name(i)
    return found


def _extra(name: str, packages: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    versions = {distribution: _version(distribution, module) for distribution, module in packages}
    return {
        "available": None not in versions.values(),
        "packages": versions,
        "install": f"pip install 'poco-forecast[{name}]'",
    }


def _version(distribution: str, module: str) -> str | None:
    """Version of an optional package, without importing it; None where it is missing."""
    if not is_installed(module):
        return None
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "of unknown version"


def _yes_no(found: dict[str, Any]) -> str:
    return f"{'yes' if found['available'] else 'no'}: {found['reason']}"


def _rows(title: str, entries: dict[str, str]) -> list[str]:
    width = max((len(name) for name in entries), default=0)
    return ["", title] + [f"  {name:<{width}}  {text}" for name, text in entries.items()]
