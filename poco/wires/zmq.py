"""Frames and forecasts over ZeroMQ: what is published is one message of the framing each."""

from __future__ import annotations

import re
import time
from collections import deque
from dataclasses import replace
from typing import Any

from poco.errors import ConfigError, WireError, optional
from poco.stream import StreamForecast
from poco.wires.framing import MAX_UNITS, WireFrame, decode, encode_forecast, frame_bytes

_AT_ONCE = 1000  # messages taken off the wire in one go, so that a flood does not keep the stream from its work


def library() -> Any:
    """The package ``zmq``.

    Raises:
        MissingExtraError: if it is not installed.
    """
    with optional("pyzmq", "stream", "ZeroMQ"):
        import zmq
    return zmq


def endpoint(address: str, *, bind: bool) -> tuple[bool, str]:
    """Whether to bind, and the endpoint, of ``5555``, ``tcp://...``, ``ipc://...``, ``bind:...`` or ``connect:...``.

    A port alone is one of this machine, which others cannot reach.

    Args:
        address: what comes after ``zmq:``.
        bind: what is done where the address does not say.

    Raises:
        ConfigError: if it is none of these.
    """
    word, colon, rest = address.partition(":")
    if colon and word in ("bind", "connect"):
        bind, address = word == "bind", rest
    if re.fullmatch(r"\d{1,5}", address) and 0 < int(address) < 65536:
        address = f"tcp://127.0.0.1:{address}"
    if not re.fullmatch(r"tcp://[^/\s]+:(\d{1,5}|\*)|ipc://\S+", address):
        raise ConfigError(
            f"'zmq:{address}' is no ZeroMQ address: give zmq:PORT, zmq:tcp://HOST:PORT or zmq:ipc://FILE; bind: or "
            "connect: after zmq: says which of both"
        )
    return bind, address


def open_socket(kind: str, address: str, *, bind: bool, **options: int) -> Any:
    """A socket that is bound or connected; peers that vanish without a word are noticed within seconds.

    Args:
        kind: name of the socket's type, for example ``"SUB"``.
        address: what comes after ``zmq:``.
        bind: what is done where the address does not say.
        options: of the socket, by name.

    Raises:
        ConfigError: if the address cannot be used.
    """
    zmq = library()
    binds, where = endpoint(address, bind=bind)
    socket = zmq.Context.instance().socket(getattr(zmq, kind))
    settings = {"LINGER": 0, "HEARTBEAT_IVL": 1000, "HEARTBEAT_TIMEOUT": 5000, "MAXMSGSIZE": frame_bytes(MAX_UNITS)}
    for name, value in {**settings, **options}.items():
        setattr(socket, name.lower(), value)
    try:
        (socket.bind if binds else socket.connect)(where)
    except zmq.ZMQError as error:
        socket.close()
        hint = "" if binds or "*" not in where else f" (to wait for others there: zmq:bind:{where})"
        raise ConfigError(f"cannot {'bind' if binds else 'connect'} to {where}: {error}{hint}") from None
    return socket


class ZmqSource:
    """Frames that somebody publishes (PUB or XPUB); of those that wait, the newest are kept.

    Args:
        address: what comes after ``zmq:``; it connects where that does not say ``bind:``.
        keep: frames that may wait; older ones are dropped and counted.

    Attributes:
        dropped, damaged, complaint: as of :class:`poco.wires.live.Source`.

    Raises:
        ConfigError: if the address cannot be used.
        MissingExtraError: without pyzmq.
    """

    def __init__(self, address: str, *, keep: int = 64) -> None:
        self.dropped = self.damaged = 0
        self.complaint = ""
        self._zmq = library()
        self._waiting: deque[WireFrame] = deque()
        self._keep = keep
        self._socket = open_socket("SUB", address, bind=False, RCVHWM=_AT_ONCE)
        self._socket.subscribe(b"")

    @property
    def endpoint(self) -> str:
        """Where it is bound or connected to."""
        return self._socket.last_endpoint.decode()

    def next(self, timeout: float) -> WireFrame | None:
        """The next frame; None if none came within so many seconds."""
        until = time.monotonic() + timeout
        while True:
            self._drain()
            if self._waiting:
                return self._waiting.popleft()
            left = until - time.monotonic()
            if left <= 0 or not self._socket.poll(max(1, int(left * 1000))):
                return None

    def close(self) -> None:
        """Lets go of the socket."""
        self._socket.close()

    def _drain(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                frame = self._read(self._socket.recv_multipart(self._zmq.NOBLOCK))
            except self._zmq.Again:
                break
            if frame is not None:
                self._waiting.append(frame)
            if len(self._waiting) > self._keep:
                self._waiting.popleft()
                self.dropped += 1

    def _read(self, parts: list[bytes]) -> WireFrame | None:
        try:
            if len(parts) != 1:
                raise WireError(f"a message has one part, and this one has {len(parts)}")
            found = decode(parts[0])
            if not isinstance(found, WireFrame):
                raise WireError("it is no frame, but a forecast or an error")
        except WireError as error:
            self.damaged += 1
            self.complaint = str(error)
            return None
        return replace(found, arrived=time.monotonic())


class ZmqSink:
    """Publishes forecasts (to SUB), and never waits for anybody.

    For each subscriber some forecasts may wait. If one has too many waiting, the new one is dropped for that one alone
    and counted; with several subscribers the count is of the times that one of them fell behind, and each sees in the
    numbers of the forecasts what it missed.

    Args:
        address: what comes after ``zmq:``; it binds where that does not say ``connect:``.
        steps: that the model forecasts.
        keep: forecasts that may wait for each subscriber.

    Attributes:
        dropped: as of :class:`poco.wires.live.Sink`.
        subscribers: how many there were when the last forecast was sent.

    Raises:
        ConfigError: if the address cannot be used.
        MissingExtraError: without pyzmq.
    """

    def __init__(self, address: str, steps: int, *, keep: int = 64) -> None:
        self.dropped = self.subscribers = 0
        self._zmq, self._steps = library(), steps
        # VERBOSER: word of every subscriber that comes or goes, not of the first and last alone.
        self._socket = open_socket("XPUB", address, bind=True, SNDHWM=keep, XPUB_NODROP=1, XPUB_VERBOSER=1, LINGER=1000)

    @property
    def endpoint(self) -> str:
        """Where it is bound or connected to."""
        return self._socket.last_endpoint.decode()

    def send(self, number: int, found: StreamForecast) -> None:
        """Publishes a forecast, or drops it."""
        self._count_subscribers()
        message = encode_forecast(number, found, self._steps)
        try:
            self._socket.send(message, self._zmq.NOBLOCK)
        except self._zmq.Again:
            self.dropped += 1
            if self.subscribers > 1:  # those that keep up get it: without NODROP it is dropped for the slow alone
                self._socket.xpub_nodrop = 0
                self._socket.send(message, self._zmq.NOBLOCK)
                self._socket.xpub_nodrop = 1

    def close(self) -> None:
        """Sends what still waits, for a second at most, and lets go of the socket."""
        self._socket.close()

    def _count_subscribers(self) -> None:
        while True:
            try:
                word = self._socket.recv(self._zmq.NOBLOCK)
            except self._zmq.Again:
                return
            if word[:1] in (b"\0", b"\1"):
                self.subscribers += 1 if word[0] else -1
