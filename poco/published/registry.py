"""Which published data sets can be read, by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import cast

from poco.data.recording import Recording
from poco.errors import ConfigError, DataError

#: Each has a module of its name in this package, with ``PATTERN``, which files are its, and ``sessions(path)``; where
#: a session has several files, it is made of any of them, and the module says ``SESSION_A_FOLDER``.
NAMES = ("andalman2019", "atanas2023", "chen2018", "harvey", "kato2015", "zapbench")


def read(name: str, path: str | Path | Sequence[str | Path]) -> list[Recording]:
    """All sessions of a published data set.

    Args:
        name: one of :data:`NAMES`.
        path: the folder that it was unpacked into, or one of its files, or several.

    Returns:
        One recording a session, in order of the files' names.

    Raises:
        ConfigError: for another name.
        DataError: if there is no such file, or one is not as it was published; the message names file and key.
        MissingExtraError: if a package that reads the format is missing.
    """
    return [recording for file in files(name, path) for recording in sessions(name, file)]


def sessions(name: str, file: Path) -> list[Recording]:
    """The sessions of one file that :func:`files` found, and of those that belong with it; raises as :func:`read`."""
    found = cast("Callable[[Path], list[Recording]]", _module(name).sessions)
    return found(file)


def files(name: str, path: str | Path | Sequence[str | Path]) -> list[Path]:
    """The files of a published data set, one for each session that has several; raises as :func:`read`."""
    module = _module(name)
    places = [Path(one).expanduser() for one in ([path] if isinstance(path, str | Path) else path)]
    found: list[Path] = []
    for place in places:
        if not place.exists():
            raise DataError(f"{place}: no such file or folder")
        within = sorted(place.rglob(module.PATTERN)) if place.is_dir() and not place.match(module.PATTERN) else [place]
        if not within:
            raise DataError(
                f"{place} holds no file of {name} ({module.PATTERN}): 'poco download {name}' fetches it or says how"
            )
        found += within
    if getattr(module, "SESSION_A_FOLDER", False):
        found = list({file.parent.resolve(): file for file in found}.values())
    return found


def _module(name: str) -> ModuleType:
    if name not in NAMES:
        raise ConfigError(f"there is no published data set '{name}': there are {', '.join(NAMES)}")
    return importlib.import_module(f"poco.published.{name}")
