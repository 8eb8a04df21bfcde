"""Labels, coordinates and channels, from wherever a description says they are."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from poco.data.description import Activity, Description, Source
from poco.data.readers import Contents, open_file, recognise
from poco.data.readers.base import text
from poco.data.rounding import real_numbers
from poco.errors import DataError


class Opener:
    """Opens files and remembers the last few, since several sessions and labels may share one.

    Args:
        activity: how to open them.
        format: format of the recordings' files, if it must be said.
    """

    def __init__(self, activity: Activity, format: str | None) -> None:
        self._activity = activity
        self._format = format
        self._recordings: OrderedDict[tuple[Path, str | None], Contents] = OrderedDict()
        self._others: OrderedDict[Path, Contents] = OrderedDict()
        self._values: OrderedDict[tuple[Path, str], Any] = OrderedDict()

    def recording(self, path: Path, key: str | None) -> Contents:
        """Contents of a file that holds activity."""
        slot = (path, key if (self._format or recognise(path)) == "nwb" else None)  # the others open once for all keys
        if slot not in self._recordings:
            how = self._activity
            self._recordings[slot] = open_file(
                path, format=self._format, key=key, rois=how.rois, neuropil=how.neuropil, header=how.header
            )
        return _latest(self._recordings, slot, 2)

    def other(self, path: Path) -> Contents:
        """Contents of a file that holds labels, coordinates or channels."""
        if path not in self._others:
            self._others[path] = open_file(path)
        return _latest(self._others, path, 8)

    def get(self, contents: Contents, key: str) -> Any:
        """A value of another file, remembered, since several labels may come out of one costly dictionary."""
        slot = (contents.path, key)
        if slot not in self._values:
            self._values[slot] = contents.get(key)
        return _latest(self._values, slot, 8)


def _latest(memory: OrderedDict[Any, Any], slot: Any, limit: int) -> Any:
    """What is in ``slot``; of everything else only the latest few are kept."""
    memory.move_to_end(slot)
    while len(memory) > limit:
        memory.popitem(last=False)
    return memory[slot]


def fill(template: str, groups: Mapping[str, str], origin: str) -> str:
    """``template`` with its ``{groups}`` filled in.

    Raises:
        DataError: if a group is not there.
    """
    try:
        return template.format_map(dict(groups))
    except (KeyError, IndexError, ValueError):
        raise DataError(f"{origin}: cannot fill '{template}'; there are {', '.join(groups)} to fill in") from None


def value(
    source: Source,
    what: str,
    description: Description,
    own: Contents,
    groups: Mapping[str, str],
    opener: Opener,
    table: str,
) -> Any:
    """The value a source leads to; None if it is optional and not there.

    Args:
        source: where to look.
        what: what it is for, for messages.
        description: the description it belongs to.
        own: contents of the recording's own file.
        groups: what templates can use.
        opener: opens further files.
        table: which view of a table to take, ``"text"`` or ``"table"``, where no key is given.

    Raises:
        DataError: if it is not there and not optional.
    """
    contents = own
    if source.file is not None:
        path = (description.root or Path()) / fill(source.file, groups, description.origin)
        if not path.exists():
            if source.optional:
                return None
            raise DataError(f"{path}: no such file; {what} should come from it ({description.origin})")
        contents = opener.other(path)
    key = fill(source.key, groups, description.origin) if source.key is not None else None
    if key is None:
        key = table if contents.format == "csv" else (contents.key or "")
        if not key and len(contents.entries) == 1:
            key = next(iter(contents.entries))
        if not key:
            raise DataError(f"{contents.path}: say which key holds {what}; it has {contents.keys_text()}")
    try:
        return contents.get(key) if source.file is None else opener.get(contents, key)
    except DataError:
        if source.optional:
            return None
        raise


def labels(source: Source, found: Any, units: int, where: str) -> tuple[str, ...]:
    """``N`` labels from what was found; "" where a unit has none.

    Raises:
        DataError: if it does not fit the units or the form.
    """
    if source.form == "count":
        count = _whole(found, where)
        if not 0 <= count <= units:
            raise DataError(f"{where}: {count} is no count of {units} units")
        before, after = source.names.get("before", "before"), source.names.get("after", "after")
        return (before,) * count + (after,) * (units - count)
    if source.form == "index":
        return _by_index(source, found, units, where)
    if source.form == "members":
        return _by_members(source, found, units, where)
    items = [_label(source, item, where) for item in _column(source, found, where)]
    if len(items) != units:
        raise DataError(f"{where}: {len(items)} labels for {units} units")
    return tuple(items)


def _label(source: Source, item: Any, where: str) -> str:
    """What a unit is called: one value, not several."""
    if isinstance(item, (np.ndarray, list, tuple, Mapping)):
        raise DataError(
            f"{where}: a unit has {str(item)[:40]!r} for a label, which is not one value (see pick, column)"
        )
    return source.names.get(text(item), text(item))


def _whole(found: Any, where: str) -> int:
    values = np.asarray(found).reshape(-1)
    try:
        if values.size == 1 and int(values[0]) == float(values[0]):
            return int(values[0])
    except (TypeError, ValueError, OverflowError):
        pass
    raise DataError(f"{where}: should be a whole number, got {str(found)[:40]!r}")


def _column(source: Source, found: Any, where: str) -> list[Any]:
    """A flat list from a list, an array or the rows of a table."""
    rows = found.tolist() if isinstance(found, np.ndarray) else list(found)
    if not rows or not isinstance(rows[0], list):
        return rows
    if source.column is not None:
        try:
            return [row[source.column] for row in rows]
        except IndexError:
            raise DataError(f"{where}: there is no column {source.column} (columns count from 0)") from None
    if len(rows) == 1:
        return list(rows[0])
    if all(len(row) == 1 for row in rows):
        return [row[0] for row in rows]
    raise DataError(f"{where}: has {len(rows)} rows of {len(rows[0])}; say which column holds the labels")


def _by_index(source: Source, found: Any, units: int, where: str) -> tuple[str, ...]:
    if not isinstance(found, Mapping):
        raise DataError(f'{where}: form = "index" needs a dictionary from unit number to label')
    out = [""] * units
    for number, item in found.items():
        index = _whole(number, where) - source.first
        if not 0 <= index < units:
            raise DataError(f"{where}: unit number {number} is outside the {units} units")
        if source.pick is not None:
            if not isinstance(item, Mapping) or source.pick not in item:
                raise DataError(f"{where}: unit {number} has no field '{source.pick}'")
            item = item[source.pick]
        out[index] = _label(source, item, where)
    return tuple(out)


def _by_members(source: Source, found: Any, units: int, where: str) -> tuple[str, ...]:
    groups: list[list[str]] = [[] for _ in range(units)]
    for line, row in enumerate(found, start=1):
        for cell in row if isinstance(row, (list, tuple, np.ndarray)) else [row]:
            if not text(cell):
                continue
            index = _whole(text(cell), where) - source.first
            if not 0 <= index < units:
                raise DataError(f"{where}: line {line} lists unit {text(cell)}, outside the {units} units")
            groups[index].append(source.names.get(str(line), str(line)))
    return tuple(" ".join(names) for names in groups)


def coordinates(found: Any, units: int, where: str) -> np.ndarray:
    """``[N, 2]`` or ``[N, 3]`` float32."""
    values = real_numbers(found, where)
    if values.ndim != 2 or values.shape[0] != units or values.shape[1] not in (2, 3):
        raise DataError(f"{where}: coordinates must be [{units}, 2 or 3], got {values.shape}")
    return values


def channel(source: Source, found: Any, frames: int, where: str) -> np.ndarray:
    """``[T]`` or ``[T, k]`` float32, whichever way the file has it."""
    values = real_numbers(found, where)
    if values.ndim == 2 and values.shape[0] != frames and values.shape[1] == frames:
        values = values.T
    if source.column is not None and values.ndim == 2:
        if source.column >= values.shape[1]:
            raise DataError(f"{where}: there is no column {source.column} of {values.shape[1]} (they count from 0)")
        values = values[:, source.column]
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim not in (1, 2) or values.shape[0] != frames:
        raise DataError(f"{where}: shape {values.shape} does not fit {frames} frames")
    return np.ascontiguousarray(values)
