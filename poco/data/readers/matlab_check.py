"""A look at the structure of a MATLAB v5 file before scipy reads it, because scipy may crash on a damaged one."""

from __future__ import annotations

import mmap
import struct
import zlib
from pathlib import Path

_MATRIX, _COMPRESSED = 14, 15
_TYPES = frozenset({1, 2, 3, 4, 5, 6, 7, 9, 12, 13, _MATRIX, _COMPRESSED, 16, 17, 18})
_NUMBERS = frozenset({1, 2, 3, 4, 5, 6, 7, 9, 12, 13})
_CHARACTERS = _NUMBERS | {16, 17, 18}
_HEADER = 128
_DEEPEST = 64


def check(path: Path) -> None:
    """Walk through all elements; each has a type, a length and its content, which may be elements again.

    Raises:
        ValueError: if a type is unknown, or an element is longer than what holds it.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[126:128] not in (b"IM", b"MI"):
            return  # version 4, which has no such elements
        order = "<" if data[126:128] == b"IM" else ">"
        _walk(data, _HEADER, len(data), order, 0)


def _walk(data: mmap.mmap | bytes, start: int, stop: int, order: str, depth: int) -> list[tuple[int, int, int]]:
    """Check the elements between two bytes; returns type, first byte and length of the content of each."""
    found = []
    if depth > _DEEPEST:
        raise ValueError("elements are nested too deeply")
    while start < stop:
        if stop - start < 8:
            raise ValueError(f"an element at byte {start} has no room for its type and length")
        kind, length = struct.unpack_from(f"{order}II", data, start)
        if kind >> 16:  # a short element: length, type and content share 8 bytes
            kind, length, body, end = kind & 0xFFFF, kind >> 16, start + 4, start + 8
        else:
            body = start + 8
            end = body + (length if kind == _COMPRESSED else -(-length // 8) * 8)
        if kind not in _TYPES:
            raise ValueError(f"an element at byte {start} has the unknown type {kind}")
        if body + length > stop or (end == start + 8 and length > 8):
            raise ValueError(f"an element at byte {start} is longer than what is left")
        if kind == _MATRIX:
            _matrix(data, _walk(data, body, body + length, order, depth + 1), order)
        elif kind == _COMPRESSED:
            inner = zlib.decompress(data[body : body + length])
            _walk(inner, 0, len(inner), order, depth + 1)
        found.append((kind, body, length))
        start = end
    return found


def _matrix(data: mmap.mmap | bytes, parts: list[tuple[int, int, int]], order: str) -> None:
    """A matrix has flags, a shape, a name, and as many arrays as its class and the flag for complex numbers say."""
    if not parts:
        return  # an empty cell
    kind, body, length = parts[0]
    if kind != 6 or length != 8:
        raise ValueError("a matrix does not begin with its flags")
    (flags,) = struct.unpack_from(f"{order}I", data, body)
    group, is_complex = flags & 0xFF, bool(flags & 0x0800)
    arrays = [kind for kind, _, _ in parts[3:]]
    if group == 4 or 6 <= group <= 15:
        expected, allowed = 1 + is_complex, _CHARACTERS if group == 4 else _NUMBERS
    elif group == 5:
        expected, allowed = 3 + is_complex, _NUMBERS
    elif group in (1, 2, 3, 16, 17):
        return
    else:
        raise ValueError(f"a matrix has the unknown class {group}")
    if len(arrays) != expected or not allowed.issuperset(arrays) or (parts[1][0], parts[2][0]) != (5, 1):
        raise ValueError("a matrix does not have the parts that its class needs")
