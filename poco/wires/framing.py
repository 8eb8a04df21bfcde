"""The one binary framing of frames, forecasts and errors that every wire carries; docs/streaming.md describes it.

All numbers are little-endian. A message is a header of 48 bytes and what follows from it, and nothing else:

====== ========= ============================================================================================
offset type      what
====== ========= ============================================================================================
0      4 bytes   ``POCO``
4      uint8     version of the framing: 1
5      uint8     kind: 1 a frame, 2 a forecast, 3 an error
6      uint8     status of a forecast: 0 there is one, 1 warming up; otherwise 0
7      uint8     marks of a forecast: 1 held, 2 filled, 4 restarted, 8 late, 16 overflowed, 32 rate, 64 adapted,
                 128 scale
8      uint64    number of the frame, as its sender counts; of a forecast or error: of the frame that it answers
16     float64   seconds at which the frame was taken, by its sender's clock; NaN: not known
24     uint32    units; of an error 0
28     uint32    steps ahead of a forecast; of a frame 1; of an error 0
32     float32   milliseconds that the forecast took; otherwise 0
36     uint32    frames until the first forecast; 0 where there is one
40     uint64    bytes of the whole message, this header included
====== ========= ============================================================================================

A frame goes on with ``units`` float32. A forecast goes on with one bit for each unit, 1 where it is valid (unit ``u``
is bit ``u % 8`` of byte ``u / 8``; zeros up to a multiple of four bytes) and, unless it is warming up,
``units x steps`` float32, all steps of the first unit first. An error goes on with text in UTF-8.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from poco.errors import DataError, WireError
from poco.stream import MARKS, StreamForecast, float32_of, seconds_of

VERSION = 1
HEADER = struct.Struct("<4sBBBBQdIIfIQ")
MAX_UNITS, MAX_STEPS, MAX_TEXT = 1 << 24, 1 << 16, 1 << 16
MAGIC = b"POCO"
_FRAME, _FORECAST, _ERROR = 1, 2, 3
WIRE_MARKS = {**MARKS, 64: "adapted"}


@dataclass(frozen=True, eq=False)
class WireFrame:
    """A frame as it came over a wire.

    Attributes:
        number: as the sender counts, 0 to 2^64 - 1.
        time: seconds by the sender's clock; None: not known.
        values: ``[N]`` float32, read-only.
        arrived: ``time.monotonic()`` when it was first known to be here; None: it was not looked at.
    """

    number: int
    time: float | None
    values: npt.NDArray[np.float32]
    arrived: float | None = None


@dataclass(frozen=True)
class WireFailure:
    """Why a frame was refused.

    Attributes:
        number: of the frame, 0 where it could not be read.
        text: what was wrong.
    """

    number: int
    text: str


def encode_frame(number: int, time: float | None, values: npt.ArrayLike) -> bytes:
    """A frame as one message.

    Args:
        number: as the sender counts, from 0.
        time: seconds; None: not known.
        values: ``[N]`` numbers, NaN, or masked, where a unit was not seen.

    Raises:
        WireError: if the message would be none that :func:`decode` takes.
    """
    try:
        given, seconds = float32_of(values).astype("<f4", copy=False), seconds_of(time)
    except DataError as error:
        raise WireError(str(error)) from None
    if given.ndim != 1:
        raise WireError(f"a frame is one value for each unit, got {given.ndim} dimensions")
    return _checked(_message(_FRAME, 0, 0, number, seconds, given.size, 1, 0.0, 0, given.tobytes()))


def encode_forecast(number: int, found: StreamForecast, steps: int) -> bytes:
    """A forecast, or the word that there is none yet, as one message.

    Args:
        number: of the frame that it answers, as its sender counts.
        found: the forecast; its own number of the frame is not sent.
        steps: that the model forecasts.

    Raises:
        WireError: if the message would be none that :func:`decode` takes.
    """
    units = found.valid.size
    if found.values is not None and found.values.shape != (units, steps):
        raise WireError(f"a forecast of {units} units and {steps} steps has values of shape {found.values.shape}")
    bits = np.packbits(found.valid, bitorder="little").tobytes()
    bits += bytes(-len(bits) % 4)
    values = b"" if found.values is None else np.ascontiguousarray(found.values, dtype="<f4").tobytes()
    marks = bits_of(found.marks)
    status, took = int(found.values is None), found.latency_ms
    return _checked(
        _message(_FORECAST, status, marks, number, found.time, units, steps, took, found.missing, bits + values)
    )


def encode_failure(number: int, text: str) -> bytes:
    """An error as one message; text that is too long is cut."""
    payload = text.encode()[:MAX_TEXT].decode(errors="ignore").encode()
    return _message(_ERROR, 0, 0, number, None, 0, 0, 0.0, 0, payload)


def decode(message: bytes | bytearray | memoryview) -> WireFrame | StreamForecast | WireFailure:
    """What a message says; a forecast's ``frame`` is the number that its frame's sender gave it.

    Args:
        message: one whole message; its bytes are copied.

    Raises:
        WireError: if anything about it is not as the framing says.
    """
    data = bytes(message)
    if len(data) < HEADER.size:
        raise WireError(f"a message of {len(data)} bytes is too short: the header alone has {HEADER.size}")
    magic, version, kind, status, marks, number, time, units, steps, took, missing, total = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise WireError(f"the message begins with {magic!r} and not with {MAGIC!r}: it is not from poco")
    if version != VERSION:
        raise WireError(f"the message is of version {version} of the framing, and this program speaks {VERSION}")
    if kind not in (_FRAME, _FORECAST, _ERROR):
        raise WireError(f"the message is of kind {kind}: known are 1 (frame), 2 (forecast), 3 (error)")
    if total != len(data):
        raise WireError(f"the message says that it has {total} bytes, and has {len(data)}")
    if math.isinf(time):
        raise WireError("the time of the message is infinite: it must be finite, or NaN where it is not known")
    when = None if math.isnan(time) else time
    if kind == _ERROR:
        _must_be_zero(status=status, marks=marks, units=units, steps=steps, latency=took, missing=missing)
        if len(data) - HEADER.size > MAX_TEXT:
            raise WireError(f"the text of the error has more than {MAX_TEXT} bytes")
        try:
            return WireFailure(number, data[HEADER.size :].decode())
        except UnicodeDecodeError:
            raise WireError("the text of the error is not UTF-8") from None
    if not 0 < units <= MAX_UNITS:
        raise WireError(f"the message has {units} units: it must have 1 to {MAX_UNITS}")
    if kind == _FRAME:
        _must_be_zero(status=status, marks=marks, latency=took, missing=missing)
        if steps != 1:
            raise WireError(f"a frame has 1 step, and this one says {steps}")
        _must_have(len(data), 4 * units)
        return WireFrame(number, when, np.frombuffer(data, "<f4", units, HEADER.size))
    if not 0 < steps <= MAX_STEPS:
        raise WireError(f"the forecast has {steps} steps: it must have 1 to {MAX_STEPS}")
    if status > 1:
        raise WireError(f"the forecast has status {status}: known are 0 (there is one) and 1 (warming up)")
    if not (math.isfinite(took) and took >= 0):
        raise WireError(f"the forecast took {took} milliseconds")
    warming = status == 1
    if warming != (missing > 0):
        raise WireError(f"{missing} frames are missing before the first forecast, but the status is {status}")
    of_bits = _bytes_of_bits(units)
    _must_have(len(data), of_bits + (0 if warming else 4 * units * steps))
    bits = np.unpackbits(np.frombuffer(data, np.uint8, of_bits, HEADER.size), bitorder="little")
    if bits[units:].any():
        raise WireError("the bits of validity go on after the last unit")
    values = None
    if not warming:
        values = np.frombuffer(data, "<f4", units * steps, HEADER.size + of_bits).reshape(units, steps)
        if not np.isfinite(values[bits[:units].astype(bool)]).all():
            raise WireError("a unit is marked as valid, and its forecast is not finite")
    named = frozenset(name for bit, name in WIRE_MARKS.items() if marks & bit)
    return StreamForecast(
        "warming" if warming else "ok", values, bits[:units].astype(bool), named, number, when, took, missing
    )


def bits_of(marks: frozenset[str]) -> int:
    """Marks as a sum of bits."""
    return sum(bit for bit, name in WIRE_MARKS.items() if name in marks)


def frame_bytes(units: int) -> int:
    """Bytes of a frame."""
    return HEADER.size + 4 * units


def forecast_bytes(units: int, steps: int) -> int:
    """Bytes of a forecast; there are fewer while the stream warms up."""
    return HEADER.size + _bytes_of_bits(units) + 4 * units * steps


def _message(
    kind: int,
    status: int,
    marks: int,
    number: int,
    time: float | None,
    units: int,
    steps: int,
    took: float,
    missing: int,
    payload: bytes,
) -> bytes:
    when, total = math.nan if time is None else time, HEADER.size + len(payload)
    try:
        header = HEADER.pack(MAGIC, VERSION, kind, status, marks, number, when, units, steps, took, missing, total)
    except (struct.error, OverflowError) as error:
        raise WireError(f"frame number {number} cannot be sent: {error}") from None
    return header + payload


def _checked(message: bytes) -> bytes:
    """The message, if it is one that is understood at the other end."""
    decode(message)
    return message


def _bytes_of_bits(units: int) -> int:
    return (units + 31) // 32 * 4


def _must_have(total: int, payload: int) -> None:
    if total != HEADER.size + payload:
        raise WireError(
            f"the message has {total} bytes, and by its units and steps should have {HEADER.size + payload}"
        )


def _must_be_zero(**fields: float) -> None:
    for name, value in fields.items():
        if value != 0:
            raise WireError(f"'{name}' of a message that is no forecast must be 0, got {value}")
