"""Descriptions of data sets: small TOML files that say what the files themselves leave open."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from poco import toml
from poco.data.readers.base import FRAMES_FIRST, UNITS_FIRST
from poco.errors import DataError
from poco.wording import choices

FILE_NAME = "dataset.toml"

#: Values of fields that have only these.
CHOICES: dict[str, tuple[str, ...]] = {
    "orientation": (UNITS_FIRST, FRAMES_FIRST),
    "nan": ("keep", "drop", "cut", "cut-drop", "error"),
    "constant": ("keep", "drop", "error"),
    "rois": ("accepted", "all"),
    "time_unit": ("s", "ms"),
    "form": ("list", "index", "members", "count"),
}


@dataclass(frozen=True)
class Sessions:
    """How files become sessions.

    Attributes:
        pattern: regular expression, searched in the path of a file relative to the folder (with ``/key`` after it where
            ``activity.key`` is a pattern). Its named groups can be used, as ``{group}``, in all templates.
        name: template of the session's name. Default: the group ``session``, otherwise the file's name.
        subject: template of the animal's name. Default: the group ``subject``, otherwise the session's name.
        unit: template of a unit's name: each file is one unit; those of one session are stacked, sorted by number.
    """

    pattern: str | None = None
    name: str | None = None
    subject: str | None = None
    unit: str | None = None


@dataclass(frozen=True)
class Activity:
    """Where the activity is in a file and how to take it.

    Attributes:
        key: key of the array; with ``*`` in it, every key that fits is one session.
        orientation: ``"units x frames"`` or ``"frames x units"``; of a format that says so itself it is left aside.
        rate_hz: frames a second.
        rate_key: key of a number that is the rate.
        time_key: key of the time stamps, one a frame.
        time_row: row of the array that holds the time stamps, not a unit (0 is the first).
        time_column: column of the array that holds the time stamps, or counts frames as its name says.
        time_unit: ``"s"`` or ``"ms"``.
        gap: an interval between frames longer than this many seconds ends a stretch. Default: 1.5 median intervals.
        nan: units with NaN or infinite values: ``"keep"``, ``"drop"`` or ``"error"``; ``"cut"`` keeps them, and ends
            stretches at frames that hold no value of any unit; ``"cut-drop"`` then drops units that lack others.
        constant: units that never change: ``"keep"``, ``"drop"`` or ``"error"``.
        leave_out: units to leave out, by name: ``"session/unit"``, or ``"unit"`` for every session that has it.
        rois: ``"accepted"`` or ``"all"``, where a format marks accepted cells.
        neuropil: fraction of the neuropil signal to subtract (suite2p; 0.7 is its own default). 0 subtracts nothing.
        header: whether the first line of a table (CSV) holds names.
    """

    key: str | None = None
    orientation: str | None = None
    rate_hz: float | None = None
    rate_key: str | None = None
    time_key: str | None = None
    time_row: int | None = None
    time_column: int | None = None
    time_unit: str = "s"
    gap: float | None = None
    nan: str = "keep"
    constant: str = "keep"
    leave_out: tuple[str, ...] = ()
    rois: str = "accepted"
    neuropil: float = 0.0
    header: bool = False


@dataclass(frozen=True)
class Source:
    """Where labels, coordinates or a channel come from.

    Attributes:
        file: template of the file, relative to the folder. Default: the recording's own file.
        key: template of the key in it.
        column: column of a table, from 0. Default: all of it.
        form: ``"list"``: one value a unit; ``"index"``: a dictionary from unit number to value; ``"members"``: one line
            for each group, listing the numbers of its units; ``"count"``: a number m, units before m are in the first
            group.
        pick: for ``"index"``: the field of the value that holds the label.
        first: number of the first unit in ``"index"`` and ``"members"``, 0 or 1.
        names: for values that are codes: what each stands for; for ``"count"``: ``before`` and ``after``.
        optional: whether some sessions do without it.
    """

    file: str | None = None
    key: str | None = None
    column: int | None = None
    form: str = "list"
    pick: str | None = None
    first: int = 0
    names: Mapping[str, str] = field(default_factory=dict)
    optional: bool = False


@dataclass(frozen=True)
class Trials:
    """Short trials, one after another in one record.

    Attributes:
        frames: length of a trial.
        cut: whether a stretch ends at each trial border; otherwise windows cross the borders.
    """

    frames: int = 0
    cut: bool = False


@dataclass(frozen=True)
class Description:
    """What a person has to say about the files of a data set.

    Attributes:
        name: name of the data set. Default: that which the file says, otherwise ``"default"``.
        species, area, indicator, licence, citation, source: for people; carried along as provenance.
        neural: False for a control that is not neural activity.
        notes: for people.
        warnings: carried along with every recording.
        files: patterns of the recordings' files, relative to the folder.
        format: format of the files, where name and content do not tell.
        sessions, activity, labels, coordinates, channels, trials: see the classes.
        origin: where the description was found; not a field of the file.
        root: the folder it describes; not a field of the file.
    """

    name: str = ""
    species: str = ""
    area: str = ""
    indicator: str = ""
    licence: str = ""
    citation: str = ""
    source: str = ""
    neural: bool = True
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    format: str | None = None
    sessions: Sessions = Sessions()
    activity: Activity = Activity()
    labels: Mapping[str, Source] = field(default_factory=dict)
    coordinates: Source | None = None
    channels: Mapping[str, Source] = field(default_factory=dict)
    trials: Trials = Trials()
    origin: str = ""
    root: Path | None = None

    @property
    def facts(self) -> dict[str, str]:
        """Species, indicator, licence, ... as far as they are given."""
        names = ("species", "area", "indicator", "licence", "citation", "source")
        return {name: getattr(self, name) for name in names if getattr(self, name)}


OPTIONS = (
    *(f.name for f in dataclasses.fields(Activity)),
    "files",
    "format",
    "dataset",
    "session",
    "subject",
    "cut_trials",
    "trial_frames",
)
"""Options of ``read`` and ``inspect``; each stands for one field of a description and overrides it."""


def parse(content: Mapping[str, Any], origin: str) -> Description:
    """Check a description's fields and types.

    Args:
        content: the content of a TOML file.
        origin: what to call it in messages, usually its path.

    Raises:
        DataError: for an unknown field (close ones are named) or a value of the wrong type.
    """
    values = dict(content)
    tables: dict[str, Any] = {}
    for name, kind in (("sessions", Sessions), ("activity", Activity), ("trials", Trials), ("coordinates", Source)):
        if name in values:
            tables[name] = _table(kind, values.pop(name), f"{origin}: [{name}]")
    for name in ("labels", "channels"):
        if name in values:
            group = values.pop(name)
            if not isinstance(group, Mapping):
                raise DataError(f"{origin}: {name} must be a table")
            tables[name] = {key: _table(Source, value, f"{origin}: [{name}.{key}]") for key, value in group.items()}
    for hidden in ("origin", "root"):
        if hidden in values:
            raise DataError(f"{origin}: there is no field '{hidden}'")
    known = [f.name for f in dataclasses.fields(Description) if f.name not in ("origin", "root")]
    top = _checked(Description, values, origin, known)
    description = Description(**top, **tables, origin=origin)
    if description.sessions.pattern is not None:
        try:
            re.compile(description.sessions.pattern)
        except re.error as error:
            raise DataError(f"{origin}: [sessions]: pattern is no regular expression: {error}") from None
    if description.trials.cut and description.trials.frames < 1:
        raise DataError(f"{origin}: [trials]: cut = true needs frames, the length of a trial")
    return description


def _table(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, Mapping):
        raise DataError(f"{where} must be a table, got {value!r}")
    return kind(**_checked(kind, dict(value), where, [f.name for f in dataclasses.fields(kind)]))


def _checked(kind: Any, values: dict[str, Any], where: str, known: list[str]) -> dict[str, Any]:
    types = {f.name: str(f.type) for f in dataclasses.fields(kind)}
    out: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise DataError(f"{where}: there is no field '{name}': {choices(name, known)}")
        out[name] = _value(name, value, types[name], where)
    return out


def _value(name: str, value: Any, kind: str, where: str) -> Any:
    expected = ""
    if kind.startswith("str"):
        expected = "" if isinstance(value, str) else "text"
    elif kind.startswith("bool"):
        expected = "" if isinstance(value, bool) else "true or false"
    elif kind.startswith("int"):
        expected = (
            "" if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else "a whole number from 0"
        )
    elif kind.startswith("float"):
        good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf")
        expected = "" if good else "a number from 0"
        value = float(value) if good else value
    elif kind.startswith("tuple"):
        value = (value,) if isinstance(value, str) else value
        expected = (
            "" if isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value) else "a list of texts"
        )
        value = tuple(value) if not expected else value
    elif kind.startswith("Mapping"):
        good = isinstance(value, Mapping) and all(isinstance(v, str) for v in value.values())
        expected = "" if good else "a table of texts"
    if name == "rate_hz" and isinstance(value, int | float) and not isinstance(value, bool) and value <= 0:
        raise DataError(f"{where}: rate_hz (--rate) must be above 0, got {value:g}")
    if expected:
        raise DataError(f"{where}: {name} must be {expected}, got {value!r}")
    if name in CHOICES and value not in CHOICES[name]:
        known = " or ".join(f'"{choice}"' for choice in CHOICES[name])
        raise DataError(f"{where}: {name} must be {known}, got {value!r}")
    return value


def load(path: Path) -> Description:
    """The description in a TOML file.

    Raises:
        DataError: if it is missing, no TOML, or has fields that are not known.
    """
    try:
        content = toml.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot read the description: {error.strerror}") from None
    except ValueError as error:
        raise DataError(f"{path}: is no valid TOML: {error}") from None
    return parse(content, str(path))


def absolute(path: Path) -> Path:
    """The path from the root, without ``..`` and without following links."""
    return Path(os.path.abspath(path))


def built_in_folder() -> Path:
    """Where the descriptions lie that come with poco: in the package, or in a source tree under ``examples``."""
    package = Path(__file__).resolve().parent
    inside = package / "descriptions"
    return inside if inside.is_dir() else package.parent.parent / "examples" / "datasets"


def candidates(path: Path) -> Iterator[tuple[Path, Path]]:
    """Places where a description of ``path`` may be, nearest first, each with the folder that it would describe."""
    path = absolute(path)
    if path.is_dir():
        yield path / FILE_NAME, path
        if path.name:  # the root has none
            yield path.with_name(path.name + ".toml"), path
    else:
        yield path.with_name(path.name + ".toml"), path.parent
        yield path.with_suffix(".toml"), path.parent
    above = [path, *path.parents][:4] if path.is_dir() else list(path.parents)[:4]
    for folder in above:
        yield folder / FILE_NAME, folder
    for folder in above:
        if folder.name:
            yield built_in_folder() / f"{folder.name}.toml", folder
