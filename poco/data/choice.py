"""Which sessions to read, by name, so that those not wanted need not be readable."""

from __future__ import annotations

from collections.abc import Sequence

from poco.errors import ConfigError, DataError
from poco.wording import enumerated


class Choice:
    """Sessions that are wanted, and those that are not.

    Args:
        sessions: names of those to take, or the name of one; None takes all.
        without: names of those to leave out, or the name of one.

    Attributes:
        names: the sessions met so far, wanted or not.
    """

    def __init__(self, sessions: str | Sequence[str] | None = None, without: str | Sequence[str] = ()) -> None:
        self.sessions = None if sessions is None else _several(sessions)
        self.without = _several(without)
        self.names: list[str] = []

    def takes(self, name: str) -> bool:
        """Whether the session that was met is wanted."""
        self.names.append(name)
        return (self.sessions is None or name in self.sessions) and name not in self.without

    @property
    def missing(self) -> list[str]:
        """Names that were listed, but not met."""
        return [name for name in (*(self.sessions or ()), *self.without) if name not in self.names]

    def check(self) -> None:
        """See whether every listed session was met, and one is left.

        Raises:
            DataError: if one was not met; the message names those that were.
            ConfigError: if none is left.
        """
        if self.missing:
            raise DataError(f"there is no session '{self.missing[0]}' here: the sessions are {enumerated(self.names)}")
        if self.names and set(self.sessions or self.names) <= set(self.without):
            raise ConfigError("--without leaves no session")


def _several(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)
