"""``poco stream --in WIRE --out WIRE`` over shared memory and Lab Streaming Layer."""

from __future__ import annotations

import json
import signal
import time
from contextlib import ExitStack, closing

import numpy as np
import pytest
from helpers.needs import needs_core

pytest.importorskip("typer", reason="the command line needs the extra 'cli'")

import poco
from poco.wires.framing import decode, encode_frame, frame_bytes
from poco.wires.shm import FOLDER, RingReader, RingWriter

pytestmark = needs_core
FRAMES = 30


@pytest.fixture
def streaming(model, start, tmp_path):
    """Starts the command, whose session is 'b', at 2 Hz, and waits until it listens."""

    def begin(*arguments: str):
        folder = tmp_path / "model"
        model.save_pretrained(folder)
        process = start("-m", "poco", "stream", folder, "--as", "b", "--rate", 2, "--json", *arguments)
        while "Ctrl-C ends it" not in (said := process.stderr.readline()):
            assert said, "poco stream ended"
        return process

    return begin


@pytest.fixture
def broken(frames):
    """Frames with a value that is missing."""
    found = frames[:FRAMES].copy()
    found[20, 3] = np.nan
    return found


def end(process, by: int = signal.SIGINT) -> dict[str, object]:
    """What the command says when Ctrl-C, or another signal, ends it."""
    process.send_signal(by)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return json.loads(out)


def check_counters(found: dict[str, object], **expected: int) -> None:
    expected |= {"frames": FRAMES, "forecasts": FRAMES - 11, "held_values": 1, "gaps": 0, "refused": 0}
    expected |= {"resets": 0, "dropped_frames": 0, "damaged_messages": 0, "dropped_forecasts": 0}
    assert {name: found[name] for name in expected} == expected


@pytest.mark.skipif(not FOLDER.is_dir(), reason="needs /dev/shm")
def test_from_shared_memory_to_shared_memory(streaming, model, broken, name, same) -> None:
    with ExitStack() as ends:
        reader = ends.enter_context(closing(RingReader(f"{name}-out")))  # it finds the ring when that is made
        process = streaming("--in", f"shm:{name}-in", "--out", f"shm:{name}-out")
        writer = ends.enter_context(closing(RingWriter(f"{name}-in", frame_bytes(7))))
        stream = poco.Stream(model, "b", interval=0.5)
        for i, frame in enumerate(broken):
            writer.write(encode_frame(i, i * 0.5, frame))
            message = reader.read(30)
            assert message is not None
            found = decode(message)
            assert found.frame == i
            same(found, stream.push(frame, i * 0.5))
        check_counters(end(process))
        assert not (FOLDER / f"poco-{name}-out").exists()


@pytest.mark.skipif(not FOLDER.is_dir(), reason="needs /dev/shm")
def test_what_waited_while_the_process_was_stopped_is_late(streaming, frames, name) -> None:
    def send(number: int) -> None:
        writer.write(encode_frame(number, time.monotonic(), frames[number]))
        time.sleep(0.02)

    with closing(RingReader(f"{name}-out")) as reader:
        process = streaming(
            "--in", f"shm:{name}-in", "--out", f"shm:{name}-out", "--deadline-ms", "700", "--rate", "50"
        )
        with closing(RingWriter(f"{name}-in", frame_bytes(7))) as writer:
            for i in range(15):
                send(i)
                decode(reader.read(30))
            process.send_signal(signal.SIGSTOP)
            send(15)
            time.sleep(1.5)
            process.send_signal(signal.SIGCONT)
            found = decode(reader.read(30))
            assert (found.frame, found.marks) == (15, {"late"})
            assert found.latency_ms < 700
            counted = end(process)
    assert counted["late"] >= 1
    assert counted["waited_longest_ms"] > 1400
    assert counted["longest_ms"] < 1400
    assert 0 <= counted["waited_p50_ms"] < 700


@pytest.mark.skipif(not FOLDER.is_dir(), reason="needs /dev/shm")
def test_sigterm_ends_it_as_ctrl_c_does(streaming, name) -> None:
    with closing(RingReader(f"{name}-out")) as reader:
        process = streaming("--in", f"shm:{name}-in", "--out", f"shm:{name}-out")
        with closing(RingWriter(f"{name}-in", frame_bytes(7))) as writer:
            writer.write(encode_frame(0, 0.0, np.zeros(7)))
            assert decode(reader.read(30)).missing == 11
            assert end(process, signal.SIGTERM)["frames"] == 1
    assert not (FOLDER / f"poco-{name}-out").exists()


def test_sigterm_ends_a_service(model, start, tmp_path) -> None:
    pytest.importorskip("zmq", reason="needs the extra 'stream'")
    model.save_pretrained(tmp_path / "model")
    process = start(
        "-m", "poco", "stream", tmp_path / "model", "--as", "b", "--serve", f"zmq:ipc://{tmp_path}/s", "--json"
    )
    while "answers at" not in (said := process.stderr.readline()):
        assert said, "poco stream ended"
    assert end(process, signal.SIGTERM) == {
        "session": "b",
        "units": 7,
        "frames": 0,
        "clients": 0,
        "refused": 0,
        "dropped_answers": 0,
    }


@pytest.mark.skipif(not FOLDER.is_dir(), reason="needs /dev/shm")
def test_a_ring_that_is_truncated_does_not_end_it(streaming, name) -> None:
    with closing(RingReader(f"{name}-out")) as reader:
        process = streaming("--in", f"shm:{name}-in", "--out", f"shm:{name}-out")
        for i in range(2):
            with closing(RingWriter(f"{name}-in", frame_bytes(7))) as writer:
                writer.write(encode_frame(i, i * 0.5, np.zeros(7)))
                assert decode(reader.read(30)).missing == 11 - i
                (FOLDER / f"poco-{name}-in").write_bytes(b"")
                time.sleep(0.05)
        assert end(process)["frames"] == 2


@pytest.mark.skipif(not FOLDER.is_dir(), reason="needs /dev/shm")
def test_a_writer_of_shared_memory_that_is_no_such(streaming, name) -> None:
    """What is not in the framing is said and counted, and the stream goes on."""
    with closing(RingReader(f"{name}-out")) as reader:
        process = streaming("--in", f"shm:{name}-in", "--out", f"shm:{name}-out")
        with closing(RingWriter(f"{name}-in", 100)) as writer:
            writer.write(b"hello" * 20)
            writer.write(encode_frame(0, 0.0, np.zeros(7)))
            assert decode(reader.read(30)).missing == 11
            while "a message is not used" not in (said := process.stderr.readline()):
                assert said, "poco stream ended"
            assert "not from poco" in said
            assert end(process)["damaged_messages"] == 1


def test_from_lsl_to_lsl(lsl, streaming, model, broken, name) -> None:
    process = streaming("--in", f"lsl:{name}-in", "--out", f"lsl:{name}-out")
    about = lsl.StreamInfo(f"{name}-in", "Activity", 7, 2, "float32", f"{name}-in")
    outlet = lsl.StreamOutlet(about)
    answers = lsl.resolve_byprop("name", f"{name}-out", 1, 30)
    assert [info.channel_count() for info in answers] == [7 * 4 + 2]
    inlet = lsl.StreamInlet(answers[0])
    inlet.open_stream(30)
    until = time.monotonic() + 30
    while not outlet.have_consumers():
        assert time.monotonic() < until
        time.sleep(0.01)
    stream, now = poco.Stream(model, "b", interval=0.5), lsl.local_clock()
    for i, frame in enumerate(broken):
        outlet.push_sample(frame.tolist(), now + i * 0.5)
        expected = stream.push(frame, now + i * 0.5)
        if expected.values is None:
            continue
        sample, stamp = inlet.pull_sample(30)
        assert stamp == pytest.approx(now + i * 0.5, abs=0.01)
        values = np.array(sample[:-2], np.float32).reshape(7, 4)
        np.testing.assert_array_equal(values, np.where(expected.valid[:, None], expected.values, np.nan))
        assert sample[-2] == (1 if i >= 20 else 0)
    check_counters(end(process))
    del outlet
