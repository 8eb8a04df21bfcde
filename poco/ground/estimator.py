"""Fitting the ground: a few passes over the training windows and one solve for each unit."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from poco.data.splits import Split
from poco.ground.config import GroundConfig
from poco.ground.form import Form, SessionTerms
from poco.ground.model import FORMS, Ground
from poco.ground.penalties import (
    LATENTS,
    MANY_UNITS,
    Held,
    Penalties,
    Search,
    choose_latents,
    coefficients,
)
from poco.ground.sessions import Session, prepare
from poco.ground.shared_map import safe_root, set_own_scale, shared_maps
from poco.ground.sums import context_windows, frame_grams, unit_sums
from poco.nn.vocabulary import SessionSpec

_BLOCK = 64  # units whose sums are held at once
_SAMPLE = 256  # units that the penalties are chosen on, all sessions together


@dataclass(frozen=True, eq=False)
class CrossFit:
    """Coefficients fitted without one fold of a session's training windows each, to forecast the windows of that fold.

    Attributes:
        first: ``[K]`` first frame of the first window of each fold.
        coefficients: for each form ``[K, N, F, H]`` float32.
    """

    first: np.ndarray
    coefficients: tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Fitted:
    """A fitted ground and what training on its forecasts needs.

    Attributes:
        ground: the ground, fitted to the whole training part, both forms mixed in equal shares.
        penalties: those of each form.
        cross: for each session of the split; None for one that is too short to be cut into folds, or if not asked for.
    """

    ground: Ground
    penalties: tuple[Penalties, ...]
    cross: tuple[CrossFit | None, ...]


@torch.no_grad()
def fit(
    split: Split,
    config: GroundConfig | None = None,
    *,
    penalties: Sequence[Penalties] | None = None,
    cross: bool = True,
) -> Fitted:
    """Fit a ground to the training part of a split.

    The windows are read for the shared map, for the penalties, and for the units' terms of each form, a bounded number
    of rows at a time; sums are float64. Memory is linear in the number of units and does not grow with the recordings
    (but for the latents and their features, which are kept for every frame and window).

    Args:
        split: recordings, parts and statistics; only the training part is read.
        config: sizes; default those of the split.
        penalties: of each form; default those with the lowest squared error out of fold.
        cross: whether to solve for the coefficients without each fold too.
    """
    config = config or GroundConfig(split.context, split.horizon)
    specs = [SessionSpec.of(recording) for recording in split.recordings]
    candidates = _candidates(config, split, choose=penalties is None)
    sessions = [prepare(split, i, candidates[-1], cross or penalties is None) for i in range(len(specs))]
    grams = [frame_grams(split, s.index, s.start, s.groups) for s in sessions]
    given = [None] * len(FORMS) if penalties is None else penalties
    forms = [Form(config, centred=name == "centred") for name in FORMS]
    plans = [_plan(form, sessions, grams, of_form) for form, of_form in zip(forms, given, strict=True)]
    latents = candidates[0]
    if penalties is None:
        latents, penalties = _choose(split, sessions, plans, candidates)
    ground = Ground(dataclasses.replace(config, latents=latents), specs)
    found = []
    for place, (plan, of_form) in enumerate(zip(plans, penalties, strict=True)):
        ground.form(place).load_state_dict(plan.form.state_dict())
        populations = [population.first(latents, plan.form) for population in plan.population]
        found.append(
            [_solve(split, s, p, plan, of_form, cross=cross) for s, p in zip(sessions, populations, strict=True)]
        )
    for index, session in enumerate(sessions):
        own = ground.terms(index)
        _describe(own, split, session)
        for place, plan in enumerate(plans):
            own.form(place).scale.copy_(plan.population[index].first(latents, plan.form).scale)
            own.form(place).coefficients.copy_(found[place][index][0])
    folds = tuple(
        None if not cross or s.folds is None else CrossFit(s.folds.first, tuple(f[i][1:] for f in found))
        for i, s in enumerate(sessions)
    )
    return Fitted(ground.eval(), tuple(penalties), folds)


@torch.no_grad()
def add_session(ground: Ground, split: Split, penalties: Sequence[Penalties]) -> int:
    """Add a session to a fitted ground by one solve for each of its units; what is shared stays as it is.

    Args:
        ground: the ground.
        split: of the new recording; only its training part is read.
        penalties: those that the ground was fitted with; a session of fewer windows is shrunk more.

    Returns:
        The session's index in the ground.

    Raises:
        VocabularyError: if the ground has a session of this name.
    """
    index = ground.add_session(SessionSpec.of(split.recordings[0]))
    prepared = prepare(split, 0, ground.config.most_latents, folds=False)
    own = ground.terms(index)
    _describe(own, split, prepared)
    for place, usual in enumerate(penalties):
        form, given = ground.form(place), usual.for_windows(len(prepared.start))
        population = _population(form, prepared)
        plan = _Plan(form, form.weight[None].double(), given, (population,))
        own.form(place).scale.copy_(population.scale)
        own.form(place).coefficients.copy_(_solve(split, prepared, population, plan, given, cross=False)[0])
    return index


def _candidates(config: GroundConfig, split: Split, *, choose: bool) -> tuple[int, ...]:
    """Numbers of latents to try: more only where there are units for them."""
    if config.latents is not None:
        return (config.latents,)
    units = max(recording.units for recording in split.recordings)
    return LATENTS[:1] + tuple(n for n in LATENTS[1:] if choose and n <= units <= MANY_UNITS)


def _describe(own: SessionTerms, split: Split, session: Session) -> None:
    own.loadings.copy_(session.loadings[:, : own.loadings.shape[1]])
    own.mean.copy_(torch.from_numpy(split.mean[session.index].copy()))
    own.std.copy_(torch.from_numpy(split.std[session.index].copy()))


@dataclass(frozen=True, eq=False)
class _Population:
    """The population's features of one session in one form, latent after latent: ``[W, Fp]`` and their scales."""

    features: Tensor
    scale: Tensor

    def first(self, latents: int, form: Form) -> _Population:
        """Those of the first latents alone."""
        count = latents * form.population_map.shape[1]
        return _Population(self.features[:, :count], self.scale[:count])


@dataclass(frozen=True, eq=False)
class _Plan:
    """One form before the units' terms are solved for; maps ``[1 + K, H, C]``: of all windows, without each fold."""

    form: Form
    maps: Tensor
    shared: Penalties
    population: tuple[_Population, ...]


def _plan(form: Form, sessions: Sequence[Session], grams: Sequence[Tensor], given: Penalties | None) -> _Plan:
    maps, shared = shared_maps(form, sessions, grams, given)
    form.weight.copy_(maps[0])
    set_own_scale(form, grams, sessions)
    return _Plan(form, maps, shared, tuple(_population(form, session) for session in sessions))


def _choose(
    split: Split, sessions: Sequence[Session], plans: Sequence[_Plan], candidates: Sequence[int]
) -> tuple[int, list[Penalties]]:
    """Latents and the penalties of each form with the lowest squared error out of fold, over a sample of the units."""
    folded = [s for s in sessions if s.folds is not None]
    if not folded:
        return candidates[0], [plan.shared for plan in plans]
    searches = []
    for plan in plans:
        held = []
        for session in folded:
            assert session.folds is not None
            shared, groups, units = plan.population[session.index], session.groups, len(session.loadings)
            count = session.folds.count
            maps = plan.maps[1 : 1 + count]
            every = -(-units // max(1, _SAMPLE // len(folded)))
            for first in range(0, units, _BLOCK * every):
                some = slice(first, first + _BLOCK * every, every)
                sums = unit_sums(split, session.index, some, session.start, groups, plan.form, shared.features)
                seen, inside = sums.combined(session.fits[1:]), sums.combined(torch.eye(2 * count)[:count])
                held.append(Held(seen.left_by(maps), inside.left_by(maps), shared.scale))
        searches.append(Search(held, plan.form.population_map.shape[1]))
    latents = choose_latents(searches, candidates)
    windows = sum(len(session.start) for session in folded) / len(folded)
    chosen = [search.penalties(latents, plan.shared) for search, plan in zip(searches, plans, strict=True)]
    return latents, [dataclasses.replace(penalties, windows=windows) for penalties in chosen]


def _population(form: Form, session: Session) -> _Population:
    """The population's features in a session's training windows."""
    raw = torch.cat(
        [form.raw_population(some) for some in context_windows(session.latents, session.start, form.context)]
    )
    scale = safe_root(raw.double().square().mean(0)).float()
    return _Population((raw / scale).clamp(-form.clip, form.clip), scale)


def _solve(
    split: Split, session: Session, population: _Population, plan: _Plan, penalties: Penalties, *, cross: bool
) -> Tensor:
    """Coefficients ``[1 + K, N, F, H]`` float32 of all units: on all windows and, with ``cross``, without each fold."""
    units, fits = split.recordings[session.index].units, session.fits if cross else session.fits[:1]
    found = []
    for first in range(0, units, _BLOCK):
        block = slice(first, first + _BLOCK)
        sums = unit_sums(split, session.index, block, session.start, session.groups, plan.form, population.features)
        seen = sums.combined(fits).left_by(plan.maps[: len(fits)])
        both = coefficients(seen, penalties.own, penalties.population, population.scale)
        found.append(torch.cat(both, 2).float())
    return torch.cat(found, 1)
