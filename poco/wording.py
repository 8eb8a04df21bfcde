"""Numbers and lists of names in messages."""

from __future__ import annotations

from collections.abc import Sequence


def counted(count: int, one: str, several: str = "") -> str:
    """``1 frame``, ``2 frames``; with what comes after the number of several things where that is not ``one`` and s."""
    return f"{count} {one if count == 1 else several or f'{one}s'}"


def begun(names: Sequence[str], most: int) -> str:
    """``a, b, c``, and dots in place of those above ``most``."""
    return ", ".join([*names[:most], *["..."][: len(names) > most]])


def some(names: Sequence[str], most: int) -> str:
    """``a, b, c``, and how many more there are than ``most``."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
