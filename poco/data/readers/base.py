"""What every reader returns: the arrays a file holds, and what its format settles by itself."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from poco.errors import DataError, PocoError
from poco.wording import some

UNITS_FIRST = "units x frames"
FRAMES_FIRST = "frames x units"


@dataclass(frozen=True)
class Entry:
    """One array (or other value) in a file, loaded when asked for.

    Attributes:
        shape: its shape; None for a value that is not an array.
        dtype: its dtype or Python type, as text.
        load: returns the value.
    """

    shape: tuple[int, ...] | None
    dtype: str
    load: Callable[[], Any]

    @classmethod
    def of(cls, value: Any) -> Entry:
        """An entry for a value that is in memory already."""
        if isinstance(value, (np.ndarray, np.generic)):
            return cls(tuple(value.shape), str(value.dtype), lambda: value)
        return cls(None, type(value).__name__, lambda: value)

    @property
    def numeric(self) -> bool:
        """Whether this is an array of real numbers with at least one axis."""
        if not self.shape:
            return False
        try:
            return np.dtype(self.dtype).kind in "fiub"
        except TypeError:
            return False

    def __str__(self) -> str:
        return self.dtype if self.shape is None else f"{self.shape} {self.dtype}"


@dataclass
class Contents:
    """The arrays in a file, and what the format itself says about the recording (None or empty: it does not say).

    Attributes:
        path: the file or folder.
        format: name of the format.
        entries: arrays by key; levels of a key are separated by ``/``.
        key: key of the activity.
        orientation: ``"units x frames"`` or ``"frames x units"``.
        rate_hz: frames a second.
        times: ``[T]``, one per frame, in seconds where the format's rules are kept.
        imaging_hz: frames a second that the file states of the microscope, beside ``times``.
        unit_ids: ``N`` names.
        columns: names of the array's columns, which are units where it is ``"frames x units"``.
        labels: per-unit labels by name, each ``N`` strings.
        coordinates: ``[N, 2]`` or ``[N, 3]``.
        channels: stimulus and behaviour by name, ``[T]`` or ``[T, k]``.
        keep: ``[N]`` bool, the units to use; the others are dropped for ``keep_reason``.
        title: name that fits the session better than the file name.
        subject: name of the animal.
        dataset: name of the data set.
        stretches: contiguous frame ranges.
        neural: False where the file's metadata say that this is not neural activity.
        provenance: further facts, all text.
        warnings: what a person should know, one line each.
    """

    path: Path
    format: str
    entries: Mapping[str, Entry]
    key: str | None = None
    orientation: str | None = None
    rate_hz: float | None = None
    times: np.ndarray | None = None
    imaging_hz: float | None = None
    unit_ids: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    coordinates: np.ndarray | None = None
    channels: dict[str, np.ndarray] = field(default_factory=dict)
    keep: np.ndarray | None = None
    keep_reason: str = ""
    title: str = ""
    subject: str = ""
    dataset: str = ""
    stretches: tuple[tuple[int, int], ...] = ()
    neural: bool = True
    provenance: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def get(self, key: str) -> Any:
        """The value under ``key``.

        Raises:
            DataError: if there is no such key; the message lists those there.
        """
        if key not in self.entries:
            raise DataError(f"{self.path}: there is no key '{key}'; it has {self.keys_text()}")
        with guard(self.path, self.format):
            return self.entries[key].load()

    def keys_text(self, keys: list[str] | None = None) -> str:
        """Keys with their shapes, for messages: the first dozen."""
        return some([f"'{name}' {self.entries[name]}" for name in keys or self.entries], 12) or "no arrays"


@contextlib.contextmanager
def guard(path: Path, what: str) -> Iterator[None]:
    """Turn any failure while reading ``path`` as a file of kind ``what`` into one line.

    Raises:
        DataError: in place of whatever the format's library raised.
    """
    try:
        yield
    except PocoError:
        raise
    except PermissionError:
        raise DataError(f"{path}: no permission to read it") from None
    except MemoryError:
        raise DataError(f"{path}: does not fit into memory") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: cannot be read as {what}: its text is not UTF-8; save it as that") from None
    except Exception as error:  # noqa: BLE001 - any failure inside a format's library means that the file is unusable
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{path}: cannot be read as {what}; truncated or damaged? ({reason})") from None


def text(value: Any) -> str:
    """A value from a file as text: bytes are decoded, whole numbers lose their point, None and NaN are empty."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").strip()
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()
