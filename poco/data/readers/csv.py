"""Comma-, tab-, semicolon- or space-separated tables of numbers."""

from __future__ import annotations

import csv
import re
import warnings
from pathlib import Path

import numpy as np

from poco.data.readers.base import Contents, Entry, guard
from poco.errors import DataError

FORMAT = "csv"
_DECIMAL = re.compile(r"[-+]?(\d+\.\d*|\.\d+|\d+(?=e))(e[-+]?\d+)?", re.IGNORECASE)
#: Cells without a value, in lower case.
_MISSING = ("", "na", "n/a", "nan", "null")


def rows(path: Path) -> list[list[str]]:
    """All cells as text, one list a line; empty lines are skipped, lines may differ in length."""
    with guard(path, "CSV"):
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    filled = [line for line in lines if line.strip()]
    return _cells(filled, _separator(path, filled[0])) if filled else []


def _cells(lines: list[str], separator: str | None) -> list[list[str]]:
    if separator is None:
        return [line.split() for line in lines]
    return [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=separator, skipinitialspace=True)]


def _first_row(path: Path) -> tuple[str, ...]:
    """The cells of the first line that is not empty; the rest is not read."""
    with guard(path, "CSV"):
        line = _first_line(path)[1]
        return tuple(_cells([line], _separator(path, line))[0]) if line else ()


def _first_line(path: Path) -> tuple[int, str]:
    """The first line that is not empty and its number (from 1)."""
    with path.open(encoding="utf-8-sig") as file:
        return next(((number, line) for number, line in enumerate(file, start=1) if line.strip()), (0, ""))


def _separator(path: Path, line: str) -> str | None:
    if path.suffix.lower() == ".tsv":
        return "\t"
    return next((mark for mark in (",", "\t", ";") if mark in line), None)


def table(path: Path, *, header: bool = False) -> np.ndarray:
    """The numbers of a table, ``[lines, columns]`` float64; an empty cell is NaN, and so are ``nan``, ``NA``, ``null``.

    Args:
        path: the file.
        header: whether the first line holds names, which are skipped.

    Raises:
        DataError: where a cell is no number or a line has more or fewer cells; line and column are named (from 1).
    """
    with guard(path, "CSV"):
        number, first = _first_line(path)
        if not first:
            raise DataError(f"{path}: is empty")
        try:
            values = _fast_table(path, _separator(path, first), skip=number if header else 0)
        except ValueError:
            values = _careful_table(path, first, header=header)
    if not values.size:
        raise DataError(f"{path}: holds no numbers")
    return values


def _fast_table(path: Path, separator: str | None, *, skip: int) -> np.ndarray:
    """As ``table``, for files in which every cell is a number; so many lines at the beginning are skipped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that of a file without numbers
        return np.loadtxt(path, delimiter=separator, ndmin=2, skiprows=skip, comments=None, encoding="utf-8-sig")


def _careful_table(path: Path, first: str, *, header: bool) -> np.ndarray:
    """As ``table``, cell by cell: for files with empty cells, and to say where a wrong cell is."""
    separator = _separator(path, first)
    values: list[list[float]] = []
    named = header
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            if named:
                named = False
                continue
            cells = line.rstrip("\r\n").split(separator)
            first_line = not header and not values
            row = [
                _number(path, cell.strip().strip('"'), number, column, may_be_name=first_line)
                for column, cell in enumerate(cells, 1)
            ]
            if values and len(row) != len(values[0]):
                raise DataError(f"{path}: line {number} has {len(row)} cells where the first has {len(values[0])}")
            values.append(row)
    return np.asarray(values, dtype=np.float64)


def _number(path: Path, cell: str, line: int, column: int, *, may_be_name: bool) -> float:
    try:
        return float("nan") if cell.lower() in _MISSING else float(cell.replace("_", "?"))  # Python's own 1_000
    except ValueError:
        hint = "; if the first line holds names, say --header, or header = true under [activity]" if may_be_name else ""
        if column == 1 and not may_be_name:
            hint = "; a table holds numbers alone, below a line of names: take out a column of names"
        if ";" in cell or "," in cell:
            hint = "; with semicolons between the numbers, decimals must be written with points, not commas"
        raise DataError(f"{path}: line {line}, column {column} is not a number: '{cell[:40]}'{hint}") from None


def read(path: Path, *, header: bool = False) -> Contents:
    """A table: key ``table`` for its numbers, ``text`` for its cells as text."""
    with guard(path, "CSV"), path.open("rb") as file:
        if b"\0" in file.read(4096):
            raise DataError(f"{path}: is not a text file")
    entries = {
        "table": Entry((-1, -1), "float64", lambda: table(path, header=header)),
        "text": Entry(None, "text", lambda: rows(path)),
    }
    contents = Contents(path, FORMAT, entries, key="table")
    first = _first_row(path)
    if header:
        contents.columns = tuple(name or f"Unnamed: {place}" for place, name in enumerate(first))  # as in pandas
        value = next((name for name in first if _DECIMAL.fullmatch(name)), None)
        if value is not None:
            contents.warnings.append(
                f"the first line is taken for names, as header says, but holds '{value}': if these are values, leave "
                "out --header (header = true)"
            )
    elif _numbers_columns(first):
        contents.warnings.append(
            f"the first line numbers the columns, {', '.join(first[:3])}, ..., and is taken for a frame: if these are "
            "names, say --header (header = true)"
        )
    return contents


def _numbers_columns(cells: tuple[str, ...]) -> bool:
    """Whether these are 0, 1, ... or 1, 2, ..., but for a first that is empty, above an index."""
    names = cells[1:] if cells and not cells[0] else cells
    return len(names) > 1 and any(names == tuple(map(str, range(start, start + len(names)))) for start in (0, 1))
