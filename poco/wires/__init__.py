"""Wires: how frames come to a stream and forecasts go out, over ZeroMQ, Lab Streaming Layer and shared memory."""

from __future__ import annotations

from poco.errors import ConfigError
from poco.wires.live import Sink, Source

_FORMS = "zmq:PORT, zmq:tcp://HOST:PORT"


def open_source(address: str, units: int) -> Source:
    """Where frames come from.

    Args:
        address: for example ``zmq:5555``.
        units: that a frame has.

    Raises:
        ConfigError: if there is no such wire, or its address cannot be used.
        MissingExtraError: without the package that the wire needs.
    """
    wire, rest = _split(address)
    if wire == "zmq":
        from poco.wires.zmq import ZmqSource

        return ZmqSource(rest)
    raise _unknown(address)


def open_sink(address: str, units: int, steps: int) -> Sink:
    """Where forecasts go.

    Args:
        address: for example ``zmq:5556``.
        units: that a forecast has.
        steps: that a forecast has.

    Raises:
        ConfigError: if there is no such wire, or its address cannot be used.
        MissingExtraError: without the package that the wire needs.
    """
    wire, rest = _split(address)
    if wire == "zmq":
        from poco.wires.zmq import ZmqSink

        return ZmqSink(rest, steps)
    raise _unknown(address)


def _split(address: str) -> tuple[str, str]:
    wire, _, rest = address.partition(":")
    if not rest:
        raise _unknown(address)
    return wire, rest


def _unknown(address: str) -> ConfigError:
    return ConfigError(f"'{address}' is no wire: give {_FORMS}")
