"""Frames of a sender that comes, goes, and begins anew."""

from __future__ import annotations

from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.needs import needs_core

import poco
from poco.errors import ConfigError, DataError
from poco.stream import GapError
from poco.wires import open_sink, open_source
from poco.wires.framing import WireFrame
from poco.wires.live import Arrivals, Feed, Live

pytestmark = needs_core


class Listed:
    """A source of the frames in a list, whose end is Ctrl-C."""

    def __init__(self, frames: list[WireFrame | None]) -> None:
        self.dropped = self.damaged = 0
        self.complaint = ""
        self._frames = list(frames)

    def next(self, timeout: float) -> WireFrame | None:
        if not self._frames:
            raise KeyboardInterrupt
        return self._frames.pop(0)

    def close(self) -> None: ...


class Kept(list):
    """A sink that keeps what it is sent."""

    dropped = 0

    def send(self, number, found) -> None:
        self.append((number, found))

    def close(self) -> None: ...


def test_a_sender_that_began_anew_is_a_gap_where_its_clock_went_on(model, frames, same) -> None:
    stream, direct, said = poco.Stream(model, "b", interval=0.5), poco.Stream(model, "b", interval=0.5), []
    feed = Feed(stream, log=said.append)
    sent = [(i, i * 0.5) for i in range(20)] + [(i, 11.5 + i * 0.5) for i in range(20)]
    for i, seconds in sent:
        same(feed.push(WireFrame(i, seconds, frames[i])), direct.push(frames[i], seconds))
    assert said == ["the sender began anew: frame 0 after 19, its clock went on"]
    assert (stream.stats()["gaps"], stream.stats()["filled"], feed.resets) == (1, 3, 0)


def test_a_sender_whose_clock_began_anew_too_resets_the_stream(model, frames, same) -> None:
    stream, direct, said = poco.Stream(model, "b", interval=0.5), poco.Stream(model, "b", interval=0.5), []
    feed = Feed(stream, log=said.append)
    for i in range(20):
        feed.push(WireFrame(i, 100 + i * 0.5, frames[i]))
    first = feed.push(WireFrame(0, 3.0, frames[0]))
    assert (first.status, first.missing, first.marks) == ("warming", 11, {"restarted"})
    direct.push(frames[0], 3.0)
    for i in range(1, 20):
        same(feed.push(WireFrame(i, 3 + i * 0.5, frames[i])), direct.push(frames[i], 3 + i * 0.5))
    assert said == ["the sender began anew: frame 0 after 19, and its clock too: the stream begins anew"]
    assert feed.resets == 1


def test_a_clock_that_was_set_back_is_believed_after_a_context(model, frames) -> None:
    """The number alone tells nothing where the first frames of a new sender were missed."""
    stream, said = poco.Stream(model, "b", interval=0.5), []
    feed = Feed(stream, log=said.append)
    for i in range(20):
        feed.push(WireFrame(i, 100 + i * 0.5, frames[i]))
    for i in range(20, 31):
        with pytest.raises(DataError, match="time stamps must rise"):
            feed.push(WireFrame(i, i * 0.5, frames[i]))
    found = feed.push(WireFrame(31, 115.5, frames[31]))  # it was a hiccup
    assert (found.status, found.marks) == ("ok", {"filled"})
    for i in range(32, 43):
        with pytest.raises(DataError, match="time stamps must rise"):
            feed.push(WireFrame(i, i * 0.5, frames[i]))
    found = feed.push(WireFrame(43, 21.5, frames[43]))
    assert (found.status, found.missing, found.marks) == ("warming", 11, {"restarted"})
    assert said == [
        "the sender's clock was set back, to 21.5 s from 115.5 s (difference -94 s): the stream begins anew"
    ]


@pytest.mark.parametrize("back", [0.5, 1.7, 5.0])
def test_a_clock_that_was_set_back_for_less_than_a_context_hides_no_frame(model, frames, back) -> None:
    stream, said = poco.Stream(model, "b", interval=0.5), []
    feed, refused = Feed(stream, log=said.append), []
    for i in range(20):
        feed.push(WireFrame(i, 100 + i * 0.5, frames[i]))
    with pytest.raises(DataError, match="time stamps must rise"):
        feed.push(WireFrame(19, 109.5, frames[19]))  # one that comes twice is no such thing
    assert feed.push(WireFrame(20, 110.0, frames[20])).marks == set()
    for i in range(21, 50):
        try:
            found = feed.push(WireFrame(i, 100 + i * 0.5 - back, frames[i]))
        except DataError:
            refused.append(i)
            continue
        first = refused[-1] + 1
        assert found.marks == ({"restarted"} if i == first else set())
        assert found.status == ("ok" if i >= first + 11 else "warming")
    why = f"the sender's clock was set back, and frames between 20 and {first} were refused for it"
    assert said == [f"{why}: the stream begins anew"]


def test_a_clock_that_counts_from_1970_is_told_to_the_microsecond(model, frames) -> None:
    stream, said, start = poco.Stream(model, "b", interval=0.5, gap="refuse"), [], 1732849200.125
    feed = Feed(stream, log=said.append)
    feed.push(WireFrame(0, start, frames[0]))
    with pytest.raises(
        DataError, match=r"frame at 1732849200.1249 s .* one at 1732849200.125 s \(difference -9.98974e-05 s"
    ):
        feed.push(WireFrame(1, start - 0.0001, frames[1]))
    with pytest.raises(GapError, match=r"between 1732849200.125 s and 1732849202.126 s \(difference 2.001 s\)"):
        feed.push(WireFrame(2, start + 2.001, frames[2]))
    for i in range(3, 15):
        with suppress(DataError):
            feed.push(WireFrame(i, start - 100 + i, frames[i]))
    between = "to 1732849114.125 s from 1732849200.125 s (difference -86 s)"
    assert said == [f"the sender's clock was set back, {between}: the stream begins anew"]


def test_numbers_stand_in_for_a_clock(model, frames, same) -> None:
    stream, direct = poco.Stream(model, "b", interval=0.5), poco.Stream(model, "b", interval=0.5)
    feed = Feed(stream, log=lambda _: None)
    for i in (*range(20), *range(23, 40)):
        found, expected = feed.push(WireFrame(i, None, frames[i])), direct.push(frames[i], i * 0.5)
        assert (found.time, "filled" in found.marks) == (None, 23 <= i < 34)
        np.testing.assert_array_equal(found.valid, expected.valid)
        if expected.values is not None:
            np.testing.assert_array_equal(found.values, expected.values)
    assert stream.stats()["filled"] == 3
    assert feed.push(WireFrame(0, None, frames[0])).marks == {"restarted"}
    assert feed.push(WireFrame(1, 0.5, frames[1])).marks == {"restarted"}  # what it had to do with 0 is not known


def test_a_time_that_is_not_known_among_others_that_are(model, frames, same) -> None:
    """Each counts as one interval; the next time says what was missing."""
    for interval in (None, 0.5):
        stream, direct = poco.Stream(model, "b", interval=interval), poco.Stream(model, "b", interval=interval)
        said: list[str] = []
        feed = Feed(stream, log=said.append)
        for i in range(100):
            seconds = None if i in (30, 60, 61, *range(80, 91)) else 100 + i * 0.5
            found = feed.push(WireFrame(i, seconds, frames[i]))
            same(found, direct.push(frames[i], seconds))
            assert found.status == ("ok" if i >= 11 else "warming")
        assert (said, feed.resets, stream.stats()["gaps"]) == ([], 0, 0)
    feed.push(WireFrame(101, None, frames[101]))
    assert feed.push(WireFrame(103, 151.5, frames[103])).marks == {"filled"}
    assert (said, stream.stats()["filled"]) == ([], 2)  # 100 and 102


def test_a_clock_that_stays_away_for_a_context_is_gone(model, frames) -> None:
    stream, said = poco.Stream(model, "b", interval=0.5), []
    feed = Feed(stream, log=said.append)
    for i in range(60):
        found = feed.push(WireFrame(i, None if 20 <= i < 45 else 100 + i * 0.5, frames[i]))
        assert found.marks == ({"restarted"} if i in (31, 45) else set())
        assert found.status == ("ok" if 11 <= i < 31 or 42 <= i < 45 or i >= 56 else "warming")
    first, second = said
    assert first == "the sender's clock is not known any more: the stream begins anew"
    assert second == "the sender has a clock now: the stream begins anew"


def test_a_sender_that_began_anew_at_a_time_that_is_not_known(model, frames) -> None:
    stream, said = poco.Stream(model, "b", interval=0.5), []
    feed = Feed(stream, log=said.append)
    for i in range(20):
        feed.push(WireFrame(i, 100 + i * 0.5, frames[i]))
    for i in range(20):
        found = feed.push(WireFrame(i, i * 0.5 or None, frames[i]))
        assert found.marks == (set() if i else {"restarted"})
    assert found.status == "ok"
    assert said == ["the sender began anew: frame 0 after 19, at a time that is not known: the stream begins anew"]


def test_a_clock_that_was_set_back_among_frames_without_a_time(model, frames) -> None:
    stream, said = poco.Stream(model, "b", interval=0.5), []
    feed = Feed(stream, log=said.append)
    for i in range(20):
        feed.push(WireFrame(i, 100 + i * 0.5, frames[i]))
    for i in range(20, 34):
        if i % 5 == 0:
            feed.push(WireFrame(i, None, frames[i]))
            continue
        with pytest.raises(DataError, match="time stamps must rise"):
            feed.push(WireFrame(i, i * 0.5, frames[i]))
    found = feed.push(WireFrame(34, 17.0, frames[34]))
    assert found.marks == {"restarted"}
    assert said == [
        "the sender's clock was set back, to 17 s from 109.5 s (difference -92.5 s): the stream begins anew"
    ]


def test_without_a_rate_a_jump_of_numbers_is_no_small_matter(model, frames) -> None:
    for times in (None, 0.5):
        stream, said = poco.Stream(model, "b"), []
        feed = Feed(stream, log=said.append)
        for i in (*range(15), *range(16, 30)):
            found = feed.push(WireFrame(i, None if times is None else i * times, frames[i]))
            assert found.status == ("ok" if 11 <= i < 15 or i >= 27 else "warming")
            assert found.marks == ({"restarted"} if i == 16 else set())
        assert said == ["frame 16 came after 14, and how long a frame takes is not known: the stream begins anew"]


@pytest.fixture
def clock(monkeypatch):
    """Seconds of this machine's clock, in a list of one."""
    now = [1000.0]
    monkeypatch.setattr("poco.wires.live.time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def test_what_a_frame_waited_counts_for_the_deadline(model, frames, clock) -> None:
    stream = poco.Stream(model, "b", interval=0.5, deadline_ms=10_000)
    feed = Feed(stream, log=lambda _: None)
    for i in range(60):
        # by the sender's clock: the process was stopped for 15 s, and does eight frames a second when it goes on
        clock[0] = 1000 + i * 0.5 if i < 30 else max(1015 + 15 + (i - 30) * 0.125, 1000 + i * 0.5)
        found = feed.push(WireFrame(i, 77 + i * 0.5, frames[i]))
        behind = clock[0] - 1000 - i * 0.5
        assert abs(behind - 10) < 0.5 or found.marks == ({"late"} if behind > 10 else set())
    assert feed.late == 13  # of 14, for what the sender's clock may be slower
    assert stream.stats()["late"] == 0  # the engine was quick
    assert feed.waiting.longest_ms == pytest.approx(15_000, rel=0.02)
    assert 0 < feed.waiting.p50_ms < 5000
    found = feed.push(WireFrame(60, None, frames[60], arrived=clock[0] - 11))  # by the clock here
    assert found.marks == {"late"}
    assert feed.push(WireFrame(61, None, frames[61], arrived=clock[0] - 9)).marks == set()


@pytest.mark.parametrize(("slower", "late"), [(0.0, False), (0.009, False), (-0.5, False), (0.05, True)])
def test_a_senders_clock_may_be_a_little_slower(model, frames, clock, slower, late) -> None:
    feed = Feed(poco.Stream(model, "b", interval=0.5, deadline_ms=10_000), log=lambda _: None)
    for i in range(1000):
        clock[0] = 1000 + i * 0.5 * (1 + slower)
        feed.push(WireFrame(i, i * 0.5, frames[i % 200]))
    assert (feed.late > 0) == late


def test_a_clock_that_began_anew_makes_nothing_late(model, frames, clock) -> None:
    feed = Feed(poco.Stream(model, "b", interval=0.5, deadline_ms=1000), log=lambda _: None)
    for first in (500.0, 3.0):
        for i in range(20):
            clock[0] += 0.5
            feed.push(WireFrame(i, first + i * 0.5, frames[i]))
    assert (feed.late, feed.resets) == (0, 1)


def test_when_messages_were_first_known(clock) -> None:
    found = Arrivals()
    for count in (3, 3, 5):
        clock[0] += 1
        found.look(count)
    clock[0] += 1
    assert [found.of(number) for number in (1, 3, 4, 5, 6)] == [1001, 1001, 1003, 1003, 1004]
    found.look(7)
    clock[0] += 1
    assert found.of(7) == 1004


def test_a_frame_that_comes_twice_is_refused(model, frames, same) -> None:
    """Where neither times nor a rate say that it is another."""
    stream, direct, said, kept = poco.Stream(model, "b"), poco.Stream(model, "b"), [], Kept()
    listed = [WireFrame(i, None, frames[i]) for i in (*range(14), 13, 13, 14, 14, *range(15, 20))]
    live = Live(stream, Listed(listed), kept, log=said.append)
    with pytest.raises(KeyboardInterrupt):
        list(live)
    assert [number for number, _ in kept] == list(range(20))
    for i, (_, found) in enumerate(kept):
        same(found, direct.push(frames[i]))
    assert (live.feed.repeated, live.feed.resets) == (3, 0)
    assert len(said) == 2
    assert said[0].endswith("frame 13 came twice, and no time says that it is another")
    feed = Feed(poco.Stream(model, "b"), log=said.append)
    for i in range(5):
        assert feed.push(WireFrame(7, i * 0.5, frames[i])).frame == i  # its times say that it is another
    assert feed.push(WireFrame(8, None, frames[5])).frame == 5
    with pytest.raises(DataError, match="frame 8 came twice"):
        feed.push(WireFrame(8, None, frames[5]))


@pytest.mark.parametrize("first", [5, 17 * 10**17, 2**64 - 40])
def test_numbers_may_begin_anywhere(model, frames, same, first) -> None:
    stream, direct = poco.Stream(model, "b", interval=0.1), poco.Stream(model, "b", interval=0.1)
    feed = Feed(stream, log=lambda _: None)
    for i in (*range(20), *range(22, 40)):
        found, expected = feed.push(WireFrame(first + i, None, frames[i])), direct.push(frames[i], i * 0.1)
        assert found.marks == expected.marks
        if expected.values is not None:
            np.testing.assert_array_equal(found.values, expected.values)
    assert (stream.stats()["gaps"], stream.stats()["filled"]) == (1, 2)
    for i in range(14):  # and begin anew
        assert feed.push(WireFrame(3 + i, None, frames[i])).status == ("ok" if i >= 11 else "warming")
    assert (stream.stats()["gaps"], feed.resets) == (1, 1)


def test_frames_that_are_refused_are_said_once_and_leave_the_stream_as_it_was(model, frames, same) -> None:
    good = [WireFrame(i, i * 0.5, frames[i]) for i in range(20)]
    short = WireFrame(0, -5.0, frames[0][:6])  # not even as if the sender began anew
    listed = [*good[:14], short, short, good[13], *good[14:16], short, *good[16:]]
    stream, direct, said, kept = poco.Stream(model, "b", interval=0.5), poco.Stream(model, "b"), [], Kept()
    live = Live(stream, Listed(listed), kept, log=said.append)
    taken = []
    with pytest.raises(KeyboardInterrupt):
        taken.extend(frame.number for frame, _ in live)
    assert taken == [number for number, _ in kept] == list(range(20))
    for i, (_, found) in enumerate(kept):
        same(found, direct.push(frames[i], i * 0.5))
    assert len(said) == 2
    assert "the frame has 6 units and session 'b' has 7" in said[0]
    assert stream.stats()["refused"] == 4


def test_a_stream_that_refuses_gaps_ends(model, frames) -> None:
    good, behind = [WireFrame(i, i * 0.5, frames[i]) for i in (0, 1, 2)], WireFrame(3, 0.25, frames[3])
    gap = [WireFrame(i, i * 0.5, frames[i]) for i in (5, 6)]
    for listed in ([*good, *gap], [*good, behind, *gap]):
        stream = poco.Stream(model, "b", interval=0.5, gap="refuse")
        with pytest.raises(GapError, match=r"frames are missing between 1 s and 2.5 s \(difference 1.5 s\)"):
            list(Live(stream, Listed(listed)))


def test_silence_is_said_once(model, frames) -> None:
    class Slow(Listed):
        def next(self, timeout):
            import time

            frame = super().next(timeout)
            if frame is None:
                time.sleep(0.04)
            return frame

    listed = [WireFrame(0, 0.0, frames[0]), *[None] * 5, WireFrame(1, 0.5, frames[1]), *[None] * 5]
    said = []
    live = Live(poco.Stream(model, "b"), Slow(listed), silence=0.1, log=said.append)
    with pytest.raises(KeyboardInterrupt):
        list(live)
    assert said[0] == said[2] == "no frame for 0.1 s: waiting for the next one"
    assert said[1].startswith("frames again, after 0.2")
    assert (len(said), live.silences) == (3, 2)


@pytest.mark.parametrize("address", ["", "zmq", "zmq:", "tcp://127.0.0.1:5555", "5555", "serial:/dev/tty0"])
def test_what_is_no_wire_says_which_there_are(address) -> None:
    with pytest.raises(ConfigError, match="is no wire: give zmq:PORT"):
        open_source(address, 7)
    with pytest.raises(ConfigError, match="is no wire: give zmq:PORT"):
        open_sink(address, 7, 4)


@pytest.mark.parametrize("package", ["zmq", "pylsl"])
def test_a_wire_whose_package_is_missing_names_the_extra(run_python, package) -> None:
    wire = {"zmq": "zmq:5555", "pylsl": "lsl:x"}[package]
    code = f"""
import sys
sys.modules[{package!r}] = None
from poco.errors import MissingExtraError
from poco.wires import open_sink, open_source
for opens in (lambda: open_source({wire!r}, 7), lambda: open_sink({wire!r}, 7, 4)):
    try:
        opens()
    except MissingExtraError as error:
        print(error)
"""
    lines = run_python(code).stdout.splitlines()
    assert len(lines) == 2
    assert all(line.endswith("pip install 'poco-forecast[stream]'") for line in lines)
