"""poco forecasts the activity of every recorded neuron of a brain several seconds ahead."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

from poco._version import __version__

try:
    from poco.nn import POCO, POCOConfig, SessionSpec
except KeyboardInterrupt:  # torch takes a while to load; the command ends then as it does later, see poco.__main__
    if os.path.basename(sys.argv[0]) not in ("poco", "-m") or os.environ.get("POCO_DEBUG", "") not in ("", "0"):
        raise
    print("poco: error: interrupted", file=sys.stderr, flush=True)
    sys.exit(130)

if TYPE_CHECKING:
    from poco.adaptation import adapt
    from poco.data.inspect import inspect
    from poco.data.read import read
    from poco.data.recording import Recording
    from poco.data.simulate import simulate
    from poco.data.splits import split
    from poco.ensemble import Ensemble
    from poco.evaluation import evaluate
    from poco.forecasting import forecast
    from poco.graphs import InferenceGraph
    from poco.ground.grounded import Grounded, GroundedConfig
    from poco.installation import info
    from poco.models import load
    from poco.reporting import report
    from poco.run import Run
    from poco.stream import Stream
    from poco.training import TrainConfig, train
    from poco.unit_embeddings import embeddings

# Public names that are imported on first use, so that `import poco` stays quick.
_LAZY = {
    "Ensemble": "poco.ensemble",
    "Grounded": "poco.ground.grounded",
    "GroundedConfig": "poco.ground.grounded",
    "InferenceGraph": "poco.graphs",
    "Recording": "poco.data.recording",
    "Run": "poco.run",
    "Stream": "poco.stream",
    "TrainConfig": "poco.training",
    "adapt": "poco.adaptation",
    "embeddings": "poco.unit_embeddings",
    "evaluate": "poco.evaluation",
    "forecast": "poco.forecasting",
    "info": "poco.installation",
    "inspect": "poco.data.inspect",
    "load": "poco.models",
    "read": "poco.data.read",
    "report": "poco.reporting",
    "simulate": "poco.data.simulate",
    "split": "poco.data.splits",
    "train": "poco.training",
}

# Modules that can be named after `import poco` alone, imported then.
_MODULES = (
    *("adapted", "baselines", "data", "errors", "intervals", "kernels", "online", "ops", "plots", "published"),
    *("scoreboard", "scores", "stream", "studies", "training", "unit_embeddings", "wires"),
)

__all__ = [
    "POCO",
    "Ensemble",
    "Grounded",
    "GroundedConfig",
    "InferenceGraph",
    "POCOConfig",
    "Recording",
    "Run",
    "SessionSpec",
    "Stream",
    "TrainConfig",
    "__version__",
    "adapt",
    "embeddings",
    "evaluate",
    "forecast",
    "info",
    "inspect",
    "load",
    "read",
    "report",
    "simulate",
    "split",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"poco.{name}")
    if name not in _LAZY:
        raise AttributeError(f"module 'poco' has no attribute '{name}'")
    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
