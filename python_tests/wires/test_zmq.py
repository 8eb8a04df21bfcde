"""Frames and forecasts over ZeroMQ, between processes that are killed, begin anew, or never listen."""

from __future__ import annotations

import functools
import time
from contextlib import closing

import numpy as np
import pytest
from helpers.needs import needs_core

pytest.importorskip("zmq", reason="needs the extra 'stream'")
import zmq

import poco
from poco.errors import ConfigError
from poco.stream import StreamForecast
from poco.wires import open_sink, open_source
from poco.wires.framing import decode, encode_failure, encode_frame
from poco.wires.live import Feed, Live
from poco.wires.zmq import ZmqSink, ZmqSource, endpoint

pytestmark = needs_core


@pytest.fixture
def socket():
    """Makes sockets that do not outlive the test."""
    made = []

    def make(kind: int, **options: int) -> zmq.Socket:
        new = zmq.Context.instance().socket(kind)
        new.linger = 0
        for name, value in options.items():
            setattr(new, name, value)
        made.append(new)
        return new

    yield make
    for each in made:
        each.close()


def subscriber(socket, where, **options) -> zmq.Socket:
    new = socket(zmq.SUB, rcvtimeo=20000, reconnect_ivl=5, **options)
    new.subscribe(b"")
    new.connect(where)
    return new


def bound(socket) -> zmq.Socket:
    new = socket(zmq.XPUB, rcvtimeo=20000)
    new.bind("tcp://127.0.0.1:*")
    return new


def test_addresses() -> None:
    assert endpoint("5555", bind=True) == (True, "tcp://127.0.0.1:5555")
    assert endpoint("tcp://*:5555", bind=True) == (True, "tcp://*:5555")
    assert endpoint("bind:tcp://*:5555", bind=False) == (True, "tcp://*:5555")
    assert endpoint("connect:5555", bind=True) == (False, "tcp://127.0.0.1:5555")
    assert endpoint("ipc:///tmp/x", bind=False) == (False, "ipc:///tmp/x")
    for wrong in ("0", "65536", "tcp://rig", "tcp://:x", "udp://a:1", "bind:", "bind:bind:1", "tcp://a b:1"):
        with pytest.raises(ConfigError, match=r"is no ZeroMQ address: give zmq:PORT"):
            endpoint(wrong, bind=True)


def test_an_address_that_is_taken_says_so(port) -> None:
    with closing(open_sink(f"zmq:{port}", 7, 4)), pytest.raises(ConfigError, match="cannot bind to tcp"):
        open_sink(f"zmq:{port}", 7, 4)
    with pytest.raises(ConfigError, match="cannot bind to tcp://no-such"):
        open_source("zmq:bind:tcp://no-such-interface:5555", 7)


def test_the_newest_frames_are_kept_and_others_counted(socket) -> None:
    publisher = bound(socket)
    with closing(ZmqSource(publisher.last_endpoint.decode(), keep=10)) as source:
        assert publisher.recv() == b"\1"
        for i in range(100):
            publisher.send(encode_frame(i, i * 0.5, [i, 2.0]))
        assert source._socket.poll(5000)
        time.sleep(0.3)
        got = [source.next(0.1) for _ in range(11)]
        assert [None if frame is None else frame.number for frame in got] == [*range(90, 100), None]
        assert (got[0].time, got[0].values.tolist()) == (45.0, [90.0, 2.0])
        assert (source.dropped, source.damaged) == (90, 0)


def test_frames_say_when_they_arrived(socket) -> None:
    publisher = bound(socket)
    with closing(ZmqSource(publisher.last_endpoint.decode())) as source:
        assert publisher.recv() == b"\1"
        for i in range(3):
            publisher.send(encode_frame(i, None, [i]))
        time.sleep(0.3)
        first = source.next(5)
        taken = time.monotonic()
        time.sleep(0.2)
        assert first.arrived <= source.next(0).arrived <= taken  # it has waited here


def test_a_stream_that_is_too_slow_is_late(socket, model, frames) -> None:
    """Of frames without times too; the engine itself is quick."""

    class Slow:
        dropped = 0

        def send(self, number, found) -> None:
            time.sleep(0.02)

    stream = poco.Stream(model, "b", deadline_ms=300)
    publisher = bound(socket)
    with closing(ZmqSource(publisher.last_endpoint.decode())) as source:
        assert publisher.recv() == b"\1"
        for i in range(40):
            publisher.send(encode_frame(i, None, frames[i]))
        live = Live(stream, source, Slow())
        found = next(found for frame, found in live if frame.number == 39)
    assert found.marks == {"late"}
    assert found.latency_ms < 300
    assert live.feed.late >= 10
    assert live.feed.waiting.longest_ms > 600


def test_messages_that_are_no_frames_are_counted_and_said_once(socket, model, frames, same) -> None:
    stream, direct, said, sink = poco.Stream(model, "b"), poco.Stream(model, "b"), [], []
    publisher = bound(socket)
    with closing(ZmqSource(publisher.last_endpoint.decode())) as source:
        assert publisher.recv() == b"\1"
        whole = encode_frame(0, 0.0, frames[0])
        for i in range(14):
            publisher.send(encode_frame(i, None, frames[i]))
            for wrong in (b"", b"hello", whole[:-1], whole + b"\0", encode_failure(0, "x"), bytes(range(90))):
                publisher.send(wrong)
            publisher.send_multipart([b"topic", whole])
        for frame, found in Live(stream, source, log=said.append):
            sink.append(found)
            same(found, direct.push(frames[frame.number]))
            if frame.number == 13:
                break
        assert len(sink) == 14
        assert source.next(0.2) is None
        assert source.damaged == 14 * 7
    assert len(said) == 1
    assert said[0].startswith("a message is not used, nor are others like it: ")


def test_a_publisher_that_is_killed_and_begins_anew(start, publisher, port, model, frames, relayed, tmp_path) -> None:
    path, where = tmp_path / "frames.npy", f"tcp://127.0.0.1:{port}"
    np.save(path, frames)
    stream, direct, said = poco.Stream(model, "b", interval=0.5), poco.Stream(model, "b", interval=0.5), []
    feed = Feed(stream, log=said.append)

    take = functools.partial(relayed, feed, direct)

    with closing(ZmqSource(str(port))) as source:
        process = start("-c", publisher, where, path, 100, 0.5, 0.005, 10000)
        assert take(source, 100.0, 0, 30) == 30
        process.kill()
        sent = take(source, 100.0, 30, None)  # some were on their way
        first = 100 + sent * 0.5 + 2.0
        process = start("-c", publisher, where, path, first, 0.5, 0.005, 10000)  # four frames are missing
        assert take(source, first, 0, 30) == 30
        assert (stream.stats()["gaps"], stream.stats()["filled"], feed.resets) == (1, 4, 0)
        assert said == [f"the sender began anew: frame 0 after {sent - 1}, its clock went on"]
        process.kill()
        take(source, first, 30, None)
        start("-c", publisher, where, path, 0, 0.5, 0.005, 10000)
        assert take(source, 0.0, 0, 30) == 30
        assert feed.resets == 1
        assert said[-1].endswith("and its clock too: the stream begins anew")
        assert (source.dropped, source.damaged, stream.stats()["refused"]) == (0, 0, 0)


DEAF = """
import sys, time, zmq
sub = zmq.Context().socket(zmq.SUB)
sub.rcvhwm = 1
sub.rcvbuf = 4096
sub.subscribe(b"")
sub.connect(sys.argv[1])
print("connected", flush=True)
time.sleep(60)
"""


def forecast(i: int, units: int = 4096) -> StreamForecast:
    values = np.full((units, 16), i, np.float32)
    return StreamForecast("ok", values, np.ones(units, bool), frozenset(), i, i * 0.5, 0.1, 0)


@pytest.mark.parametrize("others", [0, 1])
def test_a_consumer_that_never_reads_holds_nobody_up(start, socket, others) -> None:
    with closing(ZmqSink("tcp://127.0.0.1:*", 16, keep=8)) as sink:
        fast = [subscriber(socket, sink.endpoint) for _ in range(others)]
        process = start("-c", DEAF, sink.endpoint)
        assert process.stdout.readline() == "connected\n"
        until = time.monotonic() + 10
        while sink.subscribers < 1 + others and time.monotonic() < until:
            sink._count_subscribers()
            time.sleep(0.01)
        assert sink.subscribers == 1 + others
        longest = 0.0
        for i in range(150):
            began = time.monotonic()
            sink.send(i, forecast(i))
            longest = max(longest, time.monotonic() - began)
            for each in fast:
                assert decode(each.recv()).frame == i
        assert longest < 0.5
        assert sink.dropped > (0 if others else 50)
        process.kill()
        process.wait()
        until = time.monotonic() + 10
        while sink.subscribers > others and time.monotonic() < until:
            sink._count_subscribers()
            time.sleep(0.01)
        dropped = sink.dropped
        late = subscriber(socket, sink.endpoint)
        while sink.subscribers < 1 + others:
            sink._count_subscribers()
        sink.send(200, forecast(200))
        assert [decode(each.recv()).frame for each in (late, *fast)] == [200] * (1 + others)
        assert sink.dropped == dropped
        process = start("-c", DEAF, sink.endpoint)  # another one is noticed too
        assert process.stdout.readline() == "connected\n"
        until = time.monotonic() + 20
        for i in range(201, 100000):
            sink.send(i, forecast(i))
            assert [decode(each.recv()).frame for each in (late, *fast)] == [i] * (1 + others)
            if sink.dropped > dropped:
                break
            assert time.monotonic() < until


def test_every_frame_is_processed_though_a_consumer_never_reads(start, socket, wide_model) -> None:
    """The whole way, from a publisher through the stream to a consumer that has its buffers full."""
    stream, publisher = poco.Stream(wide_model, "b", interval=0.5), bound(socket)
    frame = np.random.default_rng(0).normal(size=3000)
    where = publisher.last_endpoint.decode()
    with closing(ZmqSource(where)) as source, closing(ZmqSink("tcp://127.0.0.1:*", 4, keep=8)) as sink:
        process = start("-c", DEAF, sink.endpoint)
        assert process.stdout.readline() == "connected\n"
        assert publisher.recv() == b"\1"
        publisher.send(encode_frame(0, 0.0, frame))
        for taken, (came, found) in enumerate(Live(stream, source, sink)):
            assert found.frame == came.number == taken
            assert found.status == ("ok" if taken >= 11 else "warming")
            if taken == 399:
                break
            publisher.send(encode_frame(taken + 1, taken * 0.5 + 0.5, frame))
        assert (stream.stats()["frames"], stream.stats()["gaps"], source.dropped) == (400, 0, 0)
        assert 100 < sink.dropped < 389
