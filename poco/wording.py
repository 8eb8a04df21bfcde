"""Numbers and lists of names in messages."""

from __future__ import annotations

import csv
import difflib
import io
import shlex
from collections.abc import Iterable, Sequence

from poco.errors import ConfigError


def counted(count: int, one: str, several: str = "") -> str:
    """``1 frame``, ``2 frames``; with what comes after the number of several things where that is not ``one`` and s."""
    return f"{count} {one if count == 1 else several or f'{one}s'}"


def at_rate(rate_hz: float | None) -> str:
    """``2 Hz``, or that no rate is known."""
    return "no rate" if rate_hz is None else f"{rate_hz:.6g} Hz"


def begun(names: Sequence[str], most: int) -> str:
    """``a, b, c``, and dots in place of those above ``most``."""
    return ", ".join([*names[:most], *["..."][: len(names) > most]])


def choices(name: object, known: Iterable[str]) -> str:
    """What to say after a name that there is not: the one that is written much like it, and all that there are."""
    there = sorted(known)
    close = difflib.get_close_matches(str(name), there, n=1)
    return (f"did you mean '{close[0]}'? " if close else "") + f"there are {', '.join(there)}"


def some(names: Sequence[str], most: int) -> str:
    """``a, b, c``, and how many more there are than ``most``."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def listed(text: str) -> list[str]:
    """What a text has between commas or line ends; a name with a comma of its own is in double quotes."""
    rows = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True)
    try:
        return [name.strip() for row in rows for name in row if name.strip()]
    except csv.Error as error:
        raise ConfigError(f"the list beginning '{text[:40]}' cannot be read: {error}") from None


def as_list(names: Iterable[object]) -> str:
    """The text that :func:`listed` has these names of."""
    text, end = io.StringIO(newline=""), "\r\n"
    csv.writer(text, lineterminator=end).writerow(names)
    return text.getvalue().removesuffix(end)


def enumerated(names: Iterable[object]) -> str:
    """The same for people, with spaces."""
    return ", ".join(as_list([name]) for name in names)


def typed(*names: object) -> str:
    """The same list as it is typed in a shell."""
    return shlex.quote(as_list(names))


def way_without(name: str) -> str:
    """The option that leaves out a session of this name."""
    return f"--without {typed(name)}"
