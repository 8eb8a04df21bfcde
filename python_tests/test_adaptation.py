"""Adaptation: the new session is learnt, the others stay as they are to the bit, the given model is left alone."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from poco.adaptation import MODES, PATIENCE, adapt
from poco.adapted import Adapted
from poco.data.read import read
from poco.data.recording import Recording, fingerprint
from poco.data.simulate import simulate
from poco.data.splits import split
from poco.ensemble import Ensemble
from poco.errors import CheckpointError, ConfigError, DataError, VocabularyError
from poco.evaluation import evaluate
from poco.forecasting import forecast
from poco.intervals import Ahead
from poco.nn import POCO, POCOConfig, SessionSpec, files
from poco.ops.backends import multiplies_bfloat16
from poco.training.callbacks import Callback
from poco.training.config import TrainConfig
from poco.training.loop import fit

CONFIG = POCOConfig(
    context=12, horizon=4, segment_length=6, latents=3, width=8, heads=2, head_width=8, film_width=16, embedding_std=0.3
)


@pytest.fixture(scope="module")
def recordings() -> list[Recording]:
    return simulate(3, 10, 240, seed=1, individuality=0.3)


@pytest.fixture(scope="module")
def model(recordings: list[Recording]) -> POCO:
    torch.manual_seed(0)
    trained = POCO(CONFIG, [SessionSpec(r.session, r.unit_ids, r.dataset) for r in recordings[:2]])
    cut = split(recordings[:2], context=12, horizon=4)
    fit(trained, cut, TrainConfig(steps=60, batch_size=16, learning_rate=3e-3, val_every=30, device="cpu"))
    return trained


def frozen(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


def same(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def own(model: POCO, *sessions: str) -> list[torch.Tensor]:
    """Everything that belongs to some sessions alone."""
    tensors: list[torch.Tensor] = []
    for session in sessions:
        tensors += [*model.session_parameters(session), *model.normalisation(session)]
    return frozen(tensors)


def shared(model: POCO) -> list[torch.Tensor]:
    """The parameters that no session has for itself."""
    known = {id(p) for spec in model.sessions for p in model.session_parameters(spec.name)}
    return frozen(p for p in model.parameters() if id(p) not in known)


def test_settings_of_the_loop_are_no_dictionary(model: POCO, recordings: list[Recording]) -> None:
    with pytest.raises(ConfigError, match=r"train_config must be a poco\.TrainConfig, got dict"):
        adapt(model, recordings[2], train_config={"steps": 5})  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["embeddings", "full"])
def test_other_animals_stay_as_they_are_to_the_bit(model: POCO, recordings: list[Recording], mode: str) -> None:
    whole, others, common = frozen(model.state_dict().values()), own(model, "animal-1", "animal-2"), shared(model)
    adapted = adapt(model, recordings[2], mode=mode, steps=10, batch_size=8, score_every=5)
    assert same(others, own(adapted.model, "animal-1", "animal-2"))
    assert same(common, shared(adapted.model)) == (mode == "embeddings")
    assert same(whole, list(model.state_dict().values()))  # the model given is left alone
    x = torch.randn(2, 10, 12)
    if mode == "embeddings":
        for session in ("animal-1", "animal-2"):
            assert torch.equal(model.eval()(x, session), adapted.model.eval()(x, session))


def test_embeddings_alone_are_fitted(model: POCO, recordings: list[Recording]) -> None:
    adapted = adapt(model, recordings[2], steps=60, batch_size=16, precision="float32")
    assert adapted.parameters == sum(p.numel() for p in adapted.model.session_parameters("animal-3"))
    assert [point.step for point in adapted.history] == [0, 20, 40, 60]
    assert adapted.history[0].score == adapted.before
    seconds = [point.seconds for point in adapted.history]
    assert seconds == sorted(seconds)
    assert adapted.seconds == seconds[-1] > 0
    still = adapt(model, recordings[2], steps=1, batch_size=16, learning_rate=1e-12)
    fitted, fresh = (evaluate(a.model, a.split, part="train", baselines=()).score for a in (adapted, still))
    assert fitted > fresh + 0.005
    assert [spec.name for spec in adapted.model.sessions] == ["animal-1", "animal-2", "animal-3"]
    assert all(parameter.requires_grad for parameter in adapted.model.parameters())
    mean, std = adapted.model.normalisation("animal-3")
    assert torch.equal(mean, torch.from_numpy(adapted.split.mean[0]))
    assert torch.equal(std, torch.from_numpy(adapted.split.std[0]))
    low = adapt(model, recordings[2], steps=60, batch_size=16, precision="bf16")
    assert low.after == pytest.approx(adapted.after, abs=0.02)
    assert low.after != adapted.after
    stored = json.loads(json.dumps(adapted.to_json()))
    assert stored["after"] == adapted.after
    assert len(stored["history"]) == 4


def test_settings_of_the_modes(model: POCO, recordings: list[Recording]) -> None:
    def settings(mode: str) -> dict:
        return adapt(model, recordings[2], mode=mode, steps=1).model.metadata["adaptations"][-1]["settings"]

    assert [settings(mode)["batch_size"] for mode in ("embeddings", "mlp", "full")] == [16, 64, 64]
    known = torch.cat([model.session_parameters(s.name)[0].detach().flatten() for s in model.sessions])
    assert settings("embeddings")["learning_rate"] == pytest.approx(
        0.05 * max(float(known.square().mean().sqrt()), 0.3)
    )
    assert settings("full")["learning_rate"] == 3e-4
    left_open = TrainConfig(steps=1, batch_size=None, val_stride=None)
    used = adapt(model, recordings[2], train_config=left_open).model.metadata["adaptations"][-1]["settings"]
    assert (used["batch_size"], used["val_stride"]) == (64, 1)


def test_from_scratch_knows_the_new_session_only(model: POCO, recordings: list[Recording]) -> None:
    adapted = adapt(model, recordings[2], mode="scratch", steps=5, batch_size=8)
    assert [spec.name for spec in adapted.model.sessions] == ["animal-3"]
    assert adapted.model.config == model.config
    assert adapted.parameters == sum(p.numel() for p in adapted.model.parameters())


def test_the_network_of_each_unit_is_fitted_with_the_embeddings(model: POCO, recordings: list[Recording]) -> None:
    adapted = adapt(model, recordings[2], mode="mlp", steps=5, batch_size=8).model
    assert isinstance(adapted, POCO)
    known = dict(model.named_parameters())
    changed = {n for n, p in adapted.named_parameters() if n in known and not torch.equal(p, known[n])}
    assert changed == {n for n in known if n.startswith("film.")}
    everything = adapt(model, recordings[2], mode="full", steps=1, batch_size=8).parameters
    own = sum(p.numel() for p in adapted.session_parameters("animal-3"))
    film = sum(p.numel() for p in adapted.film.parameters())
    assert adapt(model, recordings[2], mode="mlp", steps=1, batch_size=8).parameters == own + film < everything


def test_zero_shot_is_where_the_embeddings_begin(model: POCO, recordings: list[Recording]) -> None:
    joined = adapt(model, recordings[2], mode="zero-shot", seed=3)
    begun = adapt(model, recordings[2], steps=1, batch_size=8, seed=3)
    assert joined.before == joined.after == begun.before
    assert (joined.parameters, joined.seconds, len(joined.history)) == (0, 0.0, 1)
    assert [spec.name for spec in joined.model.sessions] == ["animal-1", "animal-2", "animal-3"]
    x = torch.randn(2, 10, 12)
    assert torch.equal(model.eval()(x, "animal-1"), joined.model(x, "animal-1"))
    pair = adapt(Ensemble([model, copy.deepcopy(model)]), recordings[2], mode="zero-shot", seed=3)
    assert pair.before == pair.after
    assert pair.parameters == 0


class Curve(Callback):
    """Keeps what was scored."""

    def __init__(self) -> None:
        self.points: list[tuple[int, float, float]] = []

    def scored(self, step: int, seconds: float, score: float) -> None:
        self.points.append((step, seconds, score))


def test_it_stops_where_validation_gets_no_better_and_keeps_the_start(model: POCO, recordings: list[Recording]) -> None:
    # With such a rate every step makes it worse than it was.
    options = {"steps": 60, "batch_size": 8, "score_every": 2, "learning_rate": 10.0}
    curve = Curve()
    stopped = adapt(model, recordings[2], patience=3, callbacks=[curve], **options)
    assert stopped.history[-1].step == 6
    assert stopped.after == stopped.before > stopped.history[-1].score
    assert curve.points == [(point.step, point.seconds, point.score) for point in stopped.history[1:]]
    assert adapt(model, recordings[2], patience=None, **options).history[-1].step == 60
    by_default = adapt(model, recordings[2], **options)
    assert by_default.history[-1].step == 2 * PATIENCE


def test_it_learns_from_the_last_frames_alone(model: POCO, recordings: list[Recording]) -> None:
    activity = recordings[2].activity.copy()
    other = dataclasses.replace(recordings[2], activity=activity)
    activity[:, :100] = activity[:, 50:150]  # of 240 frames 144 and 48 are to learn from: the last 60 begin at 132
    options = {"steps": 10, "batch_size": 8, "score_every": 5, "frames": 60}
    a, b = (adapt(model, recording, **options) for recording in (recordings[2], other))
    assert a.after == b.after
    assert a.to_json()["frames"] == 60
    assert torch.equal(a.model.normalisation("animal-3")[0], torch.from_numpy(a.split.mean[0]))
    whole = adapt(model, recordings[2], **{**options, "frames": None})
    assert whole.after != a.after
    more = adapt(model, recordings[2], **{**options, "frames": 5000})  # than there are
    assert (more.after, more.frames) == (whole.after, None)
    # 20 frames hold windows of 16, but not for training and validation: few steps, whatever came of them
    short = adapt(model, recordings[2], batch_size=8, learning_rate=1.0, frames=20)
    assert [point.step for point in short.history] == [0, 20]
    assert short.after == short.history[-1].score != short.before
    with pytest.raises(ConfigError, match="score_every must be at least 1 step, got 0"):
        adapt(model, recordings[2], score_every=0)
    often = adapt(model, recordings[2], batch_size=8, learning_rate=1.0, frames=20, score_every=1)
    assert often.after == short.after


def test_same_seed_same_result_and_random_state_untouched(model: POCO, recordings: list[Recording]) -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    first = adapt(model, recordings[2], steps=6, batch_size=8, seed=5)
    assert torch.equal(torch.rand(3), expected)
    second = adapt(model, recordings[2], steps=6, batch_size=8, seed=5)
    other = adapt(model, recordings[2], steps=6, batch_size=8, seed=6)
    assert first.after == second.after
    assert first.after != other.after


def test_what_cannot_work_is_refused(model: POCO, recordings: list[Recording]) -> None:
    with pytest.raises(ConfigError, match=f"mode must be one of {', '.join(MODES)}"):
        adapt(model, recordings[2], mode="partly")
    with pytest.raises(ConfigError, match=r"got 'solve' \(a POCO is not solved for\)"):
        adapt(model, recordings[2], mode="solve")
    with pytest.raises(VocabularyError, match="animal-1"):
        adapt(model, recordings[0])
    short = dataclasses.replace(recordings[2], activity=recordings[2].activity[:, :10], stretches=())
    with pytest.raises(DataError, match="animal-3"):
        adapt(model, short)
    with pytest.raises(ConfigError, match="steps"):
        adapt(model, recordings[2], steps=0)


def test_what_the_caller_froze_stays_frozen(model: POCO, recordings: list[Recording]) -> None:
    mine = copy.deepcopy(model)
    mine.latents.requires_grad_(False)
    for mode in ("embeddings", "full"):
        adapted = adapt(mine, recordings[2], mode=mode, steps=2, batch_size=8)
        assert [n for n, p in adapted.model.named_parameters() if not p.requires_grad] == ["latents"]
        assert torch.equal(adapted.model.latents, model.latents)


def test_an_adapted_model_knows_how_it_came_about(model: POCO, recordings: list[Recording], tmp_path: Path) -> None:
    known = copy.deepcopy(model)
    known.metadata = {"training": {"protocol": "leak-free"}, "rate_hz": {"animal-1": 20.0}, "reading": {}}
    new = dataclasses.replace(recordings[2], rate_hz=21.0)
    source = {"options": {"key": "dff"}}
    adapted = adapt(known, new, protocol="published", steps=2, batch_size=8, seed=4, source=source)
    adapted.model.save_pretrained(tmp_path)
    loaded = POCO.from_pretrained(tmp_path)
    kept = loaded.metadata
    assert kept["training"] == {"protocol": "leak-free"}
    assert kept["rate_hz"] == {"animal-1": 20.0, "animal-3": 21.0}
    assert files.reading_options(loaded) == {"key": "dff"}
    (how,) = kept["adaptations"]
    assert (how["session"], how["mode"], how["protocol"]) == ("animal-3", "embeddings", "published")
    assert how["settings"]["seed"] == 4
    fast = multiplies_bfloat16(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    assert how["settings"]["precision"] == ("bf16" if fast else "float32")
    with pytest.raises(DataError, match="session 'animal-3' has 40 frames a second, the model learnt it at 21"):
        forecast(loaded, dataclasses.replace(new, rate_hz=40.0))
    scratch = adapt(known, new, mode="scratch", steps=1, batch_size=8)
    assert scratch.model.metadata["rate_hz"] == {"animal-3": 21.0}


def test_another_rate_than_in_training_is_told(model: POCO, recordings: list[Recording]) -> None:
    known = copy.deepcopy(model)
    known.metadata = {"rate_hz": {"animal-1": 10.0, "animal-2": 10.0}}
    with pytest.warns(RuntimeWarning, match="'animal-3' has 20 frames a second, the model learnt from 10: resample"):
        adapt(known, dataclasses.replace(recordings[2], rate_hz=20.0), steps=1, batch_size=8)


def test_a_recording_that_the_model_learnt_from_under_another_name_is_told(
    model: POCO, recordings: list[Recording]
) -> None:
    known = copy.deepcopy(model)
    known.metadata = {"fingerprints": {r.session: fingerprint(r) for r in recordings[:2]}}
    with pytest.warns(RuntimeWarning, match="'other' has the same activity as session 'animal-2'.* learnt from"):
        adapt(known, dataclasses.replace(recordings[1], session="other"), mode="zero-shot")
    adapted = adapt(known, recordings[2], mode="zero-shot")
    assert list(adapted.model.metadata["fingerprints"]) == ["animal-1", "animal-2", "animal-3"]


def test_what_the_test_part_does_not_confirm_is_said_where_the_interval_says_so(
    model: POCO, recordings: list[Recording]
) -> None:
    found = adapt(model, recordings[2], mode="zero-shot")
    surely, perhaps = Ahead(-0.2, (-0.3, -0.1)), Ahead(-0.2, (-0.5, 0.1))
    assert dataclasses.replace(found, mode="solve", gain=perhaps).notes == ()
    assert dataclasses.replace(found, mode="solve", gain=surely).notes == (
        "the test part does not confirm what was learnt",
    )
    assert (
        dataclasses.replace(found, mode="embeddings", gain=surely).notes[-1].endswith("compare with --mode zero-shot")
    )


def test_an_adaptation_is_read_as_it_was_saved(model: POCO, recordings: list[Recording], tmp_path: Path) -> None:
    new = recordings[2]
    np.save(tmp_path / "new.npy", new.activity)
    rate = new.rate_hz
    (tmp_path / "new.toml").write_text(f'[activity]\norientation = "units x frames"\nrate_hz = {rate}\n')
    recording = read(tmp_path / "new.npy")[0]
    adapted = adapt(model, recording, steps=8, score_every=4, batch_size=8, frames=120)
    assert adapted.origin == {"recording": str((tmp_path / "new.npy").resolve())}  # as it was read
    assert adapted.kept_step in (0, 4, 8)
    adapted.save(tmp_path / "adapted")
    again = Adapted.load(tmp_path / "adapted")
    assert again.to_json() == adapted.to_json()
    assert again.split.segments == adapted.split.segments
    assert same(own(again.model, recording.session), own(adapted.model, recording.session))
    file = tmp_path / "adapted" / "adaptation.json"
    (tmp_path / "new.npy").rename(tmp_path / "moved.npy")
    (tmp_path / "new.toml").rename(tmp_path / "moved.toml")
    with pytest.raises(DataError, match=r"new\.npy"):
        Adapted.load(tmp_path / "adapted")
    file.write_text(file.read_text().replace("kept_step", "keptstep"))
    with pytest.raises(CheckpointError, match="damaged or of another version: 'kept_step'"):
        Adapted.load(tmp_path / "adapted", tmp_path / "moved.npy")
