"""Optional packages: whether they are here, found without importing them."""

from __future__ import annotations

import importlib.util


def is_installed(module: str) -> bool:
    """Whether a module could be imported, as far as can be told without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
