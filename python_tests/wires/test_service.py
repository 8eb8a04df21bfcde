"""Clients that ask for the forecast after each frame."""

from __future__ import annotations

import dataclasses
import threading
from contextlib import closing

import numpy as np
import pytest
from helpers.needs import needs_core

pytest.importorskip("zmq", reason="needs the extra 'stream'")
import zmq

import poco
from poco.errors import ConfigError
from poco.stream import StreamForecast, open_model
from poco.wires import open_service
from poco.wires.framing import WireFailure, decode, encode_failure, encode_frame
from poco.wires.service import ZmqService

pytestmark = needs_core


@pytest.fixture
def serve(model):
    """Starts a service in a thread; it ends with the test."""
    ended, running = threading.Event(), []
    opened = open_model(model)

    def start(gap: str = "fill", **options) -> ZmqService:
        def stream() -> poco.Stream:
            return poco.Stream(opened, "b", interval=0.5, gap=gap)

        made = ZmqService("tcp://127.0.0.1:*", stream, **options)
        made.where = made.endpoint

        def work() -> None:
            with closing(made):
                while not ended.is_set():
                    made.answer(0.05)

        running.append(threading.Thread(target=work))
        running[-1].start()
        return made

    yield start
    ended.set()
    for thread in running:
        thread.join()


@pytest.fixture
def client():
    """Makes sockets that ask; they do not outlive the test."""
    made = []

    def make(where: str, kind: int = zmq.REQ, **options) -> zmq.Socket:
        new = zmq.Context.instance().socket(kind)
        new.linger, new.rcvtimeo = 0, 20000
        for name, value in options.items():
            setattr(new, name, value)
        new.connect(where)
        made.append(new)
        return new

    yield make
    for each in made:
        each.close()


def ask(socket, message: bytes):
    socket.send(message)
    return decode(socket.recv())


def test_two_clients_have_two_streams(serve, client, model, frames, same) -> None:
    service = serve()
    sockets = [client(service.where), client(service.where)]
    directs = [poco.Stream(model, "b", interval=0.5) for _ in range(2)]
    for i in range(60):
        for which, (socket, direct) in enumerate(zip(sockets, directs, strict=True)):
            if which == 1 and i % 3 == 2:
                continue  # the second is slower, and its clock says so
            frame, seconds = frames[(i + 50 * which) % 200], i * 0.5 + which
            found = ask(socket, encode_frame(i, seconds, frame))
            assert isinstance(found, StreamForecast)
            assert found.frame == i
            same(found, direct.push(frame, seconds))
    assert (service.clients, service.refused, service.dropped) == (2, 0, 0)


def test_a_wrong_frame_is_answered_with_an_error_and_changes_nothing(serve, client, model, frames, same) -> None:
    service = serve()
    socket, direct = client(service.where), poco.Stream(model, "b", interval=0.5)
    whole = encode_frame(0, 0.0, frames[0])
    wrong = [
        (b"", 0, "too short"),
        (b"hello" * 20, 0, "is not from poco"),
        (whole[:-4], 0, "says that it has"),
        (encode_failure(1, "x"), 0, "what can be answered is a frame"),
        (encode_frame(77, 99.0, frames[0][:6]), 77, "the frame has 6 units and session 'b' has 7"),
    ]
    for i in range(20):
        found = ask(socket, encode_frame(i, i * 0.5, frames[i]))
        same(found, direct.push(frames[i], i * 0.5))
        for message, number, says in wrong:
            failure = ask(socket, message)
            assert isinstance(failure, WireFailure)
            assert (failure.number, says in failure.text) == (number, True), failure.text
        again = ask(socket, encode_frame(i, i * 0.5, frames[i]))
        assert "time stamps must rise" in again.text
    assert service.refused == 20 * 6


@pytest.mark.parametrize("clock", [True, False])
def test_a_gap_that_is_refused_is_answered_with_one_error(serve, client, model, frames, same, clock) -> None:
    said = []
    service = serve(gap="refuse", log=said.append)
    socket, other = client(service.where), client(service.where)
    ask(other, encode_frame(0, 0.0, frames[0]))

    def asked(i: int):
        return ask(socket, encode_frame(i, i * 0.5 if clock else None, frames[i]))

    for i in range(15):
        asked(i)
    for start in (20, 50):  # more than once
        failure = asked(start)
        assert isinstance(failure, WireFailure)
        assert failure.text.startswith("frames are missing between ")
        direct = poco.Stream(model, "b", interval=0.5, gap="refuse")
        for i in range(start + 1, start + 16):
            found, expected = asked(i), direct.push(frames[i], i * 0.5 if clock else None)
            marks = {"restarted"} if i == start + 1 else set()
            same(found, dataclasses.replace(expected, marks=expected.marks | marks))
    assert (service.clients, service.refused, len(said)) == (2, 2, 4)
    assert said[-1].endswith("its stream begins anew")
    assert ask(other, encode_frame(1, 0.5, frames[1])).missing == 10


def test_a_client_that_begins_anew_under_its_name(serve, client, model, frames, same) -> None:
    said = []
    service = serve(log=said.append)
    for start, marks in ((100.0, set()), (200.0, {"restarted"}), (3.0, {"restarted"})):
        socket, direct = client(service.where, identity=b"rig"), poco.Stream(model, "b", interval=0.5)
        first = ask(socket, encode_frame(0, start, frames[0]))
        assert (first.marks, first.missing) == (marks, 11)
        direct.push(frames[0], start)
        for i in range(1, 15):
            same(ask(socket, encode_frame(i, start + i * 0.5, frames[i])), direct.push(frames[i], start + i * 0.5))
        socket.close()
    assert service.clients == 1
    assert said[0] == "client 726967 is new"
    assert said[-1].startswith("client 726967: the sender began anew: frame 0 after 14, and its clock too")


def test_the_whole_envelope_comes_back(serve, client, frames) -> None:
    service = serve()
    socket = client(service.where, zmq.DEALER)
    for envelope in ([], [b""], [b"request 7", b""], [b"a", b"b", b"c"]):
        socket.send_multipart([*envelope, encode_frame(0, None, frames[0])])
        *back, message = socket.recv_multipart()
        assert back == envelope
        if not envelope:
            assert decode(message).missing == 11


@pytest.mark.parametrize("kind", [zmq.REQ, zmq.DEALER])
def test_a_message_of_two_parts_is_refused(serve, client, frames, kind) -> None:
    service = serve()
    socket = client(service.where, kind)
    socket.send_multipart([encode_frame(i, i * 0.5, frames[i]) for i in range(2)])
    (message,) = socket.recv_multipart()
    assert decode(message).text == "a message has one part, and this one has 2"
    assert (service.clients, service.refused) == (0, 1)


def test_the_client_that_was_silent_longest_is_forgotten(serve, client, frames) -> None:
    service = serve(clients=2)
    sockets = [client(service.where) for _ in range(3)]

    def warm(which: int, i: int) -> int:
        return ask(sockets[which], encode_frame(i, i * 0.5, frames[i])).missing

    assert [warm(0, 0), warm(1, 0), warm(0, 1), warm(2, 0)] == [11, 11, 10, 11]  # 1 is forgotten
    assert (warm(0, 2), service.clients, service.forgotten) == (9, 2, 1)
    assert (warm(1, 1), service.forgotten) == (11, 2)  # 2 is forgotten


def test_strangers_without_a_frame_of_the_session_push_nobody_out(serve, client, frames) -> None:
    service = serve(clients=2)
    rig = client(service.where)
    assert ask(rig, encode_frame(0, 0.0, frames[0])).missing == 11
    for i in range(4):
        stranger = client(service.where)
        assert ask(stranger, encode_frame(i, None, frames[0][:6])).text.startswith("the frame has 6 units")
    assert (service.clients, service.forgotten, service.refused) == (1, 0, 4)
    other = client(service.where)
    assert ask(other, encode_frame(0, 0.0, frames[0])).missing == 11
    assert ask(rig, encode_frame(1, 0.5, frames[1][:6])).number == 1  # nor is who sends one moved to the front
    assert ask(client(service.where), encode_frame(0, 0.0, frames[0])).missing == 11
    assert ask(other, encode_frame(1, 0.5, frames[1])).missing == 10


def test_a_client_that_takes_no_answers_holds_nobody_up(model, frames, client) -> None:
    opened = open_model(model)
    with closing(ZmqService("tcp://127.0.0.1:*", lambda: poco.Stream(opened, "b"))) as service:
        service._socket.sndhwm = 4  # for who connects from now on
        deaf = client(service.endpoint, zmq.DEALER, rcvhwm=1, rcvbuf=4096, sndhwm=20000)
        other = client(service.endpoint, zmq.DEALER)
        service._socket.sndbuf = 4096
        message, sent = encode_frame(0, None, np.zeros(6)), 0
        while service.dropped == 0 and sent < 100000:
            deaf.send(message)  # answered by an error
            service.answer(5)
            sent += 1
        assert service.dropped == 1
        other.send(encode_frame(0, None, frames[0]))
        while service.answer(5) is None:
            pass
        assert decode(other.recv()).missing == 11


def test_clients_that_are_killed(serve, start, model, frames, same, client) -> None:
    service = serve()
    asks = """
import struct, sys, zmq
req = zmq.Context().socket(zmq.REQ)
req.connect(sys.argv[1])
for i in range(1000000):
    req.send(struct.pack("<4sBBBBQdIIfIQ", b"POCO", 1, 1, 0, 0, i, i * 0.5, 7, 1, 0, 0, 76) + bytes(28))
    req.recv()
    if i == 20:
        print("asks", flush=True)
"""
    socket, direct = client(service.where), poco.Stream(model, "b", interval=0.5)
    for round_ in range(3):
        process = start("-c", asks, service.where)
        assert process.stdout.readline() == "asks\n"
        for i in range(round_ * 20, round_ * 20 + 20):
            if i % 20 == 10:
                process.kill()
            same(ask(socket, encode_frame(i, i * 0.5, frames[i])), direct.push(frames[i], i * 0.5))
    assert (service.clients, service.refused) == (4, 0)


def test_a_wire_that_cannot_answer_says_so() -> None:
    for address, says in (("lsl:x", "no wire that can answer"), ("zmq:", "is no wire"), ("zmq:x", "no ZeroMQ address")):
        with pytest.raises(ConfigError, match=says):
            open_service(address, lambda: None, log=print)
