"""Read recordings from files and folders of any known format."""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from poco.data import description as descriptions
from poco.data import session, sources
from poco.data.choice import Choice
from poco.data.description import Activity, Description, absolute
from poco.data.origin import Origin
from poco.data.readers import SUFFIXES, TITLED, Contents, nwb, recognise
from poco.data.recording import Recording
from poco.data.unit_choice import of_no_session
from poco.errors import ConfigError, DataError, PocoError
from poco.files import CONFIG, MODEL
from poco.wording import choices, way_without

#: Fields of a description that say when frames were taken.
_TIMES = {"rate_hz", "rate_key", "time_key", "time_row", "time_column"}
_MOST_BELOW = 10_000  # files further down that are looked at for a hint


def read(
    path: str | Path | Sequence[str | Path],
    *,
    description: str | Path | Mapping[str, Any] | None = None,
    published: str | None = None,
    sessions: str | Sequence[str] | None = None,
    without: str | Sequence[str] = (),
    **options: Any,
) -> list[Recording]:
    """Read the sessions in a file or folder.

    Formats are recognised by name and content: NWB, suite2p folder, CaImAn HDF5, HDF5, MATLAB, NPY, NPZ, CSV, zarr and
    pickles of numpy arrays. What a file leaves open (which array, which axis is time, the rate) a description must say:
    the argument, a ``dataset.toml`` in the folder or beside the file, a ``NAME.toml`` beside the file or folder, or one
    that comes with poco and has the folder's name.

    Args:
        path: a file, a folder, or several of them.
        description: path of a description, or its content as a dictionary.
        published: name of a data set of the published work in its published files (:data:`poco.published.NAMES`); then
            nothing but ``rate_hz`` is left open.
        sessions: names of the sessions to read, or the name of one. Default: all. Files of others need not be
            readable, where their names can be told before they are read.
        without: names of sessions to leave out, or the name of one.
        **options: single fields that override the description: those of ``[activity]`` (``key``, ``orientation``,
            ``rate_hz``, ``nan``, ``constant``, ``leave_out``, ``rois``, ``neuropil``, ...), ``files``, ``format``,
            ``dataset`` (its name), ``session`` and ``subject`` (names or templates), ``cut_trials``,
            ``trial_frames``.

    Returns:
        One recording a session, activity ``[N, T]`` float32 (units x frames), in the order of the files' names.

    Raises:
        DataError: if something is missing, damaged or left open; the message is one line that says what to do.
        ConfigError: if ``without`` leaves no session.
        MissingExtraError: if a format needs a package that is not installed.
    """
    choice = Choice(sessions, without)
    found = read_chosen(path, choice, description=description, published=published, **options)
    choice.check()
    return found


def read_chosen(
    path: str | Path | Sequence[str | Path],
    choice: Choice,
    *,
    description: str | Path | Mapping[str, Any] | None = None,
    published: str | None = None,
    **options: Any,
) -> list[Recording]:
    """As :func:`read`, where the caller looks after sessions that are not there."""
    paths = [path] if isinstance(path, (str, Path)) else list(path)
    if not paths:
        raise DataError("no path to read from")
    given = {**options, "description": description, "published": published}
    recordings: list[Recording] = []
    left_out: dict[str, None] = {}
    for one in map(Path, paths):
        if published is not None:
            found = _read_published(published, one, description, options, choice)
        else:
            job = Job(one, description, options)
            found = job.read(choice)
            left_out |= dict.fromkeys(job.description.activity.leave_out)
        recordings += [dataclasses.replace(r, origin=Origin.of(one, given, r)) for r in found]
    lost = of_no_session(left_out, choice.names, [recording.provenance for recording in recordings])
    if lost and recordings:
        recordings[0] = dataclasses.replace(recordings[0], warnings=(*recordings[0].warnings, *lost))
    return recordings


def left_open(path: str | Path, options: Mapping[str, Any], sessions: Iterable[str] = ()) -> dict[str, Any]:
    """Of options that recordings of these sessions were read with, those that this path leaves open.

    Its description, if it has one, settles others, and its file may say the rate. Units to leave out of sessions that
    are not here are none of this path's.
    """
    try:
        job = Job(Path(path), None, {})
        found = job.description
        settled = {
            field.name for field in dataclasses.fields(Activity) if getattr(found.activity, field.name) != field.default
        }
        if found.origin:
            settled |= {"description", "published"}
        if "rate_hz" in options and settled.isdisjoint(_TIMES):
            own = job.contents(job.plans[0])
            if own.rate_hz is not None or own.times is not None:
                settled.add("rate_hz")
        named = bool(options.get("leave_out"))
        here = {plan.name or job.contents(plan).title or plan.label for plan in job.plans} if named else set()
    except PocoError:  # it cannot be read without the options
        return dict(options)
    if not settled.isdisjoint(_TIMES):
        settled |= _TIMES
    left = {name: value for name, value in options.items() if name not in settled}
    if named and "leave_out" in left:
        elsewhere = tuple(f"{name}/" for name in sessions if name not in here)
        left["leave_out"] = [unit for unit in left["leave_out"] if not unit.startswith(elsewhere)]
    return left


@contextlib.contextmanager
def without_options() -> Iterator[None]:
    """Where options of reading cannot be given: an error that names some says where to write them."""
    try:
        yield
    except DataError as error:
        if "--" not in str(error):
            raise
        file = descriptions.FILE_NAME
        raise DataError(f"{error} (there are no such options here: write it in {file} beside the recordings)") from None


def _read_published(
    name: str, path: Path, description: Any, options: Mapping[str, Any], choice: Choice
) -> list[Recording]:
    """The sessions wanted; one that is not is let go before the next file is read."""
    from poco.published import registry

    wanted = {**options, "description": description}
    rate = wanted.pop("rate_hz", None)
    given = [option for option, value in wanted.items() if value is not None and value != "keep"]  # they keep all units
    if given:
        raise ConfigError(f"files of the published data set {name} leave no '{given[0]}' open: leave it out")
    found: list[Recording] = []
    for file in registry.files(name, path):
        found += [one for one in registry.sessions(name, file) if choice.takes(one.session)]
    return found if rate is None else [dataclasses.replace(recording, rate_hz=rate) for recording in found]


class Job:
    """The sessions that a path holds, found but not loaded yet.

    Args:
        path: a file or folder.
        description: as in ``read``.
        options: as in ``read``; options that are None are ignored.

    Attributes:
        path: the file or folder.
        description: the description that applies, with the options put in.
        plans: one for each session.
    """

    def __init__(
        self, path: Path, description: str | Path | Mapping[str, Any] | None, options: Mapping[str, Any]
    ) -> None:
        self.path = path.expanduser()
        try:
            if not self.path.exists():
                raise DataError(f"{path}: no such file or folder")
            if not (self.path.is_file() or self.path.is_dir()):
                raise DataError(f"{path} is neither a file nor a folder: save to a file what comes out of it")
            if (self.path / MODEL / CONFIG).is_file():
                raise DataError(f"{path} is the folder of a run or of an adapted model: recordings are wanted")
            found, files = _describe(self.path, description, options)
        except PermissionError as error:
            raise DataError(f"{error.filename}: no permission to read it") from None
        self.description = found
        self._opener = sources.Opener(found.activity, found.format)
        self.plans = self._plan(files)

    def load(self, plan: session.Plan) -> session.Loaded:
        """Read one session."""
        return session.load(plan, self.description, self._opener)

    def contents(self, plan: session.Plan) -> Contents:
        """What the first file of a session holds."""
        return self._opener.recording(plan.parts[0].path, plan.parts[0].key)

    def read(self, choice: Choice) -> list[Recording]:
        """The recordings of the sessions wanted; a session that is not is not loaded where its name is known before."""
        recordings = []
        for plan, known in self.candidates(choice):
            try:
                recording = self.load(plan).recording
            except PocoError as error:
                if not known and not choice.takes(plan.label):
                    continue
                raise type(error)(f"{error}{self.way_out(plan)}") from None
            if known or choice.takes(recording.session):
                recordings.append(recording)
        return recordings

    def candidates(self, choice: Choice) -> Iterator[tuple[session.Plan, bool]]:
        """Sessions that are wanted, and those that may be, as only their files say their names; whether it is known."""
        for plan in self.plans:
            titled = not plan.name and (self.description.format or recognise(plan.parts[0].path)) in TITLED
            if titled or choice.takes(plan.label):
                yield plan, not titled

    def way_out(self, plan: session.Plan) -> str:
        """How to do without a file that cannot be read."""
        if len(self.plans) == 1:
            return ""
        return f"; to leave it out: {way_without(plan.label)}, or files = [...] in dataset.toml"

    def _plan(self, files: list[Path]) -> list[session.Plan]:
        naming, key = self.description.sessions, self.description.activity.key
        plans: dict[str, session.Plan] = {}
        for path in files:
            for one_key in self._keys(path, key):
                groups = self._groups(path, one_key if one_key != key else None)
                name = self._fill(naming.name, groups) or groups.get("session", "")
                if not name and naming.unit:
                    name = path.parent.name
                if not name and one_key != key:
                    name = f"{path.stem}/{one_key}"
                subject = self._fill(naming.subject, groups) or groups.get("subject", "")
                unit = self._fill(naming.unit, groups) or None
                part = session.Part(path, (self._fill(one_key, groups) or None) if one_key == key else one_key, unit)
                slot = name if unit is not None else f"{name}\0{len(plans)}"
                groups = {**groups, "session": name or path.stem, "subject": subject or name or path.stem}
                plans.setdefault(slot, session.Plan(name, subject, groups)).parts.append(part)
        for plan in plans.values():
            plan.parts.sort(key=lambda part: _natural(part.unit or ""))
            self._check_units(plan)
        return list(plans.values())

    def _keys(self, path: Path, key: str | None) -> list[str | None]:
        """The keys that are a session each, where ``key`` is a pattern; otherwise ``key`` itself."""
        if key is None or "*" not in key:
            return [key]
        if (self.description.format or recognise(path)) == "nwb":
            return [*nwb.matching(path, key)] or [key]
        contents = self._opener.recording(path, None)
        found: list[str | None] = [
            name for name, entry in contents.entries.items() if entry.numeric and fnmatch.fnmatchcase(name, key)
        ]
        if not found:
            raise DataError(f"{path}: no key fits '{key}'; it has {contents.keys_text()}")
        return found

    def _groups(self, path: Path, key: str | None) -> dict[str, str]:
        """What templates can use: the named groups of the pattern, ``stem``, ``folder`` and ``key``."""
        base = self.description.root or path.parent
        whole = absolute(path)
        relative = whole.relative_to(base).as_posix() if whole.is_relative_to(base) else path.name
        target = f"{relative}/{key}" if key else relative
        groups = {"stem": path.stem, "folder": path.parent.name, "key": key or ""}
        pattern = self.description.sessions.pattern
        if pattern is not None:
            match = re.search(pattern, target)
            if match is None:
                raise DataError(f"{path}: '{target}' does not fit the pattern '{pattern}' ({self.description.origin})")
            groups |= {name: value or "" for name, value in match.groupdict().items()}
        return groups

    def _fill(self, template: str | None, groups: Mapping[str, str]) -> str:
        return "" if template is None else sources.fill(template, groups, self.description.origin or "options")

    def _check_units(self, plan: session.Plan) -> None:
        seen: dict[str, Path] = {}
        for part in plan.parts:
            if part.unit is not None and part.unit in seen:
                raise DataError(
                    f"{part.path}: unit '{part.unit}' of session '{plan.name}' is also in {seen[part.unit].name}"
                )
            seen[part.unit or ""] = part.path


def _describe(
    path: Path, given: str | Path | Mapping[str, Any] | None, options: Mapping[str, Any]
) -> tuple[Description, list[Path]]:
    """The description that applies, and the recordings' files."""
    folder = absolute(path) if path.is_dir() else absolute(path).parent
    if isinstance(given, Mapping):
        found = dataclasses.replace(descriptions.parse(given, "description"), root=folder)
    elif given is not None:
        found = dataclasses.replace(descriptions.load(Path(given).expanduser()), root=folder)
    else:
        return _search(path, folder, options)
    found = _with_options(found, options)
    if path.is_file():
        return found, [path]
    return found, _files(found, folder, path)


def _search(path: Path, folder: Path, options: Mapping[str, Any]) -> tuple[Description, list[Path]]:
    for file, root in descriptions.candidates(path):
        if not file.is_file() or file == absolute(path):
            continue
        found = _with_options(dataclasses.replace(descriptions.load(file), root=root), options)
        inside = [one for one in _files(found, root, path, must=False) if _within(one, path)]
        if inside:
            return found, inside
        if root == absolute(path):
            raise DataError(f"{path}: no file in it fits files = {list(found.files)} ({file})")
    found = _with_options(Description(root=folder), options)
    return found, [path] if path.is_file() else _files(found, folder, path)


def _within(one: Path, path: Path) -> bool:
    return absolute(one) == absolute(path) or absolute(path) in absolute(one).parents


def _with_options(found: Description, options: Mapping[str, Any]) -> Description:
    """Put options into the description."""
    content: dict[str, dict[str, Any]] = {"": {}, "activity": {}, "sessions": {}, "trials": {}}
    places = {
        "files": ("", "files"),
        "format": ("", "format"),
        "dataset": ("", "name"),
        "session": ("sessions", "name"),
        "subject": ("sessions", "subject"),
        "cut_trials": ("trials", "cut"),
        "trial_frames": ("trials", "frames"),
    }
    for name, value in options.items():
        if value is None:
            continue
        if name not in descriptions.OPTIONS:
            raise DataError(f"there is no option '{name}' for reading: {choices(name, descriptions.OPTIONS)}")
        table, field = places.get(name, ("activity", name))
        content[table][field] = value
    top = content.pop("")
    if found.trials.frames and content["trials"].get("cut"):
        content["trials"].setdefault("frames", found.trials.frames)
    given = descriptions.parse({**top, **{table: values for table, values in content.items() if values}}, "options")
    changes: dict[str, Any] = {field: getattr(given, field) for field in top}
    for table, values in content.items():
        if values:
            new = {field: getattr(getattr(given, table), field) for field in values}
            changes[table] = dataclasses.replace(getattr(found, table), **new)
    return dataclasses.replace(found, **changes)


def _files(found: Description, root: Path, path: Path, *, must: bool = True) -> list[Path]:
    """The recordings' files of a description, in the order of their names."""
    if found.files:
        files = {
            one for pattern in found.files for one in root.glob(pattern) if one.is_file() or recognise(one) is not None
        }
    elif (found.format in ("suite2p", "zarr") or recognise(root)) and root.is_dir():
        return [root]
    else:
        files = {
            one
            for one in root.iterdir()
            if not one.name.startswith(".")  # "._a.npy" is what a Mac leaves beside a.npy
            and ((one.is_file() and one.suffix.lower() in SUFFIXES) or (one.is_dir() and one.suffix.lower() == ".zarr"))
        }
    if not files and must:
        if found.files:
            raise DataError(f"{path}: no file in it fits files = {list(found.files)} ({found.origin or 'options'})")
        hint = _further_down(root)
        raise DataError(f"{path}: no recording in this folder; known formats are {', '.join(sorted(SUFFIXES))}{hint}")
    return sorted(files, key=lambda one: _natural(one.relative_to(root).as_posix()))


def _further_down(root: Path) -> str:
    """What to say of recordings in folders below, "" if there are none."""
    below = [one.relative_to(root) for one in itertools.islice(root.rglob("*"), _MOST_BELOW)]
    folders = {one.parent.parent for one in below if one.name == "F.npy" and one.parent.name.startswith("plane")}
    inside = [one for one in below if folders.isdisjoint(one.parents)]
    patterns = {(*"*" * (len(one.parts) - 1), one.name) for one in folders if one.parts}
    patterns |= {(*"*" * (len(one.parts) - 1), f"*{one.suffix}") for one in inside if one.suffix.lower() in SUFFIXES}
    if not patterns:
        return ""
    patterns = {one for one in patterns if not one[-1].endswith(".txt")} or patterns  # those may be notes
    files = json.dumps([*map("/".join, sorted(patterns))][:4])
    return f"; there are some further down: say files = {files} in {root / descriptions.FILE_NAME}"


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort key in which numbers count as numbers."""
    return [(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in re.split(r"(\d+)", name) if piece]
