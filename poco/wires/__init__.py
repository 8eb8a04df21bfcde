"""Wires: how frames come to a stream and forecasts go out, over ZeroMQ, Lab Streaming Layer and shared memory."""

from __future__ import annotations

from collections.abc import Callable

from poco.errors import ConfigError
from poco.stream import Stream
from poco.wires.live import Log, Sink, Source
from poco.wires.service import ZmqService

FORMS = "zmq:PORT, zmq:tcp://HOST:PORT, lsl:NAME or shm:NAME"


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
    if wire == "lsl":
        from poco.wires.lsl import LslSource

        return LslSource(rest, units)
    if wire == "shm":
        from poco.wires.shm import ShmSource

        return ShmSource(rest)
    raise _unknown(address)


def open_sink(address: str, units: int, steps: int, *, lsl_times: bool = False) -> Sink:
    """Where forecasts go.

    Args:
        address: for example ``zmq:5556``.
        units: that a forecast has.
        steps: that a forecast has.
        lsl_times: whether frames have their times by the clock of Lab Streaming Layer.

    Raises:
        ConfigError: if there is no such wire, or its address cannot be used.
        MissingExtraError: without the package that the wire needs.
    """
    wire, rest = _split(address)
    if wire == "zmq":
        from poco.wires.zmq import ZmqSink

        return ZmqSink(rest, steps)
    if wire == "lsl":
        from poco.wires.lsl import LslSink

        return LslSink(rest, units, steps, times=lsl_times)
    if wire == "shm":
        from poco.wires.shm import ShmSink

        return ShmSink(rest, units, steps)
    raise _unknown(address)


def open_service(address: str, open_stream: Callable[[], Stream], *, log: Log) -> ZmqService:
    """Who answers each frame with its forecast.

    Args:
        address: for example ``zmq:5555``.
        open_stream: makes the stream of a new client.
        log: takes lines for a person.

    Raises:
        ConfigError: if the wire cannot answer, or its address cannot be used.
        MissingExtraError: without the package that the wire needs.
    """
    wire, rest = _split(address)
    if wire != "zmq":
        raise ConfigError(f"'{address}' is no wire that can answer: give zmq:PORT or zmq:tcp://HOST:PORT")
    return ZmqService(rest, open_stream, log=log)


def _split(address: str) -> tuple[str, str]:
    wire, _, rest = address.partition(":")
    if not rest:
        raise _unknown(address)
    return wire, rest


def _unknown(address: str) -> ConfigError:
    return ConfigError(f"'{address}' is no wire: give {FORMS}")
