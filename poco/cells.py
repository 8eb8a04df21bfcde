"""Cells, the results of studies and of the scoreboard: each a JSON file with what it is of in its name."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from poco.data.recording import Recording, fingerprint
from poco.errors import CheckpointError, ConfigError
from poco.files import read_json, write_atomically

#: What else a cell was made of, where it is another than now; of all the rest the values are shown.
_OTHERS = {
    "recordings": "of other recordings",
    "datasets": "of recordings that were grouped into other data sets",
    "subjects": "of recordings of other animals",
    "labels": "with other labels of the units",
}
#: Between the parts of a file's name; in a part that :func:`safe` made it does not occur.
_BETWEEN = "--"


def file_of(out: Path, *parts: object) -> Path:
    """The file of a cell in a folder, named after what tells it from others."""
    return out / f"{_BETWEEN.join(safe(str(part)) for part in parts)}.json"


def safe(text: str) -> str:
    """The text as a part of a file's name, another one for each text.

    What systems do not take, ``%``, and hyphens at the ends or beside others are written as ``%`` and two digits.
    """
    return re.sub(r'[\x00-\x1f%/\\:*?"<>|]|^-|-$|-(?=-)|(?<=-)-', lambda found: f"%{ord(found[0]):02X}", text)


def read(out: Path, parts: int) -> dict[Path, dict[str, Any]]:
    """All cells of a folder whose files are named after so many parts, by their files.

    Raises:
        CheckpointError: if a file is damaged.
    """
    files = (file for file in sorted(out.glob("*.json")) if file.stem.count(_BETWEEN) == parts - 1)
    return {file: read_one(file) for file in files}


def read_one(file: Path) -> dict[str, Any]:
    """A cell; a CheckpointError says what to do if its file is damaged."""
    try:
        return read_json(file, "results")
    except CheckpointError as error:
        raise CheckpointError(f"{error}: delete this file, and the same command makes it again") from None


def recordings_of(recordings: Iterable[Recording]) -> list[dict[str, str]]:
    """Names and fingerprints of recordings, as cells have them."""
    return [{"session": recording.session, "fingerprint": fingerprint(recording)} for recording in recordings]


def check(file: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """That something was made as it would be now.

    Args:
        file: where it is.
        before: what it was made with, ``recordings`` those of :func:`recordings_of`.
        now: what it would be made with; what is ``before`` alone does not matter.

    Raises:
        ConfigError: if a value is another.
    """
    for name, value in now.items():
        if before.get(name) != value:
            how = _OTHERS.get(name) or f"with {name} {before.get(name)}, now {value}"
            raise ConfigError(f"{file} was made {how}: take another folder (out, --out)")


def of_several(errors: Sequence[Exception]) -> str:
    """One message of cells that could not be made."""
    first = str(errors[0])
    return first if len(errors) == 1 else f"{len(errors)} cells could not be made: {'; '.join(map(str, errors))}"


def at_least_one(**numbers: int | None) -> None:
    """A ConfigError names a number that is given but below 1."""
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise ConfigError(f"{name} must be at least 1, got {number}")


def with_ends(cells: Iterable[Mapping[str, Any]]) -> Iterable[dict[str, Any]]:
    """Cells with the ends of their intervals over time, ``low`` and ``high``, where they have one."""
    return ({**cell, **dict(zip(("low", "high"), cell.get("interval") or (), strict=False))} for cell in cells)


def write_csv(cells: Iterable[Mapping[str, Any]], columns: Sequence[str], path: Path) -> None:
    """One tidy table, a row for each cell; what a cell does not have is left empty."""
    table = io.StringIO()
    writer = csv.DictWriter(table, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(cells)
    write_atomically(path, table.getvalue().encode())
