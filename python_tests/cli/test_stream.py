"""``poco stream``."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers.needs import needs_core
from helpers.processes import environment

pytestmark = needs_core


def test_a_replay_reports_latency_and_score(poco, trained, recordings) -> None:
    name = sorted(recordings.glob("*.npz"))[0].stem
    arguments = ("stream", trained, "--replay", recordings, "--session", name, "--speed", 0)
    done = poco(*arguments, "--json")
    assert done.code == 0, done.err
    found = done.json
    assert (found["session"], found["units"], found["frames"], found["forecasts"]) == (name, 8, 400, 389)
    assert found["gaps"] == found["refused"] == found["held_values"] == 0
    assert 0 < found["p50_ms"] <= found["longest_ms"]
    assert found["score"] < 1
    done = poco(*arguments, "--frames", 20, "--deadline-ms", 1e-6)
    assert "20 frames, 9 forecasts" in done.out
    assert "9 late" in done.out


def test_a_replay_says_how_often_it_began_anew(poco, trained, recordings, tmp_path) -> None:
    path = sorted(recordings.glob("*.npz"))[0]
    activity = np.load(path)["activity"]
    activity[:, [100, 101, 250]] = np.nan
    np.savez(tmp_path / path.name, activity=activity)
    reading = ("--key", "activity", "--orientation", "units x frames", "--rate", 20, "--nan", "cut")
    played = ("stream", trained, "--replay", tmp_path / path.name, "--speed", 0, *reading)
    done = poco(*played, "--json")
    assert done.code == 0, done.err
    assert (done.json["frames"], done.json["gaps"], done.json["resets"]) == (397, 0, 2)
    assert "0 gaps, 2 resets; score" in poco(*played).out
    assert poco(*played, "--frames", 100, "--json").json["resets"] == 0


def test_a_replay_takes_the_time_that_it_took(poco, trained, recordings) -> None:
    name = sorted(recordings.glob("*.npz"))[0].stem
    began = time.monotonic()
    arguments = ("--replay", recordings / f"{name}.npz", "--frames", 11, "--json")
    assert poco("stream", trained, *arguments).code == 0
    assert time.monotonic() - began >= 0.5  # 20 frames a second


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_a_replay_that_is_ended_says_its_counters(trained, recordings, end) -> None:
    path = sorted(recordings.glob("*.npz"))[0]
    played = subprocess.Popen(
        [sys.executable, "-m", "poco", "stream", str(trained), "--replay", str(path)],  # for 20 s
        cwd=recordings,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with played:
        try:
            while "at 20 Hz" not in played.stderr.readline():
                assert played.poll() is None
            time.sleep(1)
            played.send_signal(end)
            out, err = played.communicate(timeout=15)
        finally:
            played.kill()
    assert played.returncode == 0, err
    assert 1 <= int(re.match(r"([0-9]+) frames?, ", out)[1]) < 400


def test_what_does_not_fit_says_so(poco, trained, recordings, tmp_path) -> None:
    other = tmp_path / "other.npy"
    np.save(other, np.zeros((5, 100), np.float32))
    reading = ("--orientation", "units x frames", "--rate", 20)
    name = sorted(recordings.glob("*.npz"))[0].stem
    done = poco("stream", trained, "--replay", other, "--as", name, *reading)
    assert done.code == 2
    assert "session 'other' has 5 units, the model learnt 8" in done.err
    done = poco("stream", trained, "--replay", other, *reading)
    assert done.code == 2
    assert "unknown session 'other'" in done.err


def test_a_replay_refuses_what_a_forecast_refuses(poco, trained, recordings, tmp_path) -> None:
    path = sorted(recordings.glob("*.npz"))[0]
    for command in (("stream", trained, "--replay", path, "--speed", 0), ("forecast", trained, path)):
        where = () if command[0] == "stream" else ("--out", tmp_path / "forecasts.npz")
        done = poco(*command, *where, "--rate", 3)
        assert done.code == 2
        assert "has 3 frames a second, the model learnt it at 20: resample the recording" in done.err


@pytest.mark.parametrize("frames", [1, 30])
def test_nothing_that_is_shown_ends_a_stream(poco, trained, recordings, tmp_path, monkeypatch, frames) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    path = sorted(recordings.glob("*.npz"))[0]
    activity = np.load(path)["activity"]
    activity[3, 0], activity[:, 15], activity[2, 17], activity[5, 20] = np.inf, np.nan, -np.inf, 3e38
    if frames == 1:
        activity[:, 0] = np.nan
    np.savez(tmp_path / f"{path.stem}.npz", activity=activity)
    reading = ("--key", "activity", "--orientation", "units x frames", "--rate", 20)
    played = ("--replay", tmp_path / f"{path.stem}.npz", "--speed", 0, "--frames", frames)
    done = poco("stream", trained, *played, *reading)
    assert done.code == 0, done.err
    assert f"{frames} frame" in done.out
    assert "p99" in done.err  # it was shown


def test_a_value_is_shown_as_a_bar_or_a_blank() -> None:
    from poco.cli.dashboard import population, sparkline

    nan = float("nan")
    assert sparkline([]) == ""
    assert sparkline([nan, 1.0, nan]) == " ▁ "
    assert sparkline([0.0, 1e300, float("inf"), 0.5e300]) == "▁█ ▄"
    assert population([1, nan, float("inf"), 3]) == 2
    assert np.isnan(population([nan, nan]))


@pytest.fixture
def subscribe():
    """Makes sockets that listen to a free port of this machine; gives the port too."""
    zmq = pytest.importorskip("zmq", reason="needs the extra 'stream'")
    made = []

    def make():
        port = free_port()
        listener = zmq.Context.instance().socket(zmq.SUB)
        made.append(listener)
        listener.linger, listener.rcvtimeo, listener.reconnect_ivl = 0, 60000, 5
        listener.subscribe(b"")
        listener.connect(f"tcp://127.0.0.1:{port}")
        return listener, port

    yield make
    for listener in made:
        listener.close()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def direct(trained, name, frames) -> list:
    from poco.stream import Stream

    return list(Stream(trained, name).over(frames, rate_hz=20))


def test_a_replay_goes_out_over_a_wire(poco, trained, recordings, subscribe) -> None:
    from poco.wires.framing import decode

    listener, port = subscribe()
    path = sorted(recordings.glob("*.npz"))[0]
    done = poco("stream", trained, "--replay", path, "--speed", 20, "--out", f"zmq:{port}", "--json")
    assert done.code == 0, done.err
    assert (done.json["forecasts"], done.json["dropped_forecasts"]) == (389, 0)
    expected = direct(trained, path.stem, np.load(path)["activity"].T)
    got = [decode(listener.recv())]
    while got[-1].frame != 399:
        got.append(decode(listener.recv()))
    assert [found.frame for found in got] == list(range(400 - len(got), 400))  # the first ones found nobody
    assert len(got) > 300
    for found in got:
        assert (found.status, found.time) == (expected[found.frame].status, expected[found.frame].time)
        if found.values is not None:
            np.testing.assert_array_equal(found.values, expected[found.frame].values)


PUBLISHER = """
import struct, sys, time
import numpy, zmq
frames = numpy.load(sys.argv[2])["activity"].T.astype("<f4")
pub = zmq.Context().socket(zmq.XPUB)
pub.bind(sys.argv[1])
pub.recv()  # somebody has subscribed
time.sleep(0.5)
for i, frame in enumerate(frames[:100]):
    rest = (i, i / 20, len(frame), 1, 0, 0, 48 + 4 * len(frame))
    pub.send(struct.pack("<4sBBBBQdIIfIQ", b"POCO", 1, 1, 0, 0, *rest) + frame.tobytes())
    time.sleep(0.01)
time.sleep(100)
"""


def test_frames_of_one_process_and_forecasts_for_another(trained, recordings, subscribe) -> None:
    from poco.wires.framing import decode

    listener, port = subscribe()
    path, where = sorted(recordings.glob("*.npz"))[0], f"tcp://127.0.0.1:{free_port()}"
    expected = direct(trained, path.stem, np.load(path)["activity"].T[:100])
    arguments = ["--as", path.stem, "--in", f"zmq:{where}", "--out", f"zmq:{port}", "--json", "--silence", "0.3"]
    streams = subprocess.Popen(
        [sys.executable, "-m", "poco", "stream", str(trained), *arguments],
        cwd=recordings,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    sends = subprocess.Popen([sys.executable, "-c", PUBLISHER, where, str(path)])
    with streams, sends:
        try:
            found = decode(listener.recv())
            assert found.frame < 70  # the first ones may find nobody
            for i in range(found.frame, 100):
                if found.frame != i:
                    found = decode(listener.recv())
                assert (found.frame, found.time, found.status) == (i, expected[i].time, expected[i].status)
                if found.values is not None:
                    np.testing.assert_array_equal(found.values, expected[i].values)
            while "no frame for 0.3 s" not in streams.stderr.readline():
                pass
            streams.send_signal(signal.SIGINT)
            out, err = streams.communicate(timeout=20)
        finally:
            for process in (sends, streams):
                process.kill()
    assert streams.returncode == 0, err
    found = json.loads(out)
    names = ("frames", "forecasts", "gaps", "refused", "resets", "dropped_frames", "dropped_forecasts")
    assert [found[name] for name in names] == [100, 89, 0, 0, 0, 0, 0]
    assert found["silences"] >= 1
    assert found["score"] < 1


def test_wires_that_do_not_fit_say_so(poco, trained, recordings) -> None:
    name = sorted(recordings.glob("*.npz"))[0].stem
    for arguments, says in (
        ((), "give one of --replay RECORDING, --in WIRE and --serve WIRE"),
        (("--in", "zmq:1", "--serve", "zmq:2"), "give one of --replay"),
        (("--serve", "zmq:1", "--out", "zmq:2"), "--out has no place beside it"),
        (
            ("--in", "zmq:5555"),
            "the model knows 2 sessions: choose one (session=..., or on the command line --as NAME): ",
        ),
        (("--in", "zmq:5555", "--as", "nobody"), "unknown session 'nobody'"),
        (("--in", "zmq:5555", "--out", "zmq:5555", "--as", name), "--in and --out are both zmq:5555"),
        (("--in", "serial:1", "--as", name), "'serial:1' is no wire"),
        (("--in", "zmq:tcp://rig", "--as", name), "is no ZeroMQ address"),
        (("--in", "zmq:1", "--as", name, "--rate", 40), "at 20 frames a second, and --rate says 40"),
        (("--serve", "zmq:1", "--as", name, "--rate", 1e-9), "at 20 frames a second, and --rate says 1e-09"),
    ):
        done = poco("stream", trained, *arguments)
        assert (done.code, says in done.err) == (2, True), done.err


def test_who_asks_gets_the_forecast(poco, trained, recordings) -> None:
    import threading

    zmq = pytest.importorskip("zmq", reason="needs the extra 'stream'")
    from poco.wires.framing import decode, encode_frame

    path, port = sorted(recordings.glob("*.npz"))[0], free_port()
    frames, answers = np.load(path)["activity"].T[:15], []

    def ask() -> None:
        with zmq.Context() as context, context.socket(zmq.REQ) as socket:
            socket.linger, socket.rcvtimeo, socket.reconnect_ivl = 0, 30000, 5
            socket.connect(f"tcp://127.0.0.1:{port}")
            for i, frame in enumerate(frames):
                socket.send(encode_frame(i, i / 20, frame))
                answers.append(decode(socket.recv()))

    client = threading.Thread(target=ask)
    client.start()
    done = poco("stream", trained, "--as", path.stem, "--serve", f"zmq:{port}", "--frames", 15, "--json")
    client.join()
    assert (done.code, done.json["frames"], done.json["clients"], done.json["refused"]) == (0, 15, 1, 0)
    assert f"answers at tcp://127.0.0.1:{port}" in done.err
    for found, expected in zip(answers, direct(trained, path.stem, frames), strict=True):
        assert found.status == expected.status
        if found.values is not None:
            np.testing.assert_array_equal(found.values, expected.values)
