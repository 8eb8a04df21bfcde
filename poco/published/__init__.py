"""The data sets of the published work: fetched, and read from the files as they were published."""

from __future__ import annotations

from poco.published.fetch import download
from poco.published.registry import NAMES, read

__all__ = ["NAMES", "download", "read"]
