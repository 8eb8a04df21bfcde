"""The data sets of the published work: fetched, and read from the files as they were published."""

from __future__ import annotations

import importlib
from typing import Any

from poco.published.fetch import download
from poco.published.registry import NAMES, read

__all__ = ["NAMES", "download", "read"]


def __getattr__(name: str) -> Any:
    if name not in NAMES:  # each is a module, imported when it is named
        raise AttributeError(f"module 'poco.published' has no attribute '{name}'")
    return importlib.import_module(f"poco.published.{name}")
