"""Frames from a wire through a stream to a wire, for as long as they come."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Protocol

from poco.errors import DataError
from poco.stream import GapError, Stream, StreamForecast
from poco.wires.framing import WireFrame

Log = Callable[[str], None]
_DRIFT = 0.01  # seconds a second by which a sender's clock may be slower than the one here, and no frame is late for it
_KEPT = 10_000  # of the last waiting times, for their median


class RepeatedFrameError(DataError):
    """A frame came twice."""


class Source(Protocol):
    """Where frames come from."""

    @property
    def dropped(self) -> int:
        """Frames that came and were let go, as newer ones had come before the stream could take them."""

    @property
    def damaged(self) -> int:
        """Messages that were no frames."""

    @property
    def complaint(self) -> str:
        """What was wrong with one of these; empty if there was none."""

    def next(self, timeout: float) -> WireFrame | None:
        """The next frame, which says when it arrived; None if none came within so many seconds."""

    def close(self) -> None:
        """Lets go of the wire."""


class Sink(Protocol):
    """Where forecasts go."""

    @property
    def dropped(self) -> int:
        """Forecasts that did not reach everybody who was there for them, as far as the wire can tell."""

    def send(self, number: int, found: StreamForecast) -> None:
        """Sends a forecast, at once or not at all; ``number`` is that of its frame, as the frame's sender counts."""

    def close(self) -> None:
        """Lets go of the wire."""


class Arrivals:
    """When the messages of a wire, which says how many there are, were first known to be there."""

    def __init__(self) -> None:
        self._known: deque[tuple[int, float]] = deque()

    def look(self, count: int) -> None:
        """There are so many messages now, those that were read included."""
        if not self._known or count > self._known[-1][0]:
            self._known.append((count, time.monotonic()))

    def of(self, number: int) -> float:
        """When a message was, from 1; the next one that is asked for is a later one."""
        while self._known and self._known[0][0] < number:
            self._known.popleft()
        return self._known[0][1] if self._known else time.monotonic()


class Waiting:
    """How long frames waited until they were taken.

    That is the longer of two times: since the frame was first known to be here; and what it came later than the
    quickest one, by the sender's clock, which also knows of those that waited where nobody looked: this process was
    stopped, or the wire was slow. That clock may be slower than the one here by a hundredth: what the quickest one took
    is taken to rise by so much.

    Attributes:
        longest_ms: of all.
    """

    def __init__(self) -> None:
        self.longest_ms = 0.0
        self._last: deque[float] = deque(maxlen=_KEPT)
        self._quickest: tuple[float, float] | None = None  # how far the clocks were apart, and when

    @property
    def p50_ms(self) -> float:
        """The median of the last 10,000."""
        return statistics.median(self._last) if self._last else 0.0

    def begin_anew(self) -> None:
        """Nothing is known of the sender's clock."""
        self._quickest = None

    def take(self, frame: WireFrame, now: float) -> float:
        """A frame was taken at a time of ``time.monotonic()``; milliseconds that it had waited."""
        waited = 0.0 if frame.arrived is None else now - frame.arrived
        if frame.time is not None:
            apart = least = now - frame.time
            if self._quickest is not None:
                before, when = self._quickest
                least = min(apart, before + _DRIFT * (now - when))
            self._quickest = least, now
            waited = max(waited, apart - least)
        self._last.append(1e3 * waited)
        self.longest_ms = max(self.longest_ms, 1e3 * waited)
        return 1e3 * waited


class Feed:
    """Pushes the frames of one sender into a stream, and knows when the sender began anew.

    The clock of the sender says what is missing. Where the number of a frame falls and the clock goes on, the sender
    was started anew: that is a gap like any other. Where both fall, or the clock alone does for as many frames as a
    context has, or until it passes the last time without a gap for those that were refused, nothing is known of what
    lies between: the stream is reset. So it is where numbers have a gap that no
    clock can tell the length of. A frame without a time among frames with times counts as one interval, until the next
    time says more. Where times stay away for a whole context, or were never there, numbers stand in for the clock if
    the stream was given its interval; if it was not, a number that comes again is that of a frame that does.

    A forecast is late if it took, with the time that the frame had waited, longer than the stream's deadline.

    Args:
        stream: where to; one that nobody else pushes into.
        log: takes a line for a person about every such event.

    Attributes:
        resets: how often the stream was reset.
        repeated: frames that came twice.
        late: forecasts that were late.
        waiting: how long frames waited.
        behind: how many frames in a row, up to the last one, were not after the last one that was taken; those without
            a time do not count.
    """

    def __init__(self, stream: Stream, *, log: Log) -> None:
        self.resets = self.behind = self.repeated = self.late = 0
        self.waiting = Waiting()
        self._stream, self._log = stream, log
        self._last: tuple[int, float | None] | None = None  # number, and the last time that was known
        self._first = 0  # the number from which numbers are counted where they stand in for the clock
        self._clock = False  # whether the sender has one
        self._away = 0  # frames in a row without a time
        self._anew = False  # whether the stream was reset and no frame was taken since

    def push(self, frame: WireFrame) -> StreamForecast:
        """Pushes a frame; a forecast after a reset has the mark ``restarted``.

        Raises:
            RepeatedFrameError: if it came twice, and no time says that it did not; the stream is as it was.
            GapError: if frames are missing, and the stream is one that refuses gaps. It is as it was, and will refuse
                later frames too until :meth:`begin_anew`.
            DataError: if the frame cannot be used; the stream is as it was.
        """
        now = time.monotonic()
        away = 0 if frame.time is not None else self._away + 1
        clock = frame.time is not None or (self._clock and away < self._stream.context)
        interval = 0.0 if clock else self._stream.interval or 0.0  # by which numbers stand in for a clock
        first = frame.number if self._last is None else self._first
        seconds = (frame.number - first) * interval if interval else frame.time
        why = None if frame.values.size != self._stream.units else self._broken(frame.number, seconds, clock)
        if why:
            self._log(f"{why}: the stream begins anew")
            self.begin_anew()
            first = frame.number
            seconds = 0.0 if interval else frame.time
        if seconds is None and self._last is not None and frame.number == self._last[0]:
            self.repeated += 1
            raise RepeatedFrameError(f"frame {frame.number} came twice, and no time says that it is another")
        found = self._stream.push(frame.values, seconds)
        waited = self.waiting.take(frame, now)
        before = None
        if self._last is not None:
            last, before = self._last
            if frame.number < last:
                self._log(f"the sender began anew: frame {frame.number} after {last}, its clock went on")
        self._last, self._first = (frame.number, before if seconds is None else seconds), first
        self._clock, self._away = clock, away
        if seconds is not None or self._anew:
            self.behind = 0
        marks = found.marks | {"restarted"} if self._anew else found.marks
        self._anew = False
        deadline = self._stream.deadline_ms
        if deadline and found.values is not None and waited + found.latency_ms > deadline:
            marks |= {"late"}
        self.late += "late" in marks
        return replace(found, time=frame.time, marks=marks)

    def begin_anew(self) -> None:
        """Resets the stream: nothing is known of what lies between the frames so far and the next one."""
        self._stream.reset()
        self.waiting.begin_anew()
        self.resets += 1
        self._last, self._anew = None, True

    def _broken(self, number: int, seconds: float | None, clock: bool) -> str | None:
        """Why nothing is known of what lies between the last frame and this one; None if the stream can go on."""
        if self._last is None:
            return None
        last, before = self._last
        if self._stream.interval and clock != self._clock:
            return "the sender has a clock now" if clock else "the sender's clock is not known any more"
        if self._stream.interval is None and number not in (last, last + 1):
            return f"frame {number} came after {last}, and how long a frame takes is not known"
        if seconds is None and number < last:
            return f"the sender began anew: frame {number} after {last}, at a time that is not known"
        if seconds is None:
            return None
        if before is None:
            self.behind = 0
            return None
        if seconds > before:
            interval, refused, self.behind = self._stream.interval, self.behind, 0
            if refused and interval and number - last > (seconds - before) / interval + 0.5:
                return f"the sender's clock was set back, and frames between {last} and {number} were refused for it"
            return None
        if number < last:
            return f"the sender began anew: frame {number} after {last}, and its clock too"
        self.behind += 1
        if self.behind >= self._stream.context:
            between = f"to {_digits(seconds)} s from {_digits(before)} s (difference {seconds - before:g} s)"
            return f"the sender's clock was set back, {between}"
        return None


def _digits(seconds: float) -> str:
    """A time to the microsecond: clocks that count from 1970 have ten digits before the point."""
    return f"{seconds:.6f}".rstrip("0").rstrip(".")


class Live:
    """Pushes frames as they come, and sends forecasts on, until the caller ends it.

    Args:
        stream: where to.
        source: where from.
        sink: takes the forecasts; None: nobody does.
        silence: seconds without a frame after which this is said.
        log: takes lines for a person: silence, frames that are refused, a sender that began anew.

    Attributes:
        feed: what pushes.
        silences: how often there was silence.
    """

    def __init__(
        self,
        stream: Stream,
        source: Source,
        sink: Sink | None = None,
        *,
        silence: float = 5.0,
        log: Log = lambda _: None,
    ) -> None:
        self.feed = Feed(stream, log=log)
        self.silences = 0
        self._stream, self._source, self._sink, self._silence, self._log = stream, source, sink, silence, log

    def __iter__(self) -> Iterator[tuple[WireFrame, StreamForecast]]:
        """Frames that were taken, with their forecasts, which have been sent by then; without an end.

        Raises:
            GapError: if frames are missing, and the stream is one that refuses gaps.
            ConfigError: if what the wire brings cannot be frames of the session.
        """
        heard, silent, damaged, refusing = time.monotonic(), False, self._source.damaged, False
        while True:
            frame = self._source.next(min(self._silence, 0.5))
            if self._source.damaged > damaged:
                if damaged == 0:
                    self._log(f"a message is not used, nor are others like it: {self._source.complaint}")
                damaged = self._source.damaged
            now = time.monotonic()
            if frame is None:
                if not silent and now - heard >= self._silence:
                    silent = True
                    self.silences += 1
                    self._log(f"no frame for {self._silence:g} s: waiting for the next one")
                continue
            if silent:
                self._log(f"frames again, after {now - heard:.3g} s")
            heard, silent = now, False
            try:
                found = self.feed.push(frame)
            except GapError:
                raise  # no later frame would mend it
            except DataError as error:
                if not refusing:
                    self._log(f"a frame is refused, and so will be others like it: {error}")
                refusing = True
                continue
            refusing = False
            if self._sink is not None:
                self._sink.send(frame.number, found)
            yield frame, found
