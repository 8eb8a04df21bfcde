"""What several command lines have in common; it imports no torch, whose settings come first."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable


def count(text: str) -> int:
    """A whole number above 0."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value


def duration(text: str) -> float:
    """Seconds, or what else is more than 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be more than 0, got {text}")
    return value


def expect_known(parser: argparse.ArgumentParser, given: Iterable[str], known: list[str]) -> None:
    """Ends the program with an error unless all contestants that are given are known."""
    for name in given:
        if name not in known:
            parser.error(f"argument --contestants: there is no '{name}'; there are {', '.join(map(repr, known))}")
