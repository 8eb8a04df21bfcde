"""The framing: what is sent arrives, and nothing else is taken for a message."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from poco.errors import WireError
from poco.stream import StreamForecast
from poco.wires.framing import (
    WireFailure,
    WireFrame,
    decode,
    encode_failure,
    encode_forecast,
    encode_frame,
    forecast_bytes,
    frame_bytes,
)

VALUES = np.arange(27, dtype=np.float32).reshape(9, 3) / 4 - 2


def forecast(**changes) -> StreamForecast:
    valid = np.array([1, 0, 1, 1, 0, 1, 1, 1, 1], bool)
    fields = {
        "status": "ok",
        "values": VALUES,
        "valid": valid,
        "marks": frozenset({"held", "late"}),
        "frame": 4,
        "time": 2.5,
        "latency_ms": 0.75,
        "missing": 0,
    }
    return StreamForecast(**{**fields, **changes})


WARMING = {"status": "warming", "values": None, "missing": 7, "latency_ms": 0.0, "marks": frozenset({"restarted"})}


def test_the_bytes_of_a_frame_by_hand() -> None:
    message = encode_frame(258, 0.5, [1.0, -2.0])
    parts = [
        b"POCO\x01\x01\0\0",  # version 1, a frame
        b"\x02\x01" + bytes(6),  # number 258
        b"\0\0\0\0\0\0\xe0\x3f",  # 0.5 s
        b"\x02\0\0\0\x01\0\0\0" + bytes(8),  # units, steps, latency, missing
        b"\x38" + bytes(7),  # 56 bytes
        b"\0\0\x80\x3f\0\0\0\xc0",  # 1, -2
    ]
    assert message == b"".join(parts)
    assert len(message) == frame_bytes(2)


def test_the_bytes_of_a_forecast_by_hand() -> None:
    message = encode_forecast(4, forecast(), 3)
    assert len(message) == forecast_bytes(9, 3) == 48 + 4 + 108
    assert struct.unpack_from("<4sBBBBQdIIfIQ", message) == (b"POCO", 1, 2, 0, 1 + 8, 4, 2.5, 9, 3, 0.75, 0, 160)
    assert message[48:52] == bytes([0b11101101, 1, 0, 0])
    np.testing.assert_array_equal(np.frombuffer(message, "<f4", 27, 52), np.arange(27) / 4 - 2)


@pytest.mark.parametrize("time", [None, 0.0, -3.5, 1.7e9 + 1 / 3])
def test_frames_arrive(time) -> None:
    values = np.array([1.5, np.nan, -np.inf, 3e38], np.float32)
    found = decode(encode_frame(2**64 - 1, time, values))
    assert isinstance(found, WireFrame)
    assert (found.number, found.time) == (2**64 - 1, time)
    np.testing.assert_array_equal(found.values, values)


def test_masked_values_are_sent_as_missing() -> None:
    found = decode(encode_frame(0, None, np.ma.MaskedArray([1, 2, 3], [False, True, False])))
    np.testing.assert_array_equal(found.values, np.array([1, np.nan, 3], np.float32))


@pytest.mark.parametrize("units", [1, 7, 8, 9, 31, 32, 33, 64])
def test_forecasts_arrive(units) -> None:
    generator = np.random.default_rng(units)
    valid = generator.random(units) < 0.5
    values = generator.normal(size=(units, 3)).astype(np.float32)
    values[~valid] = np.nan
    for sent in (forecast(values=values, valid=valid), forecast(**WARMING, valid=valid, time=None)):
        found = decode(memoryview(bytearray(encode_forecast(11, sent, 3))))
        assert isinstance(found, StreamForecast)
        assert (found.status, found.marks, found.frame, found.time, found.latency_ms, found.missing) == (
            sent.status,
            sent.marks,
            11,
            sent.time,
            sent.latency_ms,
            sent.missing,
        )
        np.testing.assert_array_equal(found.valid, valid)
        assert (found.values is None) == (sent.values is None)
        if sent.values is not None:
            np.testing.assert_array_equal(found.values, values)


@pytest.mark.parametrize("mark", ["held", "filled", "restarted", "late", "overflowed", "rate", "adapted", "scale"])
def test_every_mark_arrives(mark) -> None:
    assert decode(encode_forecast(0, forecast(marks=frozenset({mark})), 3)).marks == {mark}


def test_errors_arrive() -> None:
    assert decode(encode_failure(3, "zu kurz: 6 µV")) == WireFailure(3, "zu kurz: 6 µV")
    cut = decode(encode_failure(3, "x" * 65535 + "µ"))
    assert cut == WireFailure(3, "x" * 65535)


MESSAGES = {
    "frame": encode_frame(5, 1.25, VALUES[:, 0]),
    "forecast": encode_forecast(4, forecast(), 3),
    "warming": encode_forecast(4, forecast(**WARMING), 3),
    "error": encode_failure(3, "no"),
}
# Field: where and how it lies, values that it cannot have (and of what kind of message), what is said of it.
WRONG = [
    (0, "4s", b"POCA", MESSAGES, "not from poco"),
    (4, "B", 0, MESSAGES, "version 0 of the framing"),
    (4, "B", 2, MESSAGES, "version 2 of the framing"),
    (5, "B", 0, MESSAGES, "kind 0: known are"),
    (5, "B", 4, MESSAGES, "kind 4: known are"),
    (6, "B", 2, ["forecast", "warming"], "status 2"),
    (6, "B", 1, ["forecast"], "0 frames are missing before the first forecast, but"),
    (6, "B", 0, ["warming"], "7 frames are missing before the first forecast, but"),
    (6, "B", 1, ["frame", "error"], "'status' of a message that is no forecast must be 0, got 1"),
    (7, "B", 1, ["frame", "error"], "'marks' of a message that is no forecast"),
    (16, "d", np.inf, MESSAGES, "time of the message is infinite"),
    (16, "d", -np.inf, MESSAGES, "time of the message is infinite"),
    (24, "I", 0, ["frame", "forecast", "warming"], "has 0 units"),
    (24, "I", 2**32 - 1, ["frame", "forecast", "warming"], "has 4294967295 units: it must have 1 to 16777216"),
    (24, "I", 8, ["frame", "forecast"], "by its units and steps should have"),
    (24, "I", 10, ["frame", "forecast"], "by its units and steps should have"),
    (24, "I", 33, ["warming"], "by its units and steps should have 56"),
    (24, "I", 8, ["warming"], "go on after the last unit"),
    (24, "I", 1, ["error"], "'units'"),
    (28, "I", 0, ["frame", "forecast", "warming"], "step"),
    (28, "I", 2, ["frame"], "a frame has 1 step, and this one says 2"),
    (28, "I", 4, ["forecast"], "by its units and steps should have"),
    (28, "I", 2**32 - 1, ["forecast", "warming"], "4294967295 steps"),
    (28, "I", 1, ["error"], "'steps'"),
    (32, "f", np.nan, MESSAGES, "took nan|'latency'"),
    (32, "f", -1.0, MESSAGES, "took -1|'latency'"),
    (32, "f", np.inf, MESSAGES, "took inf|'latency'"),
    (36, "I", 1, ["forecast"], "1 frames are missing"),
    (36, "I", 0, ["warming"], "0 frames are missing"),
    (36, "I", 1, ["frame", "error"], "'missing'"),
    (40, "Q", 0, MESSAGES, "says that it has 0 bytes"),
    (40, "Q", 2**64 - 1, MESSAGES, "says that it has 18446744073709551615 bytes"),
    (48, "B", 0xFF, ["error"], "not UTF-8"),
    (51, "B", 0x80, ["forecast", "warming"], "go on after the last unit"),
    (52, "f", np.nan, ["forecast"], "marked as valid, and its forecast is not finite"),
]


@pytest.mark.parametrize(("offset", "form", "value", "kinds", "says"), WRONG)
def test_every_field_that_cannot_be_is_an_error(offset, form, value, kinds, says) -> None:
    for kind in kinds:
        damaged = bytearray(MESSAGES[kind])
        struct.pack_into("<" + form, damaged, offset, value)
        assert bytes(damaged) != MESSAGES[kind]
        with pytest.raises(WireError, match=says):
            decode(damaged)


@pytest.mark.parametrize("kind", MESSAGES)
def test_every_other_length_is_an_error(kind) -> None:
    whole = MESSAGES[kind]
    decode(whole)
    for length in range(len(whole)):
        with pytest.raises(WireError, match=r"too short|says that it has"):
            decode(whole[:length])
        if length >= 48:  # even where the header tells of it
            cut = bytearray(whole[:length])
            struct.pack_into("<Q", cut, 40, length)
            if kind == "error":
                assert isinstance(decode(cut), WireFailure)
                continue
            with pytest.raises(WireError, match="by its units and steps should have"):
                decode(cut)
    with pytest.raises(WireError, match="says that it has"):
        decode(whole + b"\0")


def test_damaged_and_random_bytes_are_errors_or_messages() -> None:
    """Whatever the bytes: an error, or a message that is sent in just these bytes."""
    generator = np.random.default_rng(0)
    read = 0
    for trial in range(8000):
        data = bytearray(MESSAGES[list(MESSAGES)[trial % 4]])
        if trial % 10 == 9:
            data = bytearray(generator.bytes(int(generator.integers(0, 200))))
        else:
            for _ in range(generator.integers(1, 4)):
                data[generator.integers(0, len(data))] = generator.integers(0, 256)
        try:
            found = decode(data)
        except WireError:
            continue
        read += 1
        if isinstance(found, WireFailure):
            assert found.text.encode() == data[48:]
            continue
        if isinstance(found, WireFrame):
            again = encode_frame(found.number, found.time, found.values)
        else:
            again = encode_forecast(found.frame, found, struct.unpack_from("<I", data, 28)[0])
        same = [slice(0, 16), slice(24, 32), slice(36, None)]  # there are many NaN, and two zeros
        assert [again[part] for part in same] == [data[part] for part in same]
    assert read > 1000


@pytest.mark.parametrize(
    ("number", "time", "values", "says"),
    [
        (-1, 0.0, [1.0], "frame number -1 cannot be sent"),
        (2**64, 0.0, [1.0], "cannot be sent"),
        (0, np.inf, [1.0], "time of the message is infinite"),
        (0, 0.0, [], "has 0 units"),
        (0, 0.0, [[1.0]], "got 2 dimensions"),
        (0, np.datetime64("2020-01-01", "ns"), [1.0], "the time of a frame is a number of seconds"),
        (0, 0.0, [1 + 2j], "got values of type complex128"),
        (0, 0.0, [1, None], "got values of type object"),
        (0, 0.0, [[1], [2, 3]], "one number for each unit"),
    ],
)
def test_what_cannot_be_sent_says_so(number, time, values, says) -> None:
    with pytest.raises(WireError, match=says):
        encode_frame(number, time, values)
    with pytest.raises(WireError, match="values of shape"):
        encode_forecast(0, forecast(), 4)
