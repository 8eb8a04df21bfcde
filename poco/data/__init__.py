"""Recordings, readers, splits, windows and simulation."""

from __future__ import annotations

import importlib
from typing import Any

# Modules that can be named after `import poco` alone, imported then.
_MODULES = ("checks", "inspect", "packed", "preprocess", "read", "recording", "simulate", "splits", "windows", "write")


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'poco.data' has no attribute '{name}'")
    return importlib.import_module(f"poco.data.{name}")
