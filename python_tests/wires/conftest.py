"""A small model, frames for it, and processes that send them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.models import randomise
from helpers.processes import environment

import poco
from poco.wires.shm import FOLDER

UNITS, CONTEXT, HORIZON = 7, 12, 4

# Speaks the framing without poco, as any program can: frames of a file, numbered from 0, at times from a start.
PUBLISHER = """
import struct, sys, time
import numpy, zmq
where, path, start, step, pause, count = sys.argv[1], sys.argv[2], *map(float, sys.argv[3:])
frames = numpy.load(path)
pub = zmq.Context().socket(zmq.XPUB)
pub.bind(where)
pub.recv()  # somebody has subscribed
for i in range(int(count)):
    frame = frames[i % len(frames)].astype("<f4").tobytes()
    rest = (i, start + i * step, len(frame) // 4, 1, 0, 0, 48 + len(frame))
    pub.send(struct.pack("<4sBBBBQdIIfIQ", b"POCO", 1, 1, 0, 0, *rest) + frame)
    time.sleep(pause)
time.sleep(60)
"""


def make_model(units: int = UNITS) -> poco.POCO:
    sizes = {"context": CONTEXT, "horizon": HORIZON, "segment_length": 4, "latents": 3}
    sizes |= {"width": 10, "heads": 2, "head_width": 8, "film_width": 18}
    model = poco.POCO(poco.POCOConfig(**sizes), [poco.SessionSpec("a", 5), poco.SessionSpec("b", units)])
    randomise(model)
    for session in model.sessions:
        model.set_normalisation(session.name, np.zeros(len(session.units)), np.ones(len(session.units)))
    return model.eval()


@pytest.fixture(scope="session")
def model() -> poco.POCO:
    """Of the sessions 'a' and 'b', the second with 7 units; context 12, horizon 4."""
    return make_model()


@pytest.fixture(scope="session")
def wide_model() -> poco.POCO:
    """As 'model', but session 'b' has 3,000 units."""
    return make_model(3000)


@pytest.fixture(scope="session")
def frames() -> np.ndarray:
    """``[200, 7]``."""
    return np.random.default_rng(1).normal(2.0, 1.5, (200, UNITS)).astype(np.float32)


@pytest.fixture
def port() -> int:
    """Of this machine, and free."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture
def name() -> Iterator[str]:
    """A name for rings of shared memory, which are gone after the test."""
    found = f"test-{os.getpid()}"
    yield found
    for path in FOLDER.glob(f"poco-{found}*"):
        path.unlink()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts Python processes, in a folder that is no source tree, which do not outlive the test."""
    started = []

    def run(*arguments: object, **variables: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            env=environment(**variables),
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def lsl(tmp_path_factory: pytest.TempPathFactory) -> object:
    """The package pylsl, which stays on this machine here and in processes that are started."""
    pytest.importorskip("pylsl", reason="needs the extra 'stream'", exc_type=ImportError)
    path = tmp_path_factory.mktemp("lsl") / "lsl.cfg"
    path.write_text(
        "[ports]\nIPv6 = disable\n[multicast]\nResolveScope = machine\nAddressesOverride = {127.0.0.1}\n"
        "[lab]\nKnownPeers = {127.0.0.1}\n[log]\nlevel = -3\n"
    )
    os.environ["LSLAPICFG"] = str(path)  # read when it is first used
    import pylsl

    return pylsl


@pytest.fixture
def same() -> Callable[[object, object], None]:
    """Compares two forecasts, but for their numbers and latencies."""

    def compare(found, expected) -> None:
        assert (found.status, found.marks, found.time, found.missing) == (
            expected.status,
            expected.marks,
            expected.time,
            expected.missing,
        )
        np.testing.assert_array_equal(found.valid, expected.valid)
        assert (found.values is None) == (expected.values is None)
        if found.values is not None:
            np.testing.assert_array_equal(found.values, expected.values)

    return compare


@pytest.fixture
def relayed(frames, same) -> Callable[..., int]:
    """Takes frames of a source from a number on up to another, or all that come: they are those that were sent, half a
    second apart, and are forecast as by a stream of its own, ``direct``, that is reset where the feed resets."""

    def take(feed, direct, source, first: float, number: int, until: int | None, *, within: float = 0.0) -> int:
        while number != until and (frame := source.next(0.3 if until is None else 20)) is not None:
            assert frame.number == number
            assert frame.time == pytest.approx(first + number * 0.5, rel=0, abs=within)
            np.testing.assert_array_equal(frame.values, frames[number % 200])
            found = feed.push(frame)
            if "restarted" in found.marks:
                direct.reset()
                assert direct.push(frame.values, frame.time).missing == found.missing == 11
            else:
                same(found, direct.push(frames[number % 200], frame.time))
            number += 1
        return number

    return take


@pytest.fixture
def publisher() -> str:
    """A program: endpoint, file of frames, time of the first one, seconds to the next, pause, count."""
    return PUBLISHER
