"""What commands print: JSON for machines, tables for people, notes on standard error."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np


def print_json(value: Any) -> None:
    """Print one JSON document on standard output; values that are not finite become null."""
    print(json.dumps(plain(value), indent=2, allow_nan=False), flush=True)


def plain(value: Any) -> Any:
    """The value as what JSON holds: numpy scalars and arrays, tuples and paths become plain."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    return str(value)


def note(text: str) -> None:
    """Print a line for a person on standard error."""
    print(text, file=sys.stderr, flush=True)


def say(text: str = "") -> None:
    """Print a line for a person on standard output."""
    print(text, flush=True)


class LeftOut:
    """Prints lines as they come; after the table, those of what was left out once more."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def __call__(self, line: str) -> None:
        """Print a line."""
        say(line)
        if ": left out, " in line:
            self._lines.append(line)

    def again(self) -> None:
        """Print what was left out once more."""
        for line in self._lines:
            say(line)


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], bold_row: int | None = None) -> None:
    """Print a table on standard output; the first column is text, the others are numbers."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    for number, row in enumerate(rows):
        table.add_row(*row, style="bold" if number == bold_row else None)
    # Without a terminal rich would cut the table at 80 columns.
    width = None if sys.stdout.isatty() else 200
    console = Console(file=sys.stdout, width=width, highlight=False, markup=False)
    console.print(title, style="bold")
    console.print(table)


def number(value: float | None) -> str:
    """A score for a table."""
    return "-" if value is None or math.isnan(value) else f"{value:.3f}"
