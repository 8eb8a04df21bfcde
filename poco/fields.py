"""Checking that what is given for the fields of a configuration is of their kinds."""

from __future__ import annotations

import types
import typing
from numbers import Integral, Real
from typing import Any

from poco.errors import ConfigError

_KINDS: dict[Any, tuple[type, str]] = {
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    bool: (bool, "true or false"),
    str: (str, "text"),
    type(None): (type(None), "none"),
}


def check_fields(config: Any) -> None:
    """Raises ConfigError if a field of a dataclass has a value of another kind than its annotation says."""
    for name, hint in typing.get_type_hints(type(config)).items():
        value = getattr(config, name)
        if not _fits(value, hint):
            raise ConfigError(f"{name} must be {_words(hint)}, got {value!r}")


def _parts(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _fits(value: object, hint: Any) -> bool:
    for part in _parts(hint):
        if typing.get_origin(part) is tuple:
            of_each = typing.get_args(part)[0]
            if isinstance(value, list | tuple) and all(_fits(one, of_each) for one in value):
                return True
        elif typing.get_origin(part) is typing.Literal:
            if isinstance(value, str):  # which ones there are is the configuration's to say
                return True
        elif isinstance(value, _KINDS[part][0]) and (part is bool or not isinstance(value, bool)):
            return True
    return False


def _words(hint: Any) -> str:
    words = []
    for part in _parts(hint):
        if typing.get_origin(part) is tuple:
            words.append(f"a list, each {_words(typing.get_args(part)[0])}")
        else:
            words.append(_KINDS[str if typing.get_origin(part) is typing.Literal else part][1])
    return " or ".join(words)
