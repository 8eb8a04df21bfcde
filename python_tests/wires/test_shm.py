"""Frames and forecasts through shared memory: one writer that may die and come back, readers that may be slow."""

from __future__ import annotations

import functools
import os
import struct
import subprocess
import sys
import time
import zlib
from contextlib import ExitStack, closing

import numpy as np
import pytest
from helpers.needs import needs_core
from helpers.processes import environment

from poco.errors import ConfigError, WireError
from poco.stream import Stream, StreamForecast
from poco.wires import open_sink, open_source
from poco.wires.framing import decode, encode_failure, encode_frame
from poco.wires.live import Feed, Live
from poco.wires.shm import FOLDER, RingReader, RingWriter, _little

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="needs /dev/shm")


def test_messages_arrive_in_order_round_after_round(name) -> None:
    with closing(RingWriter(name, 40, slots=8)) as writer, closing(RingReader(name)) as reader:
        assert reader.read(0.0) is None
        for i in range(100):
            writer.write(bytes([i]) * (i % 41))
            if i % 5 == 4:
                for j in range(i - 4, i + 1):
                    assert reader.read(0.0) == bytes([j]) * (j % 41)
                assert reader.read(0.0) is None
        assert (reader.missed, reader.damaged) == (0, 0)
        with pytest.raises(WireError, match="a message of 41 bytes is more than a slot of 40 takes"):
            writer.write(bytes(41))
    assert not (FOLDER / f"poco-{name}").exists()


def test_the_bytes_of_a_ring_by_hand(name) -> None:
    with closing(RingWriter(name, 5, slots=4)) as writer:
        for word in (b"abc", b"defgh", b"", b"x", b"last"):
            writer.write(word)
        ring = (FOLDER / f"poco-{name}").read_bytes()
    assert len(ring) == 64 + 4 * 24
    assert struct.unpack_from("<8sQQQQ", ring) == (b"POCORING", 1, 4, 24, 5)
    crc = zlib.crc32(struct.pack("<Q", 5) + b"last")
    assert struct.unpack_from("<QII4s", ring, 64) == (5, 4, crc, b"last")
    assert struct.unpack_from("<QI", ring, 64 + 24) == (2, 5)
    assert ring[64 + 24 + 16 :][:5] == b"defgh"


def test_a_slow_reader_misses_the_oldest_and_counts(name) -> None:
    with closing(RingWriter(name, 8, slots=8)) as writer, closing(RingReader(name)) as reader:
        for i in range(50):
            writer.write(struct.pack("<Q", i))
        assert [struct.unpack("<Q", reader.read(0.0))[0] for _ in range(8)] == list(range(42, 50))
        assert reader.read(0.0) is None
        assert (reader.missed, reader.damaged) == (42, 0)


def test_frames_say_when_they_arrived(name) -> None:
    with closing(RingWriter(name, 100)) as writer, closing(open_source(f"shm:{name}", 3)) as source:
        for i in range(3):
            writer.write(encode_frame(i, None, np.zeros(3)))
        before = time.monotonic()
        first = source.next(5).arrived
        taken = time.monotonic()
        time.sleep(0.1)
        assert before <= first == source.next(0).arrived <= taken  # it has waited here
        writer.write(encode_frame(3, None, np.zeros(3)))
        assert source.next(0).arrived == first
        assert source.next(0).arrived > taken


def test_two_writers_are_refused(name) -> None:
    with closing(RingWriter(name, 8)):
        code = f"from poco.wires.shm import RingWriter; RingWriter({name!r}, 8)"
        for refused in (lambda: RingWriter(name, 8), lambda: open_sink(f"shm:{name}", 7, 4)):
            with pytest.raises(ConfigError, match="another program writes the shared memory"):
                refused()
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
        assert "ConfigError: another program writes the shared memory" in done.stderr
    RingWriter(name, 8).close()


def test_no_name_of_a_ring_is_in_the_way_of_another(name) -> None:
    with ExitStack() as ends:
        for other in (name, *(name + end for end in (".lock", ".new", "-lock", ".lock.new", "_new"))):
            writer = ends.enter_context(closing(RingWriter(other, 8)))
            reader = ends.enter_context(closing(RingReader(other)))
            writer.write(b"first")
            assert reader.read(5) == b"first"
    for other in ("@lock", "@new"):
        with pytest.raises(ConfigError, match="made of letters"):
            RingWriter(name + other, 8)


def test_what_lies_where_a_ring_is_made_is_not_written_to(name, tmp_path) -> None:
    """A link may lead anywhere."""
    mine, made, lock = tmp_path / "mine", FOLDER / f"poco-{name}@new", FOLDER / f"poco-{name}@lock"
    mine.write_text("all my work")
    made.symlink_to(mine)
    RingWriter(name, 8).close()
    assert mine.read_text() == "all my work"
    assert not made.is_symlink()
    lock.unlink()
    for place, says in ((lock, "cannot lock the shared memory"), (made, "cannot make the shared memory")):
        place.mkdir()
        with pytest.raises(ConfigError, match=says):
            RingWriter(name, 8)
        place.rmdir()
    lock.unlink()
    lock.symlink_to(mine)
    with pytest.raises(ConfigError, match="cannot lock the shared memory"):
        RingWriter(name, 8)
    lock.unlink()
    ring = FOLDER / f"poco-{name}"
    ring.mkdir()
    with pytest.raises(ConfigError, match="cannot make the shared memory"):
        RingWriter(name, 8)
    ring.rmdir()
    assert not made.exists()
    RingWriter(name, 8).close()


def test_words_are_little_endian_on_every_machine() -> None:
    assert [_little(258, order) for order in ("little", "big")] == [258, 0x0201 << 48]


def test_damage_is_counted_and_not_read(name) -> None:
    path = FOLDER / f"poco-{name}"
    with closing(RingWriter(name, 8, slots=8)) as writer, closing(RingReader(name)) as reader:
        for offset, value in ((0, 9), (8, 200), (8, 7), (12, 1), (16, 0xFF)):
            writer.write(b"12345678")
            at = 64 + (writer._written - 1) % 8 * 24 + offset
            with path.open("r+b") as file:
                file.seek(at)
                file.write(bytes([value]))
            writer.write(b"good")
            assert reader.read(0.0) == b"good"
        assert (reader.missed, reader.damaged) == (0, 5)
        assert reader.complaint.endswith("is not whole")
        for written in (2**64 - 1, 0, 2**40):
            with path.open("r+b") as file:
                file.seek(32)
                file.write(struct.pack("<Q", written))
            assert reader.read(0.0) is None


@pytest.mark.parametrize("offset", [0, 8, 16, 24])
def test_what_is_no_ring_is_waited_out(name, offset) -> None:
    path = FOLDER / f"poco-{name}"
    whole = struct.pack("<8sQQQQ24x", b"POCORING", 1, 2, 24, 0) + bytes(48)
    for wrong in (b"", whole[:63], whole[:-1], whole + b"x", whole[:offset] + b"\7" + whole[offset + 1 :]):
        path.write_bytes(wrong)
        with closing(RingReader(name)) as reader:
            assert reader.read(0.03) is None
            assert reader.damaged == 1
            assert reader.complaint.endswith("is no ring of version 1")
            path.unlink()
            with closing(RingWriter(name, 8)) as writer:
                writer.write(b"hello")
                assert reader.read(5) == b"hello"


@pytest.mark.parametrize("size", [0, 63, 64, 100])
def test_a_ring_that_is_truncated_has_lost_its_writer(name, size) -> None:
    path = FOLDER / f"poco-{name}"
    with closing(RingWriter(name, 40, slots=8)) as writer, closing(RingReader(name)) as reader:
        whole = path.stat().st_size
        for i in range(3):
            writer.write(bytes([i]))
        assert reader.read(0.0) == b"\0"
        os.truncate(path, size)
        assert reader.read(0.03) is None
        assert (reader.missed, reader.damaged) == (0, 1)
        assert reader.complaint.endswith("is no ring of version 1")
        os.truncate(path, 0)  # the writer comes back, and begins anew in the same object
        os.truncate(path, whole)
        assert reader.read(0.03) is None
        struct.pack_into("<8sQQQQ24x", writer._memory, 0, b"POCORING", 1, 8, 56, 0)
        writer._written = 0
        for i in range(5):
            writer.write(bytes([i]) * 3)
            assert reader.read(5) == bytes([i]) * 3
        assert (reader.missed, reader.damaged) == (0, 1)


def test_a_writer_that_begins_anew_in_a_ring_that_is_read(name) -> None:
    """Faster than anybody looks."""
    with closing(RingWriter(name, 8, slots=8)) as writer, closing(RingReader(name)) as reader:
        for i in range(20):
            writer.write(bytes([i]))
            assert reader.read(5) == bytes([i])
        writer._words[32 // 8] = writer._written = 0
        for i in range(5):
            writer.write(bytes([100 + i]))
        assert [reader.read(5) for _ in range(5)] == [bytes([100 + i]) for i in range(5)]
        assert (reader.read(0.0), reader.missed, reader.damaged) == (None, 0, 0)


@pytest.mark.parametrize("wrong", ["", "a/b", "..%", "a b", "x" * 101])
def test_names_that_cannot_be(wrong) -> None:
    with pytest.raises(ConfigError, match=r"made of letters|is no wire"):
        open_source(f"shm:{wrong}", 7)


WRITER = """
import sys, time
import numpy
from poco.wires.framing import encode_frame, frame_bytes
from poco.wires.shm import RingWriter
name, path, first = sys.argv[1], sys.argv[2], float(sys.argv[3])
frames = numpy.load(path)
ring = RingWriter(name, frame_bytes(7), slots=2000)  # nothing is lost while a busy machine does not read
print("writes", flush=True)
for i in range(10000):
    ring.write(encode_frame(i, first + i * 0.5, frames[i % 200]))
    time.sleep(0.005)
"""


@needs_core
def test_a_writer_that_is_killed_and_begins_anew(start, model, frames, relayed, name, tmp_path) -> None:
    path = tmp_path / "frames.npy"
    np.save(path, frames)
    stream, direct, said = Stream(model, "b", interval=0.5), Stream(model, "b", interval=0.5), []
    feed = Feed(stream, log=said.append)

    take = functools.partial(relayed, feed, direct)

    with closing(open_source(f"shm:{name}", 7)) as source:
        process = start("-c", WRITER, name, path, 100)
        assert take(source, 100.0, 0, 30) == 30
        process.kill()
        sent = take(source, 100.0, 30, None)
        first = 100 + sent * 0.5 + 2.0  # four frames are missing
        start("-c", WRITER, name, path, first)
        assert take(source, first, 0, 40) == 40
        assert (stream.stats()["gaps"], stream.stats()["filled"], feed.resets) == (1, 4, 0)
        assert said == [f"the sender began anew: frame 0 after {sent - 1}, its clock went on"]
        assert (source.dropped, source.damaged) == (0, 0)


def test_a_writer_in_full_flight_never_shows_half_a_message(start, name) -> None:
    """Every message that is read is one that was written; the reader is slower than the ring."""
    code = """
import sys
from poco.wires.shm import RingWriter
ring = RingWriter(sys.argv[1], 4096, slots=4)
print("writes", flush=True)
i = 0
while True:
    i += 1
    ring.write(bytes([i % 251]) * (i % 251 * 16))
"""
    process = start("-c", code, name)
    assert process.stdout.readline() == "writes\n"
    with closing(RingReader(name)) as reader:
        for _ in range(3000):
            message = reader.read(10)
            assert message is not None
            assert len(message) == (message[0] * 16 if message else 0)
            assert message == message[:1] * len(message)
        assert reader.damaged == 0
        assert reader.missed > 0


@needs_core
def test_from_ring_to_ring(model, frames, same, name) -> None:
    stream, direct = Stream(model, "b", interval=0.5), Stream(model, "b", interval=0.5)
    with (
        closing(RingWriter(f"{name}-in", 200)) as writer,
        closing(open_source(f"shm:{name}-in", 7)) as source,
        closing(open_sink(f"shm:{name}-out", 7, 4)) as sink,
        closing(RingReader(f"{name}-out")) as reader,
    ):
        for i in range(30):
            writer.write(encode_frame(i, i * 0.5, frames[i]))
        for wrong in (b"hello", encode_failure(0, "x")):
            writer.write(wrong)
        for frame, _ in Live(stream, source, sink):
            if frame.number == 29:
                break
        for i in range(30):
            found = decode(reader.read(1))
            assert isinstance(found, StreamForecast)
            assert found.frame == i
            same(found, direct.push(frames[i], i * 0.5))
        assert source.next(0.0) is None
        assert source.damaged == 2
        assert source.complaint == "it is no frame, but a forecast or an error"
