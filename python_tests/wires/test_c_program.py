"""examples/rig/wire.c and framing.h: a program in C, without poco, speaks the framing."""

from __future__ import annotations

import math
import shutil
import struct
import subprocess
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from helpers.needs import needs_core

import poco
from poco.errors import WireError
from poco.stream import StreamForecast
from poco.wires.framing import WireFailure, WireFrame, decode, encode_failure, encode_forecast, encode_frame

RIG = Path(__file__).resolve().parents[2] / "examples" / "rig"
COMPILER = shutil.which("cc")
WARNINGS = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-O1")

pytestmark = pytest.mark.skipif(COMPILER is None, reason="needs a C compiler, cc")

# What wire.c uses of ZeroMQ, for the library that comes with pyzmq, which is without its header.
ZMQ_HEADER = """
#include <stddef.h>
typedef struct { _Alignas(void*) unsigned char bytes[64]; } zmq_msg_t;
enum { ZMQ_SUB = 2, ZMQ_REQ = 3, ZMQ_SUBSCRIBE = 6, ZMQ_LINGER = 17, ZMQ_RCVTIMEO = 27 };
void* zmq_ctx_new(void);
int zmq_ctx_term(void*);
void* zmq_socket(void*, int);
int zmq_close(void*);
int zmq_connect(void*, const char*);
int zmq_setsockopt(void*, int, const void*, size_t);
int zmq_send(void*, const void*, size_t, int);
int zmq_msg_init(zmq_msg_t*);
int zmq_msg_recv(zmq_msg_t*, void*, int);
void* zmq_msg_data(zmq_msg_t*);
size_t zmq_msg_size(const zmq_msg_t*);
int zmq_msg_close(zmq_msg_t*);
int zmq_errno(void);
const char* zmq_strerror(int);
"""

# Says of each message, of which the length comes first, what framing.h makes of it.
READER = """
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include "framing.h"
int main(void) {
    uint32_t size;
    while (fread(&size, 4, 1, stdin) == 1) {
        uint8_t* const bytes = malloc(size);
        message m;
        if (fread(bytes, 1, size, stdin) != size) return 1;
        const char* const wrong = decode(bytes, size, &m);
        if (wrong == NULL) {
            printf("%d %d %u %" PRIu64 " %.17g %u %u %.9g %u", m.kind, m.warming, m.marks, m.number, m.time, m.units,
                   m.steps, m.latency_ms, m.missing);
            for (uint32_t unit = 0; m.values != NULL && unit < m.units; ++unit) {
                if (m.kind == KIND_FORECAST) printf(" %d", is_valid(&m, unit));
                for (uint32_t step = 0; step < m.steps; ++step) printf(" %.9g", value_at(&m, unit, step));
            }
        }
        printf("%s\\n", wrong == NULL ? "" : "wrong");
        free(bytes);
    }
    return 0;
}
"""


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """Gives the lines that the program above prints of messages."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "reader.c").write_text(READER)
    program = folder / "reader"
    build = [COMPILER, *WARNINGS, f"-I{RIG}", str(folder / "reader.c"), "-o", str(program), "-lm"]
    checked = [*build, "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    if subprocess.run(checked, capture_output=True, check=False).returncode != 0:
        subprocess.run(build, check=True)  # a compiler without sanitizers

    def read(messages: list[bytes]) -> list[str]:
        given = b"".join(struct.pack("=I", len(message)) + message for message in messages)
        return subprocess.run([program], input=given, stdout=subprocess.PIPE, check=True).stdout.decode().splitlines()

    return read


def forecast(units: int, steps: int, *, warming: bool = False, marks: frozenset[str] = frozenset()) -> StreamForecast:
    random = np.random.default_rng(units)
    values = None if warming else random.normal(size=(units, steps)).astype(np.float32)
    status = "warming" if warming else "ok"
    return StreamForecast(status, values, random.random(units) < 0.7, marks, 0, 2.5, 0.25, 3 if warming else 0)


MESSAGES = [
    encode_frame(0, None, np.arange(7)),
    encode_frame(2**64 - 1, -1.5e300, [math.nan, math.inf, 1e-40]),
    encode_forecast(5, forecast(7, 4, marks=frozenset({"held", "late"})), 4),
    encode_forecast(6, forecast(33, 1, marks=frozenset({"adapted"})), 1),
    encode_forecast(7, forecast(64, 2, warming=True), 2),
    encode_failure(8, "it does not fit"),
]


def expected_line(message: bytes) -> str | None:
    """What the program prints of a message, by Python's decoder; None where only that one looks, at text in UTF-8."""
    try:
        found = decode(message)
    except WireError as error:
        return None if "UTF-8" in str(error) else "wrong"
    _, _, kind, _, marks, number, time, units, steps, took, missing, _ = struct.unpack_from("<4sBBBBQdIIfIQ", message)
    warming = isinstance(found, StreamForecast) and found.status == "warming"
    line = f"{kind} {warming:d} {marks} {number} {time:.17g} {units} {steps} {took:.9g} {missing}"
    if isinstance(found, WireFailure) or found.values is None:
        return line
    rows = found.values[:, None] if isinstance(found, WireFrame) else found.values
    for unit, row in enumerate(rows):
        valid = f" {found.valid[unit]:d}" if isinstance(found, StreamForecast) else ""
        line += valid + "".join(f" {value:.9g}" for value in row)
    return line


def same(found: str, expected: str) -> bool:
    return found.replace("-nan", "nan") == expected.replace("-nan", "nan")


def test_it_reads_what_python_writes(reader) -> None:
    for message, line in zip(MESSAGES, reader(MESSAGES), strict=True):
        assert same(line, expected_line(message))
        assert line != "wrong"


def test_it_refuses_what_python_refuses(reader) -> None:
    random, messages = np.random.default_rng(0), [b"", *(message[:-1] for message in MESSAGES)]
    for _ in range(6000):
        message = bytearray(MESSAGES[random.integers(len(MESSAGES))])
        for _ in range(random.integers(1, 4)):
            at = random.integers(min(len(message), 70 if random.random() < 0.8 else 1 << 20))
            message[at] = random.choice([0, 1, 2, 5, 48, 127, 128, 255, random.integers(256)])
        if random.random() < 0.1:
            message += bytes(random.integers(9))
        messages.append(bytes(message))
    expected = [expected_line(message) for message in messages]
    for message, line, wanted in zip(messages, reader(messages), expected, strict=True):
        assert wanted is None or same(line, wanted), message.hex()
    assert 1000 < sum(wanted == "wrong" for wanted in expected) < 6000


@pytest.fixture(scope="module")
def wire(tmp_path_factory) -> Path:
    """The program, built with libzmq, or else with the one that comes with pyzmq."""
    zmq = pytest.importorskip("zmq", reason="needs the extra 'stream'")
    folder = tmp_path_factory.mktemp("wire")
    asked = ["pkg-config", "--cflags", "--libs", "libzmq"]
    found = subprocess.run(asked, capture_output=True, text=True, check=False) if shutil.which("pkg-config") else None
    if found is not None and found.returncode == 0:
        flags = found.stdout.split()
    else:
        libraries = list((Path(zmq.__file__).parents[1] / "pyzmq.libs").glob("libzmq*.so*"))
        if not libraries:
            pytest.skip("needs libzmq, or a pyzmq that brings it")
        (folder / "zmq.h").write_text(ZMQ_HEADER)
        flags = [f"-I{folder}", str(libraries[0]), f"-Wl,-rpath,{libraries[0].parent}", "-Wl,--allow-shlib-undefined"]
    standard = [flag for flag in WARNINGS if not flag.startswith("-std")]
    program = folder / "wire"
    subprocess.run([COMPILER, *standard, str(RIG / "wire.c"), *flags, "-lm", "-o", str(program)], check=True)
    return program


def values_of(lines: list[str], unit: int) -> list[list[float]]:
    return [[float(word) for word in line.split()[2:]] for line in lines if line.startswith(f"UNIT {unit} ")]


@needs_core
def test_it_asks_poco_stream(wire, model, frames, port, start, tmp_path) -> None:
    pytest.importorskip("typer", reason="the command line needs the extra 'cli'")
    model.save_pretrained(tmp_path / "model")
    broken = frames[:30].copy()
    broken[20, 3] = np.nan
    lines = [f"t={i / 2} " + " ".join(f"{value:.9g}" for value in frame) for i, frame in enumerate(broken)]
    lines[15:15] = ["no frame", "t=7.1 1 2 3"]  # left out, and refused
    serving = start("-m", "poco", "stream", tmp_path / "model", "--as", "b", "--serve", f"zmq:{port}", "--rate", 2)
    command = [str(wire), "ask", f"tcp://127.0.0.1:{port}", "0", "3"]
    while "answers at" not in (said := serving.stderr.readline()):
        assert said, "poco stream ended"
    done = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True, timeout=60, check=True)
    assert "a line that is no frame was left out" in done.stderr
    assert "ERROR 15 the frame has 3 units and session 'b' has 7" in done.stderr
    stream = poco.Stream(model, "b", interval=0.5)
    direct = [stream.push(frame, i / 2) for i, frame in enumerate(broken)]
    printed = done.stdout.splitlines()
    warming = [line.split()[1:] for line in printed if line.startswith("WARMING")]
    assert warming == [[str(i), str(11 - i)] for i in range(11)]
    made = [line.split()[1:3] for line in printed if line.startswith("FORECAST")]
    assert made == [[str(i + (i >= 15)), str(int(i >= 20))] for i in range(11, 30)]  # one number was the refused one's
    for unit in (0, 3):
        expected = [found.values[unit] if found.valid[unit] else [np.nan] * 4 for found in direct[11:]]
        np.testing.assert_array_equal(np.array(values_of(printed, unit), np.float32), np.array(expected, np.float32))
    for wrong in ("7", "first"):
        done = subprocess.run(
            [*command, wrong], input="\n".join(lines), capture_output=True, text=True, timeout=60, check=False
        )
        assert (done.returncode, f"there is no unit '{wrong}': the forecast has 7" in done.stderr) == (1, True)


def test_it_listens(wire, port) -> None:
    from poco.wires.zmq import ZmqSink

    command = [str(wire), "listen", f"tcp://127.0.0.1:{port}", "2"]
    with closing(ZmqSink(str(port), 4)) as sink:
        listening = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            warming, made = forecast(7, 4, warming=True), forecast(7, 4, marks=frozenset({"filled"}))
            while sink.subscribers == 0:
                sink.send(0, warming)
            sink._socket.send(b"hello" * 20)
            sink.send(9, made)
            lines = []
            while not lines or not lines[-1].startswith("UNIT"):
                lines.append(listening.stdout.readline().strip())
            assert set(lines[:-2]) <= {"WARMING 0 3"}
            assert lines[-2] == "FORECAST 9 2 0.250"
            value = made.values[2] if made.valid[2] else [np.nan] * 4
            np.testing.assert_array_equal(np.array(values_of(lines, 2)[0], np.float32), np.float32(value))
        finally:
            listening.kill()
            _, said = listening.communicate()
    assert "not from poco" in said


def test_who_finds_nobody_says_how_it_is_used(wire) -> None:
    done = subprocess.run([str(wire), "ask"], capture_output=True, text=True, check=False)
    assert (done.returncode, "usage: wire" in done.stderr) == (2, True)
    done = subprocess.run([str(wire), "ask", "nowhere"], capture_output=True, text=True, check=False)
    assert (done.returncode, "cannot connect to nowhere" in done.stderr) == (1, True)
