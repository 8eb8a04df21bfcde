"""poco.online: a model is adapted beside its stream, and the stream goes on with it."""

from __future__ import annotations

import copy
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.needs import needs_core
from helpers.parity import relative_error
from helpers.processes import environment

import poco
from poco.data.recording import Recording
from poco.data.simulate import simulate
from poco.errors import ConfigError, DataError
from poco.online import AdaptationFailedError, ModelFiles, OnlineAdaptation, Seen, without

pytestmark = needs_core

CONFIG = poco.POCOConfig(
    context=12, horizon=4, segment_length=6, latents=3, width=8, heads=2, head_width=8, film_width=16, embedding_std=0.3
)


@pytest.fixture(scope="module")
def recordings() -> list[Recording]:
    return simulate(3, 6, 400, seed=1, individuality=0.3)


@pytest.fixture(scope="module", params=["poco", "grounded"])
def joined(request: pytest.FixtureRequest, recordings: list[Recording]) -> Any:
    """A model of two animals that a third has joined by its first 200 frames."""
    if request.param == "poco":
        settings = poco.TrainConfig(steps=20, batch_size=8, val_every=10, device="cpu")
        options = {"model_config": CONFIG, "train_config": settings}
    else:
        config = poco.GroundedConfig(context=12, horizon=4, latents=0)
        settings = poco.TrainConfig(steps=4, batch_size=8, val_every=2, device="cpu")
        options = {"recipe": "grounded", "model_config": config, "train_config": settings}
    model = poco.train(recordings[:2], progress=False, **options).model
    first = Recording(recordings[2].activity[:, :200], "animal-3", rate_hz=20.0, dataset="simulated")
    return poco.adapt(model, first, mode="zero-shot" if request.param == "poco" else "embeddings").model


def finished(adaptation: OnlineAdaptation, stream: poco.Stream, frames: np.ndarray) -> tuple[int, Any]:
    """Push frames until the adapted model forecasts; the place of the frame, and its forecast."""
    deadline = time.monotonic() + 120
    for place in range(10**9):
        forecast = stream.push(frames[place % len(frames)])
        if "adapted" in forecast.marks:
            return place, forecast
        assert time.monotonic() < deadline
        if adaptation.done:
            assert adaptation.result()
        time.sleep(0.02)
    raise AssertionError


def test_the_stream_goes_on_with_the_adapted_model(joined: Any, recordings: list[Recording], tmp_path: Path) -> None:
    stream, frames = poco.Stream(joined, "animal-3", keep=1000), recordings[2].activity.T
    before = {n: p.clone() for n, p in joined.state_dict().items()}
    for frame in frames:
        stream.push(frame)
    steps = {"steps": 10, "batch_size": 8, "score_every": 5} if isinstance(joined, poco.POCO) else {}
    adaptation = stream.adapt_online(**steps)
    with pytest.raises(ConfigError, match="is going on"):
        stream.adapt_online()
    place, forecast = finished(adaptation, stream, frames)
    found = adaptation.result()
    assert found["session"] == "animal-3"
    again = poco.adapt(without(joined, "animal-3"), recordings[2], **steps)
    assert found["after"] == pytest.approx(again.after, abs=1e-6)
    # the forecast is that of the adapted model on the last frames, in the units of the recording
    window = np.stack([frames[k % len(frames)] for k in range(place - 11, place + 1)]).T
    mean, std = (value.numpy()[:, None] for value in again.model.normalisation("animal-3"))
    x = torch.from_numpy(((window - mean) / std).astype(np.float32))[None]
    with torch.no_grad():
        expected = again.model.eval()(x, session="animal-3")[0].numpy() * std + mean
    assert relative_error(torch.from_numpy(forecast.values), torch.from_numpy(expected)) < 1e-4
    for name, value in joined.state_dict().items():
        assert torch.equal(value, before[name]), name
    stream.save_pretrained(tmp_path / "adapted")
    saved = poco.load(tmp_path / "adapted").state_dict()
    for name, value in again.model.state_dict().items():
        torch.testing.assert_close(saved[name], value, msg=name)
    assert stream.adapt_online(**steps).result(120)["session"] == "animal-3"  # and once more


def test_what_goes_wrong_leaves_the_stream_as_it_was(joined: Any, recordings: list[Recording]) -> None:
    stream, frames = poco.Stream(joined, "animal-3", keep=1000), recordings[2].activity.T
    with pytest.raises(ConfigError, match="open it with keep="):
        poco.Stream(joined, "animal-3").adapt_online()
    with pytest.raises(ConfigError, match="open it with keep="):
        poco.Stream(joined, "animal-3").save_pretrained("nowhere")
    several = poco.Stream(poco.Ensemble([joined, copy.deepcopy(joined)]), "animal-3", keep=1000)
    several.push(frames[0])
    with pytest.raises(ConfigError, match="of kind Ensemble is not adapted beside a stream"):
        several.adapt_online()
    for frame in frames[:30]:
        stream.push(frame)
    adaptation = stream.adapt_online()
    with pytest.raises(AdaptationFailedError, match="30 frames leave no window"):
        adaptation.result(120)
    assert "adapted" not in stream.push(frames[30]).marks
    for frame in frames[31:]:
        stream.push(frame)
    for options, wrong in (
        ({"stepz": 3}, "there is no option 'stepz' here: the options are mode, steps, "),
        ({"steps": "3"}, "steps must be a whole number, got '3'"),
        ({"frames": 15}, "15 frames hold no window of 16"),
        ({"protocol": "none"}, "protocol must be one of leak-free, published, got 'none'"),
        ({"mode": "all"}, "mode"),
    ):
        with pytest.raises(ConfigError, match=wrong):
            stream.adapt_online(**options)
    if isinstance(joined, poco.POCO):
        for options in ({"steps": 0}, {"score_every": 0}, {"patience": 0}, {"precision": "half"}):
            with pytest.raises(ConfigError, match=f"{next(iter(options))} must be"):
                stream.adapt_online(**options)
    cancelled = stream.adapt_online(mode="embeddings", seed=np.int64(1))
    cancelled.cancel()
    with pytest.raises(AdaptationFailedError, match="was cancelled"):
        cancelled.result()
    assert "adapted" not in stream.push(frames[0]).marks


@pytest.mark.parametrize("opened", ["folder", "model"])
def test_the_model_that_forecasts_is_adapted(
    recordings: list[Recording], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: str
) -> None:
    torch.manual_seed(0)
    model = normalised(6)
    model.save_pretrained(tmp_path / "run" / "model")
    monkeypatch.chdir(tmp_path)
    stream = poco.Stream("run" if opened == "folder" else model, "a", keep=1000)
    expected = poco.adapt(without(copy.deepcopy(model), "a"), recordings[2], mode="zero-shot").after
    for frame in recordings[2].activity.T:
        stream.push(frame)
    with torch.no_grad():
        for parameter in model.parameters():  # it is trained on, and saved
            parameter.mul_(0.5)
    model.save_pretrained(tmp_path / "run" / "model")
    monkeypatch.chdir("/")
    assert stream.adapt_online(mode="zero-shot").result(120)["after"] == pytest.approx(expected, abs=1e-6)
    assert "adapted" in stream.push(recordings[2].activity.T[0]).marks


class Made(OnlineAdaptation):
    """An adaptation by whatever function is put in place of the process."""

    made: Any = staticmethod(dict)

    def _adapt(self, folder: Any, *_: Any) -> None:
        found = self.made()
        opened = self._open(folder)
        self._result, self.opened = found, opened


def normalised(units: int) -> poco.POCO:
    """A model of activity that is normalised already."""
    found = poco.POCO(CONFIG, [poco.SessionSpec("a", units)])
    found.set_normalisation("a", np.zeros(units), np.ones(units))
    return found.eval()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> tuple[poco.Stream, poco.POCO, np.ndarray]:
    """A stream that has a forecast, the model that its adaptations come to, and frames."""
    monkeypatch.setattr("poco.stream.OnlineAdaptation", Made)
    model, other = normalised(2), normalised(2)
    opened = poco.stream.open_model(other)
    monkeypatch.setattr(poco.Stream, "_load", lambda *_: (opened, ModelFiles(b'{"model": "POCO"}', b"")))
    frames = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    stream = poco.Stream(model, "a", keep=100)
    for frame in frames[:15]:
        stream.push(frame)
    return stream, other, frames


def test_the_mark_waits_for_a_forecast(small: Any) -> None:
    stream, other, frames = small
    direct = poco.Stream(other, "a")
    stream.adapt_online().result()
    with pytest.raises(DataError):
        stream.push(frames[15][:1])
    found = stream.push(frames[15])
    assert "adapted" in found.marks
    for frame in frames[4:16]:
        expected = direct.push(frame)
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-5)
    assert "adapted" not in stream.push(frames[16]).marks
    stream.adapt_online().result()
    stream.reset()
    marks = [stream.push(frame).marks for frame in frames[17:30]]
    assert [("adapted" in of_one) for of_one in marks] == [False] * 11 + [True, False]


def test_going_on_with_it_is_in_the_latency(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stream, other, frames = small
    stream = poco.Stream(other, "a", keep=100, deadline_ms=10_000)
    for frame in frames[:15]:
        before = stream.push(frame)
    clock = iter((100.0, 111.0))
    monkeypatch.setattr("poco.stream.perf_counter", lambda: next(clock))
    stream.adapt_online().result()
    found = stream.push(frames[15])
    assert before.latency_ms < 10_000
    assert found.latency_ms > 11_000
    assert found.marks == {"late", "adapted"}
    assert stream.stats()["late"] == 1
    assert stream.stats()["longest_ms"] == found.latency_ms
    assert stream.push(frames[16]).marks == set()


def test_a_model_that_is_swapped_in_meanwhile_stays(small: Any) -> None:
    stream, _, frames = small
    adaptation = stream.adapt_online()
    adaptation.result()
    third = normalised(2)
    stream.swap(third)
    with pytest.raises(AdaptationFailedError, match="was cancelled"):
        adaptation.result()
    found, direct = stream.push(frames[15]), poco.Stream(third, "a")
    for frame in frames[4:16]:
        expected = direct.push(frame)
    assert "adapted" not in found.marks
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-5)


def test_an_adapted_model_that_waits_for_a_frame_is_not_lost(small: Any) -> None:
    stream, _, frames = small
    first = stream.adapt_online()
    found = first.result()
    with pytest.raises(ConfigError, match="an adapted model waits for the next frame"):
        stream.adapt_online()
    assert first.result() == found
    assert "adapted" in stream.push(frames[15]).marks
    again = stream.adapt_online()
    again.result()
    again.cancel()
    stream.adapt_online().result()
    assert "adapted" in stream.push(frames[16]).marks


def test_what_cannot_be_opened_or_swapped_in_is_no_success(small: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stream, _, frames = small
    fits = poco.Stream._load

    def cannot(*_: Any) -> Any:
        raise RuntimeError("no room for it")

    monkeypatch.setattr(poco.Stream, "_load", cannot)
    with pytest.raises(AdaptationFailedError, match="failed: no room for it"):
        stream.adapt_online().result()
    monkeypatch.setattr(Made, "made", staticmethod(lambda: 1 / 0))
    with pytest.raises(AdaptationFailedError, match="failed: division by zero"):
        stream.adapt_online().result()

    def nothing() -> Any:
        raise MemoryError

    monkeypatch.setattr(Made, "made", staticmethod(nothing))
    with pytest.raises(AdaptationFailedError, match="failed: MemoryError"):
        stream.adapt_online().result()
    monkeypatch.setattr(Made, "made", staticmethod(lambda: {"session": "a"}))
    wide = normalised(3)
    wide = poco.stream.open_model(wide), ModelFiles(b'{"model": "POCO"}', b"")
    monkeypatch.setattr(poco.Stream, "_load", lambda *_: wide)
    adaptation = stream.adapt_online()
    assert adaptation.result() == {"session": "a"}
    assert stream.push(frames[15]).marks == set()
    with pytest.raises(AdaptationFailedError, match="cannot go on with the adapted model: session 'a' has 2 units"):
        adaptation.result()
    monkeypatch.setattr(poco.Stream, "_load", fits)
    stream.adapt_online().result()
    assert stream.push(frames[16]).marks == {"adapted"}


def running(adaptation: OnlineAdaptation) -> subprocess.Popen[str]:
    until = time.monotonic() + 60
    while adaptation._process is None:
        assert time.monotonic() < until
        time.sleep(0.01)
    return adaptation._process


def test_the_process_ends_with_the_stream(joined: Any, recordings: list[Recording]) -> None:
    with poco.Stream(joined, "animal-3", keep=1000) as stream:
        for frame in recordings[2].activity.T:
            stream.push(frame)
        adaptation = stream.adapt_online()
        process = running(adaptation)
        assert process.poll() is None
    assert process.poll() is not None
    with pytest.raises(AdaptationFailedError, match="was cancelled"):
        adaptation.result()


@pytest.mark.parametrize("end", ["pass", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_the_process_ends_with_the_program(recordings: list[Recording], tmp_path: Path, end: str) -> None:
    normalised(6).save_pretrained(tmp_path / "model")
    np.save(tmp_path / "frames.npy", recordings[2].activity.T)
    code = f"""if True:
        import os, signal, sys, time
        import numpy as np, poco
        stream = poco.Stream("model", "a", keep=1000)
        for frame in np.load("frames.npy"):
            stream.push(frame)
        adaptation = stream.adapt_online(steps=10**6)
        while adaptation._process is None:
            time.sleep(0.01)
        print(adaptation._process.pid, flush=True)
        {end}
    """
    made = environment(TMPDIR=str(tmp_path))
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=made, stdout=subprocess.PIPE, text=True, check=False
    )
    until = time.monotonic() + 60  # what is not yet beyond its imports looks later
    while b"poco" in command(int(done.stdout)):
        assert time.monotonic() < until
        time.sleep(0.05)
    assert not list(tmp_path.glob("poco-online-*"))


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone")
def test_a_real_time_set_up_is_of_the_thread_that_pushes_alone(recordings: list[Recording], tmp_path: Path) -> None:
    normalised(6).save_pretrained(tmp_path / "model")
    np.save(tmp_path / "frames.npy", recordings[2].activity.T)
    code = """if True:
        import os, pathlib, threading, time
        import numpy as np, poco
        every = os.sched_getaffinity(0)
        one = {min(every)}
        try:
            poco.stream.set_realtime(cpus=one, priority=50)
        except poco.errors.ConfigError as error:
            print("refused:", error)
            raise SystemExit
        stream = poco.Stream("model", "a", keep=1000)
        for frame in np.load("frames.npy"):
            stream.push(frame)
        adaptation = stream.adapt_online(steps=10**6)
        while adaptation._process is None:
            time.sleep(0.001)
        process = adaptation._process.pid
        while b"poco" not in pathlib.Path(f"/proc/{process}/cmdline").read_bytes():
            time.sleep(0.001)  # it is this program until it is its own
        helper = next(each.native_id for each in threading.enumerate() if each.name == "poco-online")
        for each in (helper, process):
            assert os.sched_getscheduler(each) == os.SCHED_OTHER, each
            assert os.sched_getaffinity(each) == every, each
        while os.getpriority(os.PRIO_PROCESS, process) < 10:
            assert "torch" not in pathlib.Path(f"/proc/{process}/maps").read_text(), "imports come first"
            time.sleep(0.001)
        assert os.sched_getscheduler(0) == os.SCHED_FIFO
        assert os.sched_getaffinity(0) == one
        print("as any other")
    """
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    if done.stdout.startswith("refused: "):
        pytest.skip(done.stdout)
    assert done.stdout == "as any other\n"


def command(process: int) -> bytes:
    """The command line of a process; empty of one that has ended."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


def test_frames_are_kept_in_stretches_and_missing_values_held() -> None:
    seen = Seen(5, 2)
    for number in range(7):
        frame = np.array([number, np.nan if number in (2, 4) else 10 + number], np.float32)
        seen.add(frame, begins=number in (0, 4))
    recording = seen.recording("a", ("u", "v"), 2.0, "d")
    # kept: 2 to 6; the other unit is unknown in 2 (the first known one stands in) and in 4 (that of 3)
    np.testing.assert_array_equal(recording.activity, [[2, 3, 4, 5, 6], [13, 13, 13, 15, 16]])
    assert recording.stretches == ((0, 2), (2, 5))
    assert (recording.rate_hz, recording.unit_ids, recording.dataset) == (2.0, ("u", "v"), "d")
    never = Seen(5, 2)
    never.add(np.array([1, np.nan], np.float32), begins=True)
    with pytest.raises(DataError, match="unit 'v' was not seen"):
        never.recording("a", ("u", "v"), None, "d")


@pytest.mark.parametrize(("before", "meanwhile", "kept"), [(3, 1, 3), (3, 6, 0), (7, 0, 4), (12, 2, 2), (12, 4, 0)])
def test_frames_are_written_while_others_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: int, meanwhile: int, kept: int
) -> None:
    """Of those that are there, none is newer than asked for, or half of another; one more may be on its way in."""
    seen, write = Seen(5, 2), np.save

    def add(number: int) -> None:
        seen.add(np.full(2, number, np.float32), begins=number % 3 == 0)

    def slowly(path: Path, values: np.ndarray) -> None:
        if values.ndim == 2:  # the others come when half of it is written
            half = values[: len(values) // 2].copy()
            for number in range(before, before + meanwhile):
                add(number)
            values = np.concatenate([half, values[len(half) :]])
        write(path, values)

    for number in range(before):
        add(number)
    monkeypatch.setattr(np, "save", slowly)
    if not kept:
        with pytest.raises(DataError, match="newer frames overwrote all"):
            seen.save(tmp_path, before)
        return
    found = Seen.load(tmp_path, **seen.save(tmp_path, before))
    recording = found.recording("a", ("u", "v"), None, "d")
    numbers = list(range(before - kept, before))
    np.testing.assert_array_equal(recording.activity, [numbers, numbers])
    begins = [place for place, number in enumerate(numbers) if place and number % 3 == 0]
    assert [start for start, _ in recording.stretches] == [0, *begins]


def test_what_the_stream_holds_as_missing_is_not_learnt() -> None:
    model = normalised(2)
    stream = poco.Stream(model, "a", keep=10)
    with pytest.raises(ConfigError, match="no frame was pushed yet"):
        stream.adapt_online()
    for frame in ([1, 2], [1e12, 3], [4, np.nan], [5, np.inf]):
        stream.push(frame)
    assert stream.stats()["held_values"] == 3
    kept = stream._seen
    assert kept is not None
    np.testing.assert_array_equal(kept.recording("a", ("u", "v"), None, "d").activity, [[1, 1, 4, 5], [2, 3, 3, 3]])


def test_a_gap_in_time_begins_a_stretch(recordings: list[Recording]) -> None:
    torch.manual_seed(0)
    model = normalised(6)
    stream = poco.Stream(model, "a", keep=100, interval=0.05)
    for number, frame in enumerate(recordings[0].activity.T[:40]):
        stream.push(frame, 0.05 * (number + (3 if number >= 20 else 0) + (100 if number >= 30 else 0)))
    kept = stream._seen
    assert kept is not None
    assert kept.recording("a", tuple("012345"), None, "d").stretches == ((0, 20), (20, 30), (30, 40))
