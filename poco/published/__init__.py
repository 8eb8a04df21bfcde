"""Readers of the data sets of the published work, from the files as they were published."""

from __future__ import annotations

from poco.published.registry import NAMES, read

__all__ = ["NAMES", "read"]
