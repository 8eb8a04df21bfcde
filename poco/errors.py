"""Errors that poco raises on purpose: one clear line that says what is wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class PocoError(Exception):
    """Base of every error that poco raises on purpose; the command line prints it as one line."""


class DataError(PocoError):
    """A recording, a file or a dataset description cannot be used as it stands."""


class ConfigError(PocoError, ValueError):
    """An option has a value that cannot work, alone or together with another."""


class VocabularyError(PocoError, KeyError):
    """A session or unit is not in a model's vocabulary, or is there already."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class ShapeError(PocoError, ValueError):
    """A tensor has a shape, dtype or device that the call cannot take."""


class CheckpointError(PocoError):
    """A checkpoint or model folder is missing, truncated, of another version, or not to be trusted."""


class WireError(PocoError):
    """A message that came over a wire, or a wire's shared memory, is not what the framing says it must be."""


class BackendError(PocoError, RuntimeError):
    """A backend was asked for that cannot run here; the message says why."""


class MissingExtraError(PocoError, ImportError):
    """An optional dependency is missing; the message names the extra that brings it."""


@contextmanager
def optional(package: str, extra: str, purpose: str) -> Iterator[None]:
    """Goes around the import of a ``package`` that ``pip install 'poco-forecast[extra]'`` brings.

    Raises:
        MissingExtraError: if it cannot be imported; the message says for what ``purpose`` it is needed.
    """
    try:
        yield
    except ImportError as error:
        text = f"{purpose} needs the package '{package}': pip install 'poco-forecast[{extra}]'"
        raise MissingExtraError(text) from error
