"""Frames and forecasts over Lab Streaming Layer."""

from __future__ import annotations

import functools
import os
import time
from contextlib import closing

import numpy as np
import pytest
from helpers.needs import needs_core

import poco
from poco.errors import ConfigError
from poco.stream import StreamForecast
from poco.wires import open_sink, open_source
from poco.wires.live import Feed, Live

pytestmark = needs_core
NAME = f"poco-test-{os.getpid()}"

OUTLET = """
import sys, time
import numpy, pylsl
name, path, start, count = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
frames = numpy.load(path)
outlet = pylsl.StreamOutlet(pylsl.StreamInfo(name, "Activity", 7, 200.0, "float32"), 1)
while not outlet.have_consumers():
    time.sleep(0.01)
for i in range(count):
    outlet.push_sample(frames[i % 200], start + i * 0.5)
    time.sleep(0.005)
time.sleep(60)
"""


def outlet(lsl, name: str, channels: int, form: str = "float32"):
    return lsl.StreamOutlet(lsl.StreamInfo(name, "Activity", channels, 2.0, form), 1)


def wait_for(what) -> None:
    until = time.monotonic() + 10
    while not what():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.parametrize("form", ["float32", "double64", "int16"])
def test_samples_arrive_at_their_times(lsl, frames, form) -> None:
    name = f"{NAME}-{form}"
    with closing(open_source(f"lsl:{name}", 7)) as source:
        assert source.next(0.1) is None
        sends = outlet(lsl, name, 7, form)
        while not sends.have_consumers():
            assert source.next(0.0) is None
        now = lsl.local_clock()
        sent = frames[:20] if form != "int16" else np.round(frames[:20] * 100)
        for i in range(20):
            sends.push_sample(sent[i].tolist() if form != "int16" else [int(v) for v in sent[i]], now + i * 0.5)
        for i in range(20):
            frame = source.next(5)
            assert (frame.number, frame.values.dtype) == (i, np.float32)
            assert frame.time == pytest.approx(now + i * 0.5, abs=0.005)
            np.testing.assert_array_equal(frame.values, sent[i].astype(np.float32))


def test_the_newest_samples_are_kept_and_others_counted(lsl, frames) -> None:
    from poco.wires.lsl import LslSource

    with closing(LslSource(f"{NAME}-many", 7, keep=5)) as source:
        sends = outlet(lsl, f"{NAME}-many", 7)
        while not sends.have_consumers():
            assert source.next(0.0) is None
        for i in range(15):
            sends.push_sample(frames[i].tolist(), 100 + i * 0.5)
        wait_for(lambda: source._inlet.samples_available() == 15)
        assert [source.next(1).number for _ in range(5)] == [10, 11, 12, 13, 14]
        assert source.dropped == 10


def test_frames_say_when_they_arrived(lsl, frames) -> None:
    with closing(open_source(f"lsl:{NAME}-arrived", 7)) as source:
        sends = outlet(lsl, f"{NAME}-arrived", 7)
        while not sends.have_consumers():
            assert source.next(0.0) is None
        for i in range(3):
            sends.push_sample(frames[i].tolist(), 100 + i * 0.5)
        wait_for(lambda: source._inlet.samples_available() == 3)
        first = source.next(5).arrived
        taken = time.monotonic()
        time.sleep(0.1)
        assert first == source.next(5).arrived <= taken  # it has waited here


def test_an_outlet_that_pauses_is_the_same_one(lsl, frames, monkeypatch) -> None:
    with closing(open_source(f"lsl:{NAME}-pauses", 7)) as source:
        sends = outlet(lsl, f"{NAME}-pauses", 7)
        while not sends.have_consumers():
            assert source.next(0.0) is None
        for i, patience in enumerate((5.0, 5.0, 0.1, 0.1)):  # is looked for again where it is longer than that
            sends.push_sample(frames[i].tolist(), 100 + i * 0.5)
            assert source.next(5).number == i
            inlet = source._inlet
            monkeypatch.setattr("poco.wires.lsl._PATIENCE", patience)
            assert source.next(0.2) is None
            assert (source._inlet is inlet) == (patience > 1)
            while not sends.have_consumers() or source._inlet is None:
                assert source.next(0.0) is None


@pytest.mark.parametrize(
    ("channels", "form", "says"),
    [(6, "float32", "6 channels, and the session has 7 units"), (7, "string", "is of text")],
)
def test_a_stream_that_does_not_fit_says_so(lsl, channels, form, says) -> None:
    name = f"{NAME}-{channels}-{form}"
    sends = outlet(lsl, name, channels, form)
    with closing(open_source(f"lsl:{name}", 7)) as source, pytest.raises(ConfigError, match=says):
        source.next(10)
    del sends


def test_names_that_cannot_be(lsl) -> None:
    for opens in (lambda: open_source("lsl:a'b", 7), lambda: open_sink('lsl:a"b', 7, 4)):
        with pytest.raises(ConfigError, match="without quotation marks"):
            opens()


def test_an_outlet_that_is_killed_and_begins_anew(lsl, start, model, frames, relayed, tmp_path) -> None:
    path, name = tmp_path / "frames.npy", f"{NAME}-killed"
    np.save(path, frames)
    stream, direct, said = poco.Stream(model, "b", interval=0.5), poco.Stream(model, "b", interval=0.5), []
    feed = Feed(stream, log=said.append)

    take = functools.partial(relayed, feed, direct, within=0.01)

    with closing(open_source(f"lsl:{name}", 7)) as source:
        process = start("-c", OUTLET, name, path, 1000, 10000)
        assert take(source, 1000.0, 0, 30) == 30
        process.kill()
        sent = take(source, 1000.0, 30, None)
        first = 1000 + sent * 0.5 + 2.0
        process = start("-c", OUTLET, name, path, first, 10000)  # four frames are missing
        assert take(source, first, 0, 30) == 30
        assert (stream.stats()["gaps"], stream.stats()["filled"], feed.resets) == (1, 4, 0)
        assert said == [f"the sender began anew: frame 0 after {sent - 1}, its clock went on"]
        process.kill()
        take(source, first, 30, None)
        start("-c", OUTLET, name, path, 5, 10000)
        assert take(source, 5.0, 0, 30) == 30
        assert feed.resets == 1


def test_from_lsl_to_lsl(lsl, model, frames) -> None:
    """Frames of an outlet through a stream into an outlet: values, order, times, marks."""
    stream, direct = poco.Stream(model, "b", interval=0.5), poco.Stream(model, "b", interval=0.5)
    broken = frames[:30].copy()
    broken[20, 3] = np.nan
    with (
        closing(open_source(f"lsl:{NAME}-in", 7)) as source,
        closing(open_sink(f"lsl:{NAME}-out", 7, 4, lsl_times=True)) as sink,
    ):
        info = lsl.resolve_byprop("name", f"{NAME}-out", 1, 5)[0]
        assert (info.channel_count(), info.type()) == (7 * 4 + 2, "Forecast")
        inlet = lsl.StreamInlet(info)
        inlet.open_stream(5)
        about = inlet.info(5).desc().child("forecast")
        assert (about.child_value("units"), about.child_value("steps")) == ("7", "4")
        wait_for(sink._outlet.have_consumers)
        sends = outlet(lsl, f"{NAME}-in", 7)
        while not sends.have_consumers():
            assert source.next(0.0) is None
        now = lsl.local_clock()
        for i in range(30):
            sends.push_sample(broken[i].tolist(), now + i * 0.5)
        for frame, _ in Live(stream, source, sink):
            if frame.number == 29:
                break
        for i in range(30):
            expected = direct.push(broken[i], now + i * 0.5)
            if i < 11:
                continue
            sample, stamp = inlet.pull_sample(5)
            assert stamp == pytest.approx(now + i * 0.5, abs=0.005)
            values = np.array(sample[:-2], np.float32).reshape(7, 4)
            np.testing.assert_array_equal(values[expected.valid], expected.values[expected.valid])
            assert np.isnan(values[~expected.valid]).all()
            assert (~expected.valid).sum() == (i >= 20)
            assert sample[-2] == (1 if i >= 20 else 0)
            assert sample[-1] > 0


def test_times_of_other_clocks_are_not_taken_for_lsls(lsl) -> None:
    found = StreamForecast(
        "ok", np.ones((7, 4), np.float32), np.ones(7, bool), frozenset({"late", "filled", "adapted"}), 0, 3.5, 1.5, 0
    )
    with closing(open_sink(f"lsl:{NAME}-now", 7, 4)) as sink:
        inlet = lsl.StreamInlet(lsl.resolve_byprop("name", f"{NAME}-now", 1, 5)[0])
        inlet.open_stream(5)
        wait_for(sink._outlet.have_consumers)
        now = lsl.local_clock()
        sink.send(0, found)
        sample, stamp = inlet.pull_sample(5)
        assert now <= stamp <= now + 1
        assert sample == [1.0] * 28 + [74.0, 1.5]
