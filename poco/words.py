"""Words of messages."""

from __future__ import annotations


def counted(count: int, noun: str, one: str = "", more: str = "") -> str:
    """``1 frame``, ``2 frames``, and what follows on one or more of them, such as ``" is"`` and ``" are"``."""
    return f"{count} {noun}{one}" if count == 1 else f"{count} {noun}s{more}"
