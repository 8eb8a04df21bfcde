"""Where recordings were read from, so that they can be read again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from poco.data.recording import Recording


@dataclass(frozen=True, eq=False)
class Origin:
    """What :func:`poco.read` read a recording from.

    Attributes:
        path: the file or folder that it was given, with its full path.
        options: the options that it was given, as plain values.
        activity: the array that was read: what was made of it since cannot be read again.
        rest: what else was read that a run goes by: name, data set, rate, names of the units, stretches.
    """

    path: str
    options: Mapping[str, Any]
    activity: np.ndarray = field(repr=False)
    rest: tuple[Any, ...] = field(repr=False)

    @classmethod
    def of(cls, path: Path, options: Mapping[str, Any], recording: Recording) -> Origin:
        """Of a recording that was just read from a path with options; those that are None were not given."""
        given = {name: plain(value) for name, value in options.items() if value is not None}
        return cls(str(path.expanduser().resolve()), given, recording.activity, _rest(recording))

    def gives(self, recording: Recording) -> bool:
        """Whether reading again gives this recording, as far as a run goes by it."""
        return self.activity is recording.activity and self.rest == _rest(recording)


def _rest(recording: Recording) -> tuple[Any, ...]:
    return (recording.session, recording.dataset, recording.rate_hz, recording.unit_ids, recording.stretches)


def source(recordings: Sequence[Recording]) -> dict[str, Any] | None:
    """``path`` (one, or a list) and ``options`` that read these recordings again; None where no such are known.

    They are known where all came from :func:`poco.read` with the same options, and hold what was read.
    """
    origins = [recording.origin for recording in recordings]
    known = [
        origin
        for origin, recording in zip(origins, recordings, strict=True)
        if origin is not None and origin.gives(recording)
    ]
    if len(known) < len(origins) or any(origin.options != known[0].options for origin in known):
        return None
    paths = list(dict.fromkeys(origin.path for origin in known))
    return {"path": paths[0] if len(paths) == 1 else paths, "options": dict(known[0].options)}


def plain(value: Any) -> Any:
    """A value as what JSON holds."""
    if isinstance(value, Path):
        return str(value.expanduser().resolve())
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.generic):
        return value.item()
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value
