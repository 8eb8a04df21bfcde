"""A forecast for each frame that a client sends (ZeroMQ: REQ or DEALER asks, this ROUTER answers)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from poco.errors import DataError, WireError
from poco.stream import GapError, Stream
from poco.wires.framing import MAGIC, WireFrame, decode, encode_failure, encode_forecast
from poco.wires.live import Feed, Log
from poco.wires.zmq import library, open_socket


class ZmqService:
    """Answers frames with forecasts, by one stream for each client.

    A client is who has the same identity: by default each socket that connects, and a proxy with all behind it. Of more
    than ``clients`` of them, the one that was silent longest is forgotten; should it come back, its stream begins anew,
    which its forecasts say (``warming``). A frame that cannot be used, or a message that is no frame, is answered with
    an error, and the client's stream is as it was; a message that is no frame of the session makes nobody a client.
    Where frames are missing and streams are such that refuse gaps, the frame after them is answered with an error, and
    with the next one the client's stream begins anew. Answers carry the whole envelope that came, and never wait for
    anybody: where a client does not take them, they are dropped and counted.

    Args:
        address: what comes after ``zmq:``; it binds where that does not say ``connect:``.
        open_stream: makes the stream of a new client.
        clients: that are remembered.
        log: takes a line for a person about every client that comes, is forgotten, or began anew.

    Attributes:
        dropped: answers that a client did not take.
        refused: messages that were answered with an error.
        forgotten: clients that were.

    Raises:
        ConfigError: if the address cannot be used.
        MissingExtraError: without pyzmq.
    """

    def __init__(
        self,
        address: str,
        open_stream: Callable[[], Stream],
        *,
        clients: int = 32,
        log: Log = lambda _: None,
    ) -> None:
        self.dropped = self.refused = self.forgotten = 0
        self._zmq, self._open, self._most, self._log = library(), open_stream, clients, log
        self._next = open_stream()  # the next new client's
        self._clients: OrderedDict[bytes, tuple[Stream, Feed]] = OrderedDict()
        # MANDATORY: an answer that a client does not take is an error, and so can be counted.
        # HANDOVER: a client that was started anew takes its name over from a connection that has not ended yet.
        self._socket = open_socket("ROUTER", address, bind=True, ROUTER_MANDATORY=1, ROUTER_HANDOVER=1, LINGER=1000)

    @property
    def endpoint(self) -> str:
        """Where it is bound or connected to."""
        return self._socket.last_endpoint.decode()

    @property
    def clients(self) -> int:
        """How many are remembered."""
        return len(self._clients)

    @property
    def units(self) -> int:
        """How many a frame has."""
        return self._next.units

    def answer(self, timeout: float) -> Stream | None:
        """Answers one message; None if none came within so many seconds.

        Returns:
            The stream of the client, where its frame was taken; else None.
        """
        if not self._socket.poll(max(1, int(timeout * 1000))):
            return None
        parts = self._socket.recv_multipart()  # who sent it, what else of an envelope there is, a message
        begins = next((i for i, part in enumerate(parts) if i > 0 and part.startswith(MAGIC)), len(parts) - 1)
        envelope, message = parts[:begins], parts[begins:]
        try:
            if len(message) != 1:  # all but the last would be lost without a word
                raise WireError(f"a message has one part, and this one has {len(message)}")
            frame = decode(message[0])
            if not isinstance(frame, WireFrame):
                raise WireError("what can be answered is a frame, and this is a forecast or an error")
        except WireError as error:
            self._refuse(envelope, 0, str(error))
            return None
        if frame.values.size != self.units:  # nobody is forgotten for it
            session = self._next.session
            says = f"the frame has {frame.values.size} units and session '{session}' has {self.units}"
            self._refuse(envelope, frame.number, says)
            return None
        stream, feed = self._client(parts[0])
        try:
            found = feed.push(frame)
        except DataError as error:
            if isinstance(error, GapError):
                self._log(f"client {parts[0].hex()}: {error}: its stream begins anew")
                feed.begin_anew()  # no later frame would mend it
            self._refuse(envelope, frame.number, str(error))
            return None
        self._reply(envelope, encode_forecast(frame.number, found, stream.horizon))
        return stream

    def close(self) -> None:
        """Sends what still waits, for a second at most, and lets go of the socket."""
        self._socket.close()

    def _client(self, name: bytes) -> tuple[Stream, Feed]:
        if name not in self._clients:
            if len(self._clients) >= self._most:
                gone, _ = self._clients.popitem(last=False)
                self.forgotten += 1
                self._log(f"client {gone.hex()} is forgotten: it was silent longest")
            stream, self._next = self._next, self._open()
            feed = Feed(stream, log=lambda line: self._log(f"client {name.hex()}: {line}"))
            self._clients[name] = stream, feed
            self._log(f"client {name.hex()} is new")
        self._clients.move_to_end(name)
        return self._clients[name]

    def _refuse(self, envelope: list[bytes], number: int, text: str) -> None:
        self.refused += 1
        self._reply(envelope, encode_failure(number, text))

    def _reply(self, envelope: list[bytes], message: bytes) -> None:
        try:
            self._socket.send_multipart([*envelope, message], self._zmq.NOBLOCK)
        except self._zmq.ZMQError as error:
            if error.errno not in (self._zmq.EAGAIN, self._zmq.EHOSTUNREACH):
                raise
            self.dropped += 1
