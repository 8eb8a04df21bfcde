"""Checking that values are of the kinds that annotations say."""

from __future__ import annotations

from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from poco.errors import ConfigError


def check_fields(config: Any) -> None:
    """Raises ConfigError if a field of a dataclass is not of its kind; lists and NumPy's numbers are made plain."""
    for name, hint in get_type_hints(type(config)).items():
        value = getattr(config, name)
        check_kind(name, value, hint)
        object.__setattr__(config, name, _plain(value))


def check_kind(name: str, value: Any, hint: Any) -> None:
    """Raises ConfigError if a value is not of a type as annotations say it; lists and NumPy's numbers are taken too."""
    if not _fits(_plain(value), hint):
        raise ConfigError(f"{name} must be {_text(hint)}, got {value!r}")


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return tuple(map(_plain, value))
    return value.item() if isinstance(value, np.generic) else value


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type as annotations say it; no number is a truth value here."""
    origin, of = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in of)
    if origin is Literal:
        return value in of
    if origin is tuple:
        return isinstance(value, tuple) and all(_fits(one, of[0]) for one in value)
    if hint is Any:
        return True
    kind = (int, float) if hint is float else origin or hint
    return isinstance(value, kind) and (hint is bool or not isinstance(value, bool))


def _text(hint: Any) -> str:
    """A type in words."""
    origin, of = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(_text(one) for one in of)
    if origin is Literal:
        return " or ".join(map(repr, of))
    if origin is tuple:
        return f"a list, each {_text(of[0])}"
    kinds = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "none"}
    return kinds.get(hint, "a table" if origin is not None else "anything")
