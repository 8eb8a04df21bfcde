"""Reports: one page of all that runs found. Needs the extra ``report``."""

from __future__ import annotations

from poco.reporting.page import report

__all__ = ["report"]
