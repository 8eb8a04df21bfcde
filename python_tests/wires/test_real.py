"""A real recording, over every wire and back, gives the forecasts of the batch model."""

from __future__ import annotations

import os
import threading
from contextlib import closing

import numpy as np
import pytest
import torch
from helpers.needs import needs_core

import poco
from poco.ops import use_backend
from poco.wires import open_sink, open_source
from poco.wires.framing import decode, encode_frame, frame_bytes
from poco.wires.live import Live

pytestmark = needs_core
FRAMES, CONTEXT = 90, 48


@pytest.fixture(scope="module")
def run(shared_data, tmp_path_factory):
    """A run, a recording, and the batch forecasts ``[frames, N, H]`` after each of its first frames."""
    recording = poco.read(shared_data / "zebrafish_units_chen2018")[0]
    config = poco.TrainConfig(steps=10, val_every=10)
    found = poco.train([recording], out=tmp_path_factory.mktemp("run") / "run", train_config=config, progress=False)
    model, name = found.model, recording.session
    mean, std = (t.double().numpy()[:, None] for t in model.normalisation(name))
    frames = recording.activity.T[:FRAMES]
    windows = [(frames[t - CONTEXT + 1 : t + 1].T - mean) / std for t in range(CONTEXT - 1, FRAMES)]
    wide = getattr(model, "population", None) is None  # the ground's correlations stay in float32
    x = torch.from_numpy(np.stack(windows))
    with torch.no_grad(), use_backend("reference"):
        made = (model.double()(x, name) if wide else model.float()(x.float(), name)).double().numpy()
    return found.folder, frames, 1 / recording.rate_hz, made * std + mean


def stream_over(source, sink, folder, interval: float) -> None:
    with closing(source), closing(sink):
        for frame, _ in Live(poco.Stream(folder, interval=interval), source, sink):
            if frame.number == FRAMES - 1:
                return


@pytest.mark.parametrize("wire", ["zmq", "shm"])
def test_every_forecast_is_that_of_the_batch_model(run, wire) -> None:
    folder, frames, interval, expected = run
    units, steps = expected.shape[1:]
    if wire == "zmq":
        zmq = pytest.importorskip("zmq", reason="needs the extra 'stream'")
        context = zmq.Context()
        send, receive = context.socket(zmq.XPUB), context.socket(zmq.SUB)
        receive.rcvtimeo = send.rcvtimeo = 20000
        send.bind("tcp://127.0.0.1:*")
        receive.bind("tcp://127.0.0.1:*")
        receive.subscribe(b"")
        ends = [(each.last_endpoint.decode()) for each in (send, receive)]
        source, sink = open_source(f"zmq:{ends[0]}", units), open_sink(f"zmq:connect:{ends[1]}", units, steps)
        put, get = send.send, receive.recv
        receive.poll(200)  # lets the two find each other

        def done() -> None:
            context.destroy(0)

    else:
        from poco.wires.shm import FOLDER, RingReader, RingWriter

        if not FOLDER.is_dir():
            pytest.skip("needs /dev/shm")
        name = f"real-{os.getpid()}"
        writer = RingWriter(f"{name}-in", frame_bytes(units))
        source, sink = open_source(f"shm:{name}-in", units), open_sink(f"shm:{name}-out", units, steps)
        reader = RingReader(f"{name}-out")
        put, get = writer.write, lambda: reader.read(20)

        def done() -> None:
            writer.close()
            reader.close()
            for path in FOLDER.glob(f"poco-{name}*"):
                path.unlink()

    thread = threading.Thread(target=stream_over, args=(source, sink, folder, interval))
    thread.start()
    try:
        if wire == "zmq":
            assert send.recv() == b"\1"
        for i, frame in enumerate(frames):
            put(encode_frame(i, i * interval, frame))
            found = decode(get())
            assert (found.frame, found.status) == (i, "warming" if i < CONTEXT - 1 else "ok")
            if found.values is None:
                continue
            assert found.valid.all()
            wanted = expected[i - CONTEXT + 1]
            assert np.abs(found.values - wanted).max() / np.abs(wanted).max() < 1e-5
        thread.join(20)
        assert not thread.is_alive()
    finally:
        done()
