"""poco.stream: equal to the model on the same window, and never silently wrong."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import relative_error
from helpers.models import randomise
from helpers.needs import needs_core
from helpers.processes import environment

import poco
from poco import core
from poco.ensemble import Ensemble
from poco.errors import BackendError, CheckpointError, ConfigError, DataError, VocabularyError
from poco.ground.grounded import Grounded, GroundedConfig
from poco.ops import use_backend

pytestmark = needs_core
SMALL: dict[str, Any] = {
    "context": 12,
    "horizon": 4,
    "segment_length": 4,
    "latents": 3,
    "width": 10,
    "heads": 2,
    "head_width": 8,
    "film_width": 18,
}


def randomised(model: Any) -> Any:
    """With parameters, buffers and statistics that are not what they begin as."""
    generator = torch.Generator().manual_seed(5)
    randomise(model)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith(("mean", "loadings", "coefficients", "forms.0.weight", "forms.1.weight")):
                buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.3)
            elif name.endswith(("std", "scale")):
                buffer.copy_(torch.rand(buffer.shape, generator=generator) + 0.5)
            elif name.endswith(("gains", "shares")):
                buffer.copy_(torch.tensor([0.7, 0.4, 0.3, 0.2])[: buffer.numel()])
    return model.eval()


def small_poco(units: int = 7, **changes: Any) -> poco.POCO:
    specs = [
        poco.SessionSpec("a", 5, dataset="x", unit_types=("p",) * 5),
        poco.SessionSpec("b", units, dataset="y", unit_types=tuple("pqpqpqp"[:units])),
    ]
    return randomised(poco.POCO(poco.POCOConfig(**{**SMALL, **changes}), specs)).float()


def small_grounded(population: bool) -> Grounded:
    sizes: dict[str, Any] = {"context": 12, "horizon": 4, "latents": 3, "width": 40, "own_means": (1, 4, 0)}
    specs = [poco.SessionSpec("a", 2), poco.SessionSpec("b", 7)]
    return randomised(Grounded(GroundedConfig(**sizes, population=population), specs)).float()


def small_ensemble(member: Any, *seeds: int) -> Ensemble:
    """Members whose parameters differ, with the normalisation of the first."""
    found = []
    for seed in seeds:
        found.append(member())
        randomise(found[-1], seed).float()
    return Ensemble(found).eval()


def test_a_session_whose_normalisation_was_never_set_is_told_of(tmp_path: Path) -> None:
    model = poco.POCO(poco.POCOConfig(**SMALL), [poco.SessionSpec("a", 2), poco.SessionSpec("b", 7)])
    model.set_normalisation("a", np.zeros(2), np.ones(2))
    model.save_pretrained(tmp_path / "model")
    Ensemble([model, copy.deepcopy(model)]).save_pretrained(tmp_path / "ensemble")
    for found in (model, tmp_path / "model", tmp_path, tmp_path / "ensemble"):
        with pytest.warns(RuntimeWarning, match=r"call model.set_normalisation\('b', mean, std\)"):
            poco.Stream(found, "b")
        assert poco.Stream(found, "a").units == 2


def activity(units: int = 7, frames: int = 40) -> np.ndarray:
    return np.random.default_rng(1).normal(2.0, 1.5, (frames, units)).astype(np.float32)


def batch_forecast(model: Any, window: np.ndarray, session: str) -> np.ndarray:
    """``[N, H]`` of frames ``[C, N]``, by the model as torch runs it, in the recording's own units."""
    mean, std = (t.double().numpy()[:, None] for t in model.normalisation(session))
    x = torch.from_numpy((window.T - mean) / std)[None]
    first = next(iter(model)) if isinstance(model, Ensemble) else model
    wide = "population" not in getattr(first, "networks", ())  # the ground's correlations stay in float32
    model, x = (model.double(), x) if wide else (model, x.float())
    with torch.no_grad(), use_backend("reference"):
        return model(x, session)[0].double().numpy() * std + mean


MODELS = {
    "poco": lambda: small_poco(),
    "with types": lambda: small_poco(unit_type_embedding=True, latent_session_embedding=True, decoder_context=8),
    "without a session": lambda: small_poco(session_embedding=False, layers=2),
    "grounded": lambda: small_grounded(False),
    "grounded, population": lambda: small_grounded(True),
    "three pocos": lambda: small_ensemble(small_poco, 1, 2, 3),
    "two grounded": lambda: small_ensemble(lambda: small_grounded(True), 1, 2),
}


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("name", MODELS)
def test_every_frame_is_the_batch_forecast(name: str, precision: str) -> None:
    model, frames = MODELS[name](), activity()
    with poco.Stream(model, "b", precision=precision, threads=2) as stream:
        assert (stream.session, stream.units, stream.context, stream.horizon) == ("b", 7, 12, 4)
        for t, found in enumerate(stream.over(frames)):
            assert (found.frame, found.valid.all(), found.marks) == (t, t >= 11, frozenset())
            if t < 11:
                assert (found.status, found.values, found.missing) == ("warming", None, 11 - t)
                continue
            expected = batch_forecast(model, frames[t - 11 : t + 1], "b")
            assert found.status == "ok"
            assert found.latency_ms > 0
            assert relative_error(torch.from_numpy(found.values), torch.from_numpy(expected)) < (
                1e-5 if precision == "float32" else 2e-2
            )
        stats = stream.stats()
    assert (stats["frames"], stats["forecasts"], stats["refused"]) == (40, 29, 0)
    assert 0 < stats["p50_ms"] <= stats["p99_ms"] <= stats["longest_ms"]


def test_a_trained_run_streams_a_real_recording(shared_data: Path, tmp_path: Path) -> None:
    recording = poco.read(shared_data / "zebrafish_units_chen2018")[0]
    config = poco.TrainConfig(steps=20, val_every=20)
    run = poco.train([recording], out=tmp_path / "run", train_config=config, progress=False)
    stream = poco.Stream(tmp_path / "run")
    frames = recording.activity.T[:120]
    for t, found in enumerate(stream.over(frames, rate_hz=recording.rate_hz)):
        if t >= 47 and t % 10 == 0:
            expected = batch_forecast(run.model, frames[t - 47 : t + 1], recording.session)
            assert relative_error(torch.from_numpy(found.values), torch.from_numpy(expected)) < 1e-5
    assert stream.stats()["gaps"] == 0


@pytest.mark.parametrize("missing", ["hold", "drop"])
@pytest.mark.parametrize("name", ["poco", "grounded, population"])
def test_missing_values_are_marked_until_a_whole_context_was_seen(name: str, missing: str) -> None:
    model, frames = MODELS[name](), activity(frames=60)
    broken = frames.copy()
    broken[20, 2], broken[21, 2], broken[21, 5] = np.nan, np.inf, -np.inf
    held = frames.copy()
    held[20, 2] = held[21, 2] = frames[19, 2]
    held[21, 5] = frames[20, 5]
    stream = poco.Stream(model, "b", missing=missing)
    for t, found in enumerate(stream.over(broken)):
        invalid = {n for n, last in ((2, 21), (5, 21)) if t >= (20 if n == 2 else 21) and t < last + 12}
        assert set(np.flatnonzero(~found.valid)) == (invalid if t >= 11 else set(range(7)))
        assert ("held" in found.marks) == bool(invalid)
        if found.values is None:
            continue
        if missing == "hold" or not invalid:
            expected = batch_forecast(model, held[t - 11 : t + 1], "b")
            assert relative_error(torch.from_numpy(found.values), torch.from_numpy(expected)) < 1e-5
        else:
            assert np.isnan(found.values[sorted(invalid)]).all()
            assert np.isfinite(found.values[found.valid]).all()
    assert stream.stats()["held_values"] == 3


@pytest.mark.parametrize("huge", [3e38, -1e30, 1e9, 1e300])
@pytest.mark.parametrize("name", MODELS)
def test_values_out_of_all_range_are_missing(name: str, huge: float) -> None:
    """They are finite, or were before float32, and would make everybody's forecast NaN."""
    frames = activity(frames=30).astype(np.float64)
    frames[15, 3] = huge
    held = frames.copy()
    held[15, 3] = frames[14, 3]
    expected = list(poco.Stream(MODELS[name](), "b").over(held))
    stream = poco.Stream(MODELS[name](), "b")
    for t, (found, same) in enumerate(zip(stream.over(frames), expected, strict=True)):
        assert list(np.flatnonzero(~found.valid)) == (list(range(7)) if t < 11 else [3] if 15 <= t < 27 else [])
        assert found.marks == ({"held"} if 15 <= t < 27 else set())
        if same.values is not None:
            np.testing.assert_array_equal(found.values, same.values)
    assert stream.stats()["held_values"] == 1


def test_a_forecast_that_is_not_finite_is_marked() -> None:
    """As after a swap to a model that was learnt badly."""
    model = small_poco()
    model.set_normalisation("b", torch.zeros(7), torch.tensor([1.0, 1, 1, 1e38, 1, 1, 1]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(50.0)
    found = list(poco.Stream(model, "b").over(activity(frames=12)))[-1]
    assert found.marks == {"overflowed"}
    finite = np.isfinite(found.values).all(axis=1)
    np.testing.assert_array_equal(found.valid, finite)
    assert not finite[3]
    assert finite[0]


def test_a_filled_frame_is_no_sight_of_a_unit() -> None:
    frames = activity(frames=40)
    frames[20, 2] = np.nan
    times = np.arange(40) * 0.5
    times[24:] += 2.0  # four frames are missing
    stream = poco.Stream(small_poco(), "b", interval=0.5)
    valid = [stream.push(frame, time).valid[2] for frame, time in zip(frames, times, strict=True)]
    assert valid == [False] * 11 + [True] * 9 + [False] * 12 + [True] * 8
    assert stream.stats()["filled"] == 4


def test_a_dropped_unit_tells_the_population_nothing() -> None:
    """The forecasts of the others do not depend on what was held for it."""
    model, frames = small_poco(), activity(frames=12)
    results = []
    for before in (0.0, 50.0):
        changed = frames.copy()
        changed[:11, 3], changed[11, 3] = before, np.nan
        results.append(list(poco.Stream(model, "b", missing="drop").over(changed))[-1].values)
    others = [0, 1, 2, 4, 5, 6]
    np.testing.assert_array_equal(results[0][others], results[1][others])


def of_units(model: Any, kept: list[int]) -> Any:
    """The model as if session 'b' never had other units than these."""
    if isinstance(model, Ensemble):
        return Ensemble([of_units(member, kept) for member in model]).eval()
    first, second = model.sessions
    types = tuple(second.unit_types[unit] for unit in kept if second.unit_types)
    names = tuple(second.units[unit] for unit in kept)
    smaller = type(model)(model.config, [first, dataclasses.replace(second, units=names, unit_types=types)]).float()
    state = smaller.state_dict()
    for name, value in model.state_dict().items():
        if name.endswith("vocabulary"):
            continue
        place = next((p for p, n in enumerate(value.shape) if n != state[name].shape[p]), None)
        state[name] = value if place is None else value.index_select(place, torch.tensor(kept))
    smaller.load_state_dict(state)
    return smaller.eval()


@pytest.mark.parametrize("name", MODELS)
def test_what_drop_leaves_is_the_batch_forecast_of_the_units_that_are_there(name: str) -> None:
    model, frames, kept = MODELS[name](), activity(frames=40), [0, 1, 3, 4, 6]
    expected_of = of_units(MODELS[name](), kept)
    broken = frames.copy()
    broken[8:20, 2], broken[14, 5] = np.nan, np.nan  # both are in the contexts of the frames 14 to 25
    found = list(poco.Stream(model, "b", missing="drop").over(broken))
    for t in range(14, 26):
        expected = batch_forecast(expected_of, frames[t - 11 : t + 1, kept], "b")
        assert np.isnan(found[t].values[[2, 5]]).all()
        assert relative_error(torch.from_numpy(found[t].values[kept]), torch.from_numpy(expected)) < 1e-5
        assert list(np.flatnonzero(~found[t].valid)) == [2, 5]
    whole = batch_forecast(model, frames[28:40], "b")
    assert relative_error(torch.from_numpy(found[39].values), torch.from_numpy(whole)) < 1e-5


def test_a_session_of_two_units() -> None:
    model, frames = small_poco(2), activity(2, 30)
    frames[15, 1] = np.nan
    for missing in ("hold", "drop"):
        found = list(poco.Stream(model, "b", missing=missing).over(frames))
        alone, held = of_units(small_poco(2), [0]), frames.copy()
        held[15, 1] = frames[14, 1]
        for t in range(15, 27):
            given = (alone, frames[t - 11 : t + 1, :1]) if missing == "drop" else (model, held[t - 11 : t + 1])
            expected = batch_forecast(*given, "b")
            values = found[t].values[:1] if missing == "drop" else found[t].values
            assert relative_error(torch.from_numpy(values), torch.from_numpy(expected)) < 1e-5
            assert list(found[t].valid) == [True, False]


def test_what_ends_a_block_is_not_replaced() -> None:
    """By an error that the end of the stream is."""
    stream, asked = poco.Stream(small_poco(), "b"), []
    engines = stream._stream

    class Busy:
        def reset(self) -> None:
            asked.append(True)
            raise core.module().Error("the stream is in use by another thread")

    stream._stream = Busy()
    with pytest.raises(ConfigError, match="in use by another thread"), stream:
        pass
    with pytest.raises(KeyError, match="of the block"), stream:
        raise KeyError("of the block")
    assert asked == [True, True]
    stream._stream = engines
    with stream:
        stream.push(activity()[0])
    assert stream.push(activity()[0]).missing == 11


def test_gaps_in_time() -> None:
    model, frames = small_poco(), activity(frames=40)
    times = np.arange(40) * 0.5
    times[25:] += 1.0  # two frames are missing
    filled = np.concatenate([frames[:25], frames[24:25], frames[24:25], frames[25:]])

    stream = poco.Stream(model, "b", interval=0.5)
    for t, time in enumerate(times):
        found = stream.push(frames[t], time)
        at = t if t < 25 else t + 2
        assert (found.frame, found.time) == (at, time)
        assert ("filled" in found.marks) == (25 <= t < 36)
        if found.values is not None:
            expected = batch_forecast(model, filled[at - 11 : at + 1], "b")
            assert relative_error(torch.from_numpy(found.values), torch.from_numpy(expected)) < 1e-5
    assert [stream.stats()[n] for n in ("gaps", "filled", "restarts")] == [1, 2, 0]
    found = stream.push(frames[0], 1000.0)  # more than a context: nothing stands in for that
    assert (found.status, found.marks) == ("warming", {"restarted"})

    stream = poco.Stream(model, "b", interval=0.5, gap="restart")
    states = [stream.push(frames[t], time).status for t, time in enumerate(times)]
    assert states == ["warming"] * 11 + ["ok"] * 14 + ["warming"] * 11 + ["ok"] * 4

    stream = poco.Stream(model, "b", interval=0.5, gap="refuse")
    for t in range(25):
        before = stream.push(frames[t], times[t])
    with pytest.raises(DataError, match=r"frames are missing between 12 s and 13.5 s"):
        stream.push(frames[25], times[25])
    with pytest.raises(DataError, match="time stamps must rise"):
        stream.push(frames[25], 3.0)
    after = stream.push(frames[24], 12.5)  # as if the others had never been
    assert after.frame == before.frame + 1
    assert stream.stats()["refused"] == 2


def test_frames_without_a_time_count_as_one_interval() -> None:
    stream, frames = poco.Stream(small_poco(), "b", interval=1.0), activity(frames=12)
    for frame, time in zip(frames, (0, None, None, None, 4, None, 9, None, None, 10, None), strict=False):
        found = stream.push(frame, time)
        assert ("filled" in found.marks) == (found.frame >= 6), (time, found)
    assert [stream.stats()[n] for n in ("frames", "gaps", "filled")] == [14, 1, 3]


def test_frames_that_cannot_be_leave_the_stream_as_it_was() -> None:
    model, frames = small_poco(), activity(frames=14)
    stream = poco.Stream(model, "b")
    for frame in frames[:12]:
        stream.push(frame)
    for wrong, says in (
        (frames[0][:6], "the frame has 6 units and session 'b' has 7"),
        (np.zeros((7, 1)), "a frame is one value for each unit"),
        (["x"] * 7, "a frame is one number for each unit"),
        ([1, 2, [3], 4, 5, 6, 7], "a frame is one number for each unit"),
        (torch.zeros(7, requires_grad=True), "a frame is one number for each unit: .* requires grad"),
        (torch.zeros(7, dtype=torch.bfloat16), "a frame is one number for each unit: .*BFloat16"),
    ):
        with pytest.raises(DataError, match=says):
            stream.push(wrong)
    for time in ("now", "1.5", 10**400, np.datetime64("2020-01-01", "ns"), np.timedelta64(5, "ns")):
        says = f"the time of a frame is a number of seconds, or None, got {time!r}"
        with pytest.raises(DataError, match=re.escape(says)):
            stream.push(frames[12], time)  # type: ignore[arg-type]
    found = stream.push(frames[12])
    expected = batch_forecast(model, frames[1:13], "b")
    assert relative_error(torch.from_numpy(found.values), torch.from_numpy(expected)) < 1e-5
    stream.reset()
    assert stream.push(frames[0]).missing == 11


def test_another_model_between_two_frames() -> None:
    first, frames = small_poco(), activity(frames=13)
    second = small_poco()
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.mul_(1.1)
    second.set_normalisation("b", torch.full((7,), 3.0), torch.full((7,), 0.5))
    stream = poco.Stream(first, "b")
    for frame in frames[:12]:
        stream.push(frame)
    stream.swap(second)
    found = stream.push(frames[12])
    expected = batch_forecast(second, frames[1:13], "b")
    assert relative_error(torch.from_numpy(found.values), torch.from_numpy(expected)) < 1e-5
    with pytest.raises(ConfigError, match="session 'b' has 7 units, and 6 in the new model"):
        stream.swap(small_poco(units=6))
    with pytest.raises(ConfigError, match="takes 16 frames"):
        stream.swap(small_poco(context=16))
    specs = [poco.SessionSpec("b", tuple("0213456"), dataset="y")]
    with pytest.raises(ConfigError, match="session 'b' has other units in the new model, or the same in another order"):
        stream.swap(randomised(poco.POCO(poco.POCOConfig(**SMALL), specs)).float())


def test_what_stands_in_for_a_unit_before_it_came_is_its_mean_by_the_new_model_too() -> None:
    generator, frames = np.random.default_rng(3), activity(frames=30)
    frames[:, 6] = np.nan  # was never there
    frames[:16, 2] = np.nan  # came late
    frames[18, 3] = np.nan
    models = [small_poco(), small_poco()]
    for model, scale in zip(models, (1, 5), strict=True):
        model.set_normalisation("b", generator.normal(2, 1, 7) * scale, generator.random(7) + 0.5)
    stream, direct = (poco.Stream(model, "b", interval=0.5) for model in models)
    for t, frame in enumerate(frames):
        time = t * 0.5 + (t >= 17)  # two frames are missing, after the second unit came
        found, expected = stream.push(frame, time), direct.push(frame, time)
        if t == 19:
            stream.swap(models[1])
        if t > 19:
            np.testing.assert_array_equal(found.valid, expected.valid)
            assert relative_error(torch.from_numpy(found.values), torch.from_numpy(expected.values)) < 1e-5


@pytest.mark.parametrize("missing", ["hold", "drop"])
def test_activity_on_another_scale_is_marked(missing: str) -> None:
    stream = poco.Stream(small_poco(), "b", missing=missing)
    frames = activity(frames=60)
    frames[20:40] += 1e3
    frames[50:, 0] += 1e3  # one unit alone is its own affair
    marks = [found.marks for found in stream.over(frames)]
    marked = [t for t, found in enumerate(marks) if "scale" in found]
    assert marked == list(range(marked[0], marked[-1] + 1))
    assert 20 <= marked[0] < 32
    assert 40 <= marked[-1] < 51
    assert stream.stats()["off_scale"] == len(marked)
    assert set.union(*map(set, marks)) == {"scale"}


def test_where_no_scale_is_known_none_is_marked() -> None:
    model = poco.POCO(poco.POCOConfig(**SMALL), [poco.SessionSpec("b", 7)])
    with pytest.warns(RuntimeWarning, match="normalised"):
        stream = poco.Stream(model, "b")
    assert not any("scale" in found.marks for found in stream.over(activity(frames=30) + 1e3))


@pytest.mark.parametrize("slower", [0.5, 1.0, 1.45])
def test_frames_of_another_rate_are_marked(slower: float) -> None:
    stream = poco.Stream(small_poco(), "b", interval=0.1)
    marks = [found.marks for found in stream.over(activity(frames=30), rate_hz=10 / slower)]
    assert marks == [set() if slower == 1.0 or t < 11 else {"rate"} for t in range(30)]
    assert [stream.stats()[name] for name in ("off_rate", "gaps")] == [0 if slower == 1.0 else 19, 0]


def test_a_unit_is_valid_after_a_context_of_frames_that_came() -> None:
    stream, frames = poco.Stream(small_poco(), "b", interval=0.5, tolerance=0.1), activity(frames=20)
    found = [stream.push(frame, 0.5 * t + (1.5 if t >= 8 else 0.0)) for t, frame in enumerate(frames)]
    assert [f.status for f in found] == ["warming"] * 8 + ["ok"] * 12  # three frames were filled in
    assert [f.valid.any() for f in found] == [f.valid.all() for f in found] == [False] * 11 + [True] * 9
    assert not any("held" in f.marks for f in found)
    stream.reset()
    assert not stream.push(frames[0], 0.0).valid.any()


def test_a_stream_is_for_one_thread_at_a_time() -> None:
    config = poco.POCOConfig(**{**SMALL, "width": 64, "film_width": 512})
    model = randomised(poco.POCO(config, [poco.SessionSpec("a", 4000)])).float()
    stream, frame = poco.Stream(model, threads=1), np.zeros(4000, np.float32)
    said: list[str] = []  # of each frame what came of it

    def push_one() -> str:
        try:
            return stream.push(frame).status
        except DataError as error:
            return str(error)

    def push() -> None:
        said.extend(push_one() for _ in range(40))

    def others() -> None:
        for call in (stream.reset, stream.stats, lambda: stream.swap(model)) * 20:
            with contextlib.suppress(core.module().Error, ConfigError):
                call()

    for work in ((push, others), (push, push)):
        threads = [threading.Thread(target=one) for one in work]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert set(said) <= {"ok", "warming", "the stream is in use by another thread"}
    taken = sum(what in ("ok", "warming") for what in said)
    assert 0 < taken < len(said) == 120
    assert [stream.stats()[name] for name in ("frames", "refused")] == [taken, 0]


def test_masked_values_are_missing() -> None:
    frames = activity(frames=30)
    mask = np.random.default_rng(2).random(frames.shape) < 0.1
    masked = poco.Stream(small_poco(), "b").over(np.ma.MaskedArray(frames.astype(np.float64), mask))
    for found, same in zip(masked, poco.Stream(small_poco(), "b").over(np.where(mask, np.nan, frames)), strict=True):
        np.testing.assert_array_equal(found.valid, same.valid)
        if same.values is not None:
            np.testing.assert_array_equal(found.values, same.values)
    stream = poco.Stream(small_poco(), "b")
    stream.push(np.ma.MaskedArray(range(7), [0, 0, 1, 0, 0, 0, 1]))
    assert list(np.flatnonzero(~stream.seen)) == [2, 6]


@pytest.mark.parametrize("rate", [0, -5.0, float("nan"), float("inf"), "30"])
def test_a_rate_of_frames_that_is_none(rate: Any) -> None:
    with pytest.raises(ConfigError, match=f"rate_hz must be a positive number, got {rate!r}"):
        next(poco.Stream(small_poco(), "b").over(activity(), rate))


def test_a_deadline_is_counted() -> None:
    stream = poco.Stream(small_poco(), "b", deadline_ms=1e-6)
    marks = [found.marks for found in stream.over(activity(frames=14))]
    assert marks == [frozenset()] * 11 + [frozenset({"late"})] * 3
    assert stream.stats()["late"] == 3


def test_what_cannot_be_streamed_says_why(tmp_path: Path) -> None:
    model = small_poco()
    model.save_pretrained(tmp_path / "model")
    assert poco.Stream(tmp_path, "b").units == 7  # a run folder
    with pytest.raises(VocabularyError, match="unknown session 'c'; the model knows a, b"):
        poco.Stream(model, "c")
    for option, says in (
        ({"missing": "guess"}, "missing must be one of hold, drop"),
        ({"threads": 0}, "at least one thread"),
        ({"tolerance": 0.0}, "tolerance of intervals must be positive, and is 0"),
        ({"tolerance": None}, "tolerance must be a number, got None"),
        ({"interval": -0.5}, "interval between frames must be finite and not negative, and is -0.5 s"),
        ({"interval": float("inf")}, "interval between frames must be finite and not negative, and is inf s"),
        ({"interval": float("nan")}, "interval between frames must be finite and not negative, and is nan s"),
        ({"deadline_ms": -2}, "deadline must not be negative, and is -2 ms"),
        ({"threads": 10**12}, "threads must be a whole number"),
        ({"keep": 1.5}, "keep must be a whole number"),
        ({"deadline_ms": "a"}, "deadline_ms must be a number"),
    ):
        with pytest.raises(ConfigError, match=says):
            poco.Stream(model, "b", **option)
    with pytest.raises(CheckpointError, match=r"nothing: no such run folder or folder of a model"):
        poco.Stream(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"cannot read .*config.json"):
        poco.Stream(tmp_path / "empty")
    with pytest.raises(CheckpointError, match="without a FiLM layer, or with a deeper one"):
        poco.Stream(small_poco(film_depth=2), "b")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    for change, says in (
        ({"model": "Oracle"}, "what can be streamed is POCO and Grounded, and ensembles of them"),
        ({"model": "Ensemble"}, "lacks 'members'"),
        ({"format": 9}, "is of format 9"),
        ({"config": {**config["config"], "width": 11}}, "'latents' is \\[3, 10\\] and should be \\[3, 11\\]"),
    ):
        (tmp_path / "model" / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(CheckpointError, match=says):
            poco.Stream(tmp_path / "model")
    damaged = json.dumps(config).encode().replace(b"POCO", b"P\xf1CO")
    (tmp_path / "model" / "config.json").write_bytes(damaged)
    with pytest.raises(CheckpointError, match=r"config.json is not JSON: a string is not UTF-8 at byte \d+"):
        poco.Stream(tmp_path / "model", "b")
    small_grounded(False).save_pretrained(tmp_path / "ground")
    of_ground = json.loads((tmp_path / "ground" / "config.json").read_text())
    of_ground["config"]["horizon"] = 1 << 51  # nothing is made so large before it is found not to fit
    (tmp_path / "ground" / "config.json").write_text(json.dumps(of_ground))
    with pytest.raises(CheckpointError, match="should be \\[2251799813685248"):
        poco.Stream(tmp_path / "ground", "b")
    tensors = tmp_path / "model" / "model.safetensors"
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    whole = tensors.read_bytes()
    for broken, says in (
        (whole[:-1], "lies outside|belong to no tensor"),
        (whole[:5], "no safetensors file"),
        (b"", "0 bytes"),
    ):
        tensors.write_bytes(broken)
        with pytest.raises(CheckpointError, match=says):
            poco.Stream(tmp_path / "model")


def test_numbers_are_read_in_every_locale(tmp_path: Path) -> None:
    """Where a comma stands for the point, 1.6 frames a second are 1.6 all the same."""
    made = ["localedef", "-i", "de_DE", "-f", "UTF-8", str(tmp_path / "de_DE.UTF-8")]
    if shutil.which("localedef") is None or subprocess.run(made, capture_output=True, check=False).returncode > 1:
        pytest.skip("no locale with a comma can be made here")
    if not (tmp_path / "de_DE.UTF-8" / "LC_NUMERIC").exists():
        pytest.skip("no locale with a comma can be made here")
    small_poco().save_pretrained(tmp_path / "model", {"rate_hz": {"a": 1.6, "b": 1.6}})
    script = """if True:
        import locale, sys
        import numpy as np, poco
        locale.setlocale(locale.LC_ALL, "de_DE.UTF-8")
        assert locale.localeconv()["decimal_point"] == ","
        stream = poco.Stream(sys.argv[1], "b")
        for time in (0, 1, 2, 4):
            stream.push(np.zeros(7), time / 1.6)
        print(stream.stats()["gaps"])
    """
    told = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "model")],
        capture_output=True,
        text=True,
        env=environment(LOCPATH=str(tmp_path)),
        cwd=tmp_path,
        check=False,
    )
    assert told.stdout.strip() == "1", told.stderr


def test_a_gpu_that_is_not_there_is_an_error() -> None:
    names, missing = core.gpus()
    assert bool(names) != bool(missing)
    assert poco.info()["core"]["gpus"] == names
    with pytest.raises(BackendError, match="there is no GPU 4096" if names else re.escape(missing)):
        poco.Stream(small_poco(), 0, device="cuda:4096")
    for wrong in ("gpu", "cuda:", "cuda:-1", "cuda:x", "", 0):
        with pytest.raises(ConfigError, match="device must be 'cpu', 'cuda' or 'cuda:NUMBER'"):
            poco.Stream(small_poco(), 0, device=wrong)  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("missing", ["hold", "drop"])
def test_a_gpu_forecasts_as_the_processor_does(precision: str, missing: str) -> None:
    generator = np.random.default_rng(0)
    for config in (SMALL, {}, {"width": 200, "latents": 17, "ffn_width": 300, "layers": 2}):
        units = 300
        specs = [poco.SessionSpec("a", units)]
        model = randomised(poco.POCO(poco.POCOConfig(**config), specs)).float()
        model.set_normalisation("a", np.zeros(units), np.ones(units))
        frames = generator.normal(size=(model.config.context + 12, units)).astype(np.float32)
        frames[generator.random(frames.shape) < 0.01] = np.nan
        here = poco.Stream(model, precision=precision, missing=missing)
        there = poco.Stream(model, precision=precision, missing=missing, device="cuda")
        for frame in frames:
            by_here, by_there = here.push(frame), there.push(frame)
            assert by_here.marks == by_there.marks
            assert np.array_equal(by_here.valid, by_there.valid)
            if by_here.values is None or by_there.values is None:
                assert by_here.values is by_there.values
                continue
            seen = ~np.isnan(by_here.values)
            assert np.array_equal(seen, ~np.isnan(by_there.values))
            apart = relative_error(torch.from_numpy(by_there.values[seen]), torch.from_numpy(by_here.values[seen]))
            assert apart < (1e-5 if precision == "float32" else 2e-2)
