"""Recordings that :func:`poco.data.write.write` wrote: NPZ files that say all there is to say themselves."""

from __future__ import annotations

import json

from poco.data.readers.base import UNITS_FIRST, Contents, guard
from poco.errors import DataError

VERSION = 1
#: Names of the arrays: a text in JSON, ``[N, T]``, ``[N, 2 or 3]``, and what the names of channels begin with.
ABOUT, ACTIVITY, COORDINATES, CHANNEL = "poco_recording", "activity", "coordinates", "channel/"


def is_own(contents: Contents) -> bool:
    """Whether an NPZ file is one of these."""
    return ABOUT in contents.entries


def read(contents: Contents) -> Contents:
    """The same contents with all that the file says of the recording.

    Raises:
        DataError: if it is damaged or of another version.
    """
    with guard(contents.path, "recording"):
        about = json.loads(str(contents.get(ABOUT)))
        version = about["version"]
    if version != VERSION:
        raise DataError(f"{contents.path}: a recording of version {version}, this poco reads {VERSION}")
    with guard(contents.path, "recording"):
        contents.key, contents.orientation = ACTIVITY, UNITS_FIRST
        contents.title, contents.subject, contents.dataset = about["session"], about["subject"], about["dataset"]
        contents.rate_hz = about["rate_hz"]
        contents.unit_ids = tuple(about["unit_ids"])
        contents.labels = {name: tuple(values) for name, values in about["labels"].items()}
        contents.stretches = tuple((start, stop) for start, stop in about["stretches"])
        contents.provenance, contents.warnings = about["provenance"], about["warnings"]
        contents.neural = about["provenance"].get("neural") != "no"
        names = [name for name in contents.entries if name.startswith(CHANNEL)]
        contents.channels = {name[len(CHANNEL) :]: contents.get(name) for name in names}
        contents.coordinates = contents.get(COORDINATES) if COORDINATES in contents.entries else None
    return contents
