"""Processes of their own that run the package under test."""

from __future__ import annotations

import os
from pathlib import Path

import poco.errors

PACKAGES = Path(poco.errors.__file__).parents[1]  # where the package that is tested lies, installed or a source tree


def environment(*first: Path, **more: str) -> dict[str, str]:
    """Environment variables for a process that tests the same package as this one, whatever folder it starts in.

    ``python -m`` looks in the folder that it starts in first: start it with ``cwd`` elsewhere than in a source tree.

    Args:
        first: folders in which modules are looked for before the package.
        more: further variables.
    """
    path = os.pathsep.join(map(str, (*first, PACKAGES)))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **more}
