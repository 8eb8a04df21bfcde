"""Which published data sets can be read, by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
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
    if name not in NAMES:
        raise ConfigError(f"there is no published data set '{name}': there are {', '.join(NAMES)}")
    module = importlib.import_module(f"poco.published.{name}")
    sessions = cast("Callable[[Path], list[Recording]]", module.sessions)
    places = [Path(path)] if isinstance(path, str | Path) else [Path(one) for one in path]
    files: list[Path] = []
    for place in places:
        if not place.exists():
            raise DataError(f"{place}: no such file or folder")
        within = sorted(place.rglob(module.PATTERN)) if place.is_dir() and not place.match(module.PATTERN) else [place]
        if not within:
            raise DataError(
                f"{place} holds no file of {name} ({module.PATTERN}): 'poco download {name}' fetches it or says how"
            )
        files += within
    if getattr(module, "SESSION_A_FOLDER", False):
        files = list({file.parent.resolve(): file for file in files}.values())
    return [recording for file in files for recording in sessions(file)]
