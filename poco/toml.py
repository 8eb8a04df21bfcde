"""TOML by the standard library, or by tomli on Python 3.10."""

from __future__ import annotations

from typing import Any

from poco.errors import MissingExtraError


def loads(text: str, purpose: str) -> dict[str, Any]:
    """What a TOML document says.

    Args:
        text: the document.
        purpose: what it is read for, for the error.

    Raises:
        ValueError: if it is no TOML.
        MissingExtraError: on Python 3.10 without tomli.
    """
    try:
        import tomllib
    except ModuleNotFoundError:
        try:
            import tomli as tomllib  # type: ignore[no-redef]
        except ImportError:
            raise MissingExtraError.of("tomli", "formats", f"{purpose} on Python 3.10") from None
    return tomllib.loads(text)
