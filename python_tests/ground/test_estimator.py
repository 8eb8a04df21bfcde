"""poco.ground.estimator against ridge regression on all windows at once."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from helpers.recordings import waves

import poco.ground.estimator
import poco.ground.penalties
import poco.ground.sums
from poco.baselines import Mean
from poco.data.splits import Split, split
from poco.data.windows import Packer
from poco.errors import VocabularyError
from poco.ground import GroundConfig, Penalties, add_session, fit
from poco.ground.sums import UnitSums
from poco.scoring import score_forecasters

CONTEXT, HORIZON = 12, 4
PENALTIES = (Penalties(1e-2, 2.0, 4.0), Penalties(1e-1, 1.0, 8.0, last=0.0))


@pytest.fixture(scope="module")
def cut() -> Split:
    recordings = [waves("a", frames=600), waves("b", units=3, frames=450)]
    return split(recordings, context=CONTEXT, horizon=HORIZON)


def windows(cut: Split, session: int) -> tuple[np.ndarray, np.ndarray]:
    """``[W, N, C + H]`` float64 and first frames."""
    start = cut.windows("train").start[cut.windows("train").session == session]
    z = (cut.recordings[session].activity.astype(np.float64) - cut.mean[session][:, None]) / cut.std[session][:, None]
    return np.stack([z[:, s : s + CONTEXT + HORIZON] for s in start]), start


def by_hand(
    cut: Split, session: int, centred: bool, penalties: Penalties, fold: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """``W [H, C]`` and coefficients ``[N, F, H]`` fitted without a fold of four, in plain numpy."""
    everything, kept = [], []
    for index in range(len(cut.recordings)):
        x, start = windows(cut, index)
        folds = np.arange(len(start)) * 4 // len(start)
        keep = np.ones(len(start), dtype=bool)
        if fold is not None:
            inside = start[folds == fold]
            reach = CONTEXT + HORIZON
            keep = (start <= inside[0] - reach) | (start >= inside[-1] + reach)
        if centred:
            x = x - x[..., :CONTEXT].mean(-1, keepdims=True)
        everything.append(x)
        kept.append(keep)
    rows = np.concatenate([x[k].reshape(-1, CONTEXT + HORIZON) for x, k in zip(everything, kept, strict=True)])
    gram = rows[:, :CONTEXT].T @ rows[:, :CONTEXT]
    ridge = penalties.shared * np.trace(gram) / CONTEXT * np.eye(CONTEXT)
    repeat = np.zeros((CONTEXT, HORIZON))
    repeat[-1] = 1.0
    cross = rows[:, :CONTEXT].T @ rows[:, CONTEXT:] + ridge @ (penalties.last * repeat)
    weight = np.linalg.solve(gram + ridge, cross) - repeat

    def means(x: np.ndarray, lengths: list[int]) -> np.ndarray:
        return np.stack([x[..., CONTEXT - n : CONTEXT].mean(-1) for n in lengths], -1)

    whole = [] if centred else [CONTEXT]
    scale = np.sqrt(
        np.mean(np.concatenate([means(x, [1, 4, *whole]).reshape(-1, 2 + len(whole)) for x in everything]) ** 2, 0)
    )
    x, start = everything[session], windows(cut, session)[1]
    first, last = start[0], cut.segments["train"][session][0][1]
    raw = (cut.recordings[session].activity - cut.mean[session][:, None]) / cut.std[session][:, None]
    _, vectors = np.linalg.eigh(raw[:, first:last] @ raw[:, first:last].T)
    vectors = vectors[:, ::-1][:, :2]
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(0), range(2)])
    population = means(np.einsum("wnc,nk->wkc", x, vectors), [1, 8, *whole]).reshape(len(x), -1)
    spread = np.sqrt((population**2).mean(0))
    population = np.clip(population / spread, -3, 3)
    own = np.clip(means(x, [1, 4, *whole]) / scale, -3, 3)
    keep = kept[session]
    found = []
    for unit in range(x.shape[1]):
        features = np.concatenate([own[:, unit], population], 1)[keep]
        inside = x[keep, unit]
        left = inside[:, CONTEXT:] - inside[:, CONTEXT - 1 : CONTEXT] - inside[:, :CONTEXT] @ weight
        smaller = penalties.population * spread.max() / spread
        ridge = np.diag([penalties.own] * own.shape[-1] + smaller.tolist()) * keep.sum()
        found.append(np.linalg.solve(features.T @ features + ridge, features.T @ left))
    return weight.T, np.stack(found)


CONFIG = GroundConfig(CONTEXT, HORIZON, latents=2, own_means=(1, 4, 0, 12))


@pytest.mark.parametrize("form", [0, 1])
def test_solves_the_normal_equations(cut: Split, form: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poco.ground.sums, "_ROWS", 37)  # many chunks, some across the borders of folds
    monkeypatch.setattr(poco.ground.estimator, "_BLOCK", 2)
    fitted = fit(cut, CONFIG, penalties=PENALTIES)
    for session in range(2):
        weight, coefficients = by_hand(cut, session, form == 1, PENALTIES[form], None)
        np.testing.assert_allclose(fitted.ground.forms[form].weight.numpy(), weight, rtol=1e-4, atol=1e-5)
        own = fitted.ground.session_terms[session].forms[form]
        np.testing.assert_allclose(own.coefficients.numpy(), coefficients, rtol=1e-3, atol=1e-5)
        cross = fitted.cross[session]
        assert cross is not None
        for fold in range(4):
            _, without = by_hand(cut, session, form == 1, PENALTIES[form], fold)
            np.testing.assert_allclose(cross.coefficients[form][fold].numpy(), without, rtol=1e-3, atol=1e-5)
            assert not np.allclose(without, coefficients, rtol=1e-3)


def test_sums_of_few_units_are_held_at_once(cut: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    usual, units, fits = fit(cut), [], []

    def summed(*args: Any) -> UnitSums:
        sums = poco.ground.sums.unit_sums(*args)
        units.append(len(sums.own[0]))
        return sums

    def solved(sums: UnitSums, *args: Any) -> tuple[torch.Tensor, torch.Tensor]:
        fits.append(len(sums.windows))
        return poco.ground.penalties.coefficients(sums, *args)

    monkeypatch.setattr(poco.ground.estimator, "_BLOCK", 2)
    monkeypatch.setattr(poco.ground.estimator, "unit_sums", summed)
    monkeypatch.setattr(poco.ground.estimator, "coefficients", solved)
    fitted = fit(cut)
    assert max(units) == 2
    assert set(fits) == {5}
    assert fitted.penalties == usual.penalties
    fits.clear()
    other = fit(cut, cross=False)  # nothing is solved for without a fold then
    assert set(fits) == {1}
    for name, value in fitted.ground.state_dict().items():
        torch.testing.assert_close(value, other.ground.state_dict()[name])


def test_only_the_training_part_is_read(cut: Split) -> None:
    changed = []
    for recording, segments in zip(cut.recordings, cut.segments["train"], strict=True):
        activity = recording.activity.copy()
        activity[:, segments[-1][1] :] = 1e6
        changed.append(dataclasses.replace(recording, activity=activity))
    other = fit(dataclasses.replace(cut, recordings=tuple(changed)))
    for name, value in fit(cut).ground.state_dict().items():
        assert torch.equal(value, other.ground.state_dict()[name]), name


def test_noise_units_are_shrunk_more_than_predictable_ones(cut: Split) -> None:
    rng = np.random.default_rng(0)
    noise = dataclasses.replace(waves("n", units=6, frames=600), activity=rng.normal(size=(6, 600)).astype(np.float32))
    chosen = fit(split([noise], context=CONTEXT, horizon=HORIZON)).penalties
    assert chosen[0].own == max(poco.ground.penalties.UNIT_PENALTIES)
    assert chosen[0].population == max(poco.ground.penalties.UNIT_PENALTIES)
    assert fit(cut).penalties[0].population == min(poco.ground.penalties.UNIT_PENALTIES)


def test_what_cannot_be_forecast_is_shrunk_towards_the_mean(cut: Split) -> None:
    rng = np.random.default_rng(1)
    events = (rng.random((4, 900)) < 0.03) * rng.exponential(size=(4, 900))
    sparse = split([dataclasses.replace(waves("s", units=4, frames=900), activity=events.astype(np.float32))])
    fitted = fit(sparse)
    assert [penalties.last for penalties in fitted.penalties] == [0.0, 0.0]
    assert [penalties.last for penalties in fit(cut).penalties] == [1.0, 1.0]
    fitted.ground.shares.copy_(torch.tensor([1.0, 0.0]))
    scores = score_forecasters({"ground": fitted.ground, "mean": Mean(48, 16)}, sparse)
    assert scores["ground"].score > scores["mean"].score - 0.005


def test_a_short_recording_has_no_folds() -> None:
    short = split([waves("a", frames=90)], context=CONTEXT, horizon=HORIZON)
    fitted = fit(short)
    assert fitted.cross == (None,)
    assert fitted.penalties[0] == poco.ground.penalties.USUAL
    assert all(value.isfinite().all() for value in fitted.ground.state_dict().values())


def test_a_session_is_added_by_a_solve(cut: Split) -> None:
    fitted = fit(cut, penalties=PENALTIES)
    before = {name: value.clone() for name, value in fitted.ground.state_dict().items() if name != "vocabulary"}
    new = split([waves("c", units=7, frames=500)], context=CONTEXT, horizon=HORIZON)
    assert add_session(fitted.ground, new, fitted.penalties) == 2
    after = fitted.ground.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    scores = score_forecasters({"added": fitted.ground}, new)
    assert scores["added"].score > 0.4
    with pytest.raises(VocabularyError, match="knows a session 'c' already"):
        add_session(fitted.ground, new, fitted.penalties)
    # The same solve as in a fit of its own, but for what is shared.
    alone = fit(new, penalties=PENALTIES).ground
    for form in (0, 1):
        alone.forms[form].load_state_dict(fitted.ground.forms[form].state_dict())
    assert torch.equal(alone.session_terms[0].loadings, after["session_terms.2.loadings"])


def test_a_session_of_few_windows_is_shrunk_more() -> None:
    many = split([waves("a", frames=600), waves("b", frames=600)], context=CONTEXT, horizon=HORIZON)
    fitted = fit(many)
    windows = len(many.windows("train")) / 2
    assert [penalties.windows for penalties in fitted.penalties] == [windows] * 2
    few = split([waves("c", frames=90)], context=CONTEXT, horizon=HORIZON)
    terms = {}
    for name, share in (("own", 1.0), ("whole", len(few.windows("train")) / windows)):
        ground = copy.deepcopy(fitted.ground)
        given = [
            dataclasses.replace(p.for_share(share), windows=0.0 if name == "whole" else p.windows)
            for p in fitted.penalties
        ]
        terms[name] = ground.terms(add_session(ground, few, given)).form(0).coefficients
    torch.testing.assert_close(terms["own"], terms["whole"])


def test_forecasts_are_those_of_the_parts(cut: Split) -> None:
    ground = fit(cut, CONFIG, penalties=PENALTIES).ground
    batch = Packer(cut, ground.sessions).pack(cut.windows("test", stride=9))
    out = ground.forward_packed(batch)
    ground.shares.copy_(torch.tensor([1.0, 0.0]))
    level = ground.forward_packed(batch)
    ground.shares.copy_(torch.tensor([0.0, 1.0]))
    centred = ground.forward_packed(batch)
    torch.testing.assert_close(out, (level + centred) / 2)
    shifted = dataclasses.replace(batch, x=batch.x + 5)
    torch.testing.assert_close(ground.forward_packed(shifted), centred + 5, rtol=1e-3, atol=1e-3)
