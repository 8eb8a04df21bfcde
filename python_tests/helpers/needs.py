"""Marks of tests that need what may not be here; they are skipped with the reason where it is not."""

from __future__ import annotations

import pytest

from poco import core

needs_core = pytest.mark.skipif(core.module() is None, reason="needs the compiled core")
needs_kernels = pytest.mark.skipif(
    core.kernels_missing() is not None, reason=f"needs the CPU kernels: {core.kernels_missing()}"
)
