"""What several command lines have in common; it imports no torch, whose settings come first."""

from __future__ import annotations

import argparse
from collections.abc import Iterable


def count(text: str) -> int:
    """A whole number above 0."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value


def expect_known(parser: argparse.ArgumentParser, option: str, given: Iterable[str] | None, known: list[str]) -> None:
    """Ends the program with an error unless all names are known."""
    for name in given or ():
        if name not in known:
            parser.error(f"argument {option}: there is no '{name}'; there are {', '.join(map(repr, known))}")
