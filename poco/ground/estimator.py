"""Fitting the ground: a few passes over the training windows and one solve for each unit."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from poco.data.splits import Split
from poco.ground.config import GroundConfig
from poco.ground.folds import Folds, cut
from poco.ground.form import Form, SessionTerms
from poco.ground.latents import loadings, project
from poco.ground.model import FORMS, Ground
from poco.ground.sums import UnitSums, context_windows, frame_grams, unit_sums
from poco.nn.vocabulary import SessionSpec

#: Penalties of the shared map that are tried, relative to the mean square of a frame.
SHARED_PENALTIES: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1)
#: Penalties of a unit's coefficients on its own features that are tried, for each window and feature of unit variance.
OWN_PENALTIES: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0)
#: The same for the population's features.
POPULATION_PENALTIES: tuple[float, ...] = (2.0, 4.0, 8.0, 16.0)
#: What is used where a recording is too short to choose: shared, own, population's.
USUAL = (1e-3, 4.0, 4.0)

_FOLDS = 4
_BLOCK = 256  # units whose sums are held at once
_SAMPLE = 128  # units of a session that the penalties are chosen on


@dataclass(frozen=True)
class Penalties:
    """Penalties of one form: of the shared map, of a unit's own features and of the population's."""

    shared: float
    own: float
    population: float

    def for_share(self, share: float) -> Penalties:
        """The same for a share of the windows: fewer windows say less of a unit, and the whole penalty stays."""
        return Penalties(self.shared, self.own / share, self.population / share)


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
        cross: for each session of the split, or None for one that is too short to be cut into folds.
    """

    ground: Ground
    penalties: tuple[Penalties, ...]
    cross: tuple[CrossFit | None, ...]


@dataclass(frozen=True, eq=False)
class _Session:
    """The training windows of a session in groups: the windows of each fold, then those near each fold."""

    index: int
    start: np.ndarray
    folds: Folds | None
    loadings: Tensor
    latents: Tensor

    @property
    def groups(self) -> np.ndarray:
        """``[2 K, W]`` bool, or ``[1, W]`` without folds."""
        if self.folds is None:
            return np.ones((1, self.start.size), dtype=bool)
        inside = self.folds.fold == np.arange(self.folds.count)[:, None]
        return np.concatenate([inside, self.folds.near])

    @property
    def fits(self) -> Tensor:
        """``[1 + K, G]``: how groups add up to all windows, and to those that a fit without each fold may see."""
        if self.folds is None:
            return torch.ones(1, 1)
        count = self.folds.count
        one = torch.eye(count)
        everything = torch.cat([torch.ones(1, count), torch.zeros(1, count)], 1)
        return torch.cat([everything, torch.cat([1 - one, -one], 1)])


@torch.no_grad()
def fit(
    split: Split,
    config: GroundConfig | None = None,
    *,
    penalties: Sequence[Penalties] | None = None,
    cross: bool = True,
) -> Fitted:
    """Fit a ground to the training part of a split.

    The windows are read twice for the shared map and the penalties, then once for each form, a bounded number of rows
    at a time; sums are float64. Memory is linear in the number of units and does not grow with the recordings (but for
    the few latents, which are kept for every frame).

    Args:
        split: recordings, parts and statistics; only the training part is read.
        config: sizes; default those of the split.
        penalties: of each form; default those with the lowest squared error out of fold.
        cross: whether to solve for the coefficients without each fold too.
    """
    config = config or GroundConfig(split.context, split.horizon)
    specs = [SessionSpec(r.session, r.unit_ids, r.dataset) for r in split.recordings]
    ground = Ground(config, specs)
    sessions = [_prepare(split, index, config, cross or penalties is None) for index in range(len(specs))]
    for session in sessions:
        _describe(ground.terms(session.index), split, session)
    grams = [frame_grams(split, s.index, s.start, s.groups) for s in sessions]
    chosen, found = [], []
    for place in range(len(FORMS)):
        form = ground.form(place)
        given = None if penalties is None else penalties[place]
        weights, shared = _shared_maps(form, sessions, grams, given)
        form.weight.copy_(weights[0])
        _set_own_scale(form, grams, sessions)
        population = [_population(ground, place, session) for session in sessions]
        if given is None:
            given = Penalties(shared, *_unit_penalties(split, form, sessions, population, weights))
        chosen.append(given)
        found.append([_solve(split, form, s, p, weights, given) for s, p in zip(sessions, population, strict=True)])
        for session, solved in zip(sessions, found[-1], strict=True):
            ground.terms(session.index).form(place).coefficients.copy_(solved[0])
    folds = tuple(
        None if not cross or s.folds is None else CrossFit(s.folds.first, tuple(f[i][1:] for f in found))
        for i, s in enumerate(sessions)
    )
    return Fitted(ground.eval(), tuple(chosen), folds)


@torch.no_grad()
def add_session(ground: Ground, split: Split, penalties: Sequence[Penalties], session: int = 0) -> int:
    """Add a session to a fitted ground by one solve for each of its units; what is shared stays as it is.

    Args:
        ground: the ground.
        split: has the new recording; only its training part is read.
        penalties: those that the ground was fitted with.
        session: which recording of the split.

    Returns:
        The session's index in the ground.

    Raises:
        VocabularyError: if the ground has a session of this name.
    """
    recording = split.recordings[session]
    index = ground.add_session(SessionSpec(recording.session, recording.unit_ids, recording.dataset))
    prepared = _prepare(split, session, ground.config, folds=False)
    own = ground.terms(index)
    _describe(own, split, prepared)
    for place in range(len(FORMS)):
        form = ground.form(place)
        population = _population(ground, place, prepared, index)
        solved = _solve(split, form, prepared, population, form.weight[None].double(), penalties[place])
        own.form(place).coefficients.copy_(solved[0])
    return index


def _prepare(split: Split, index: int, config: GroundConfig, folds: bool) -> _Session:
    windows = split.windows("train")
    start = windows.start[windows.session == index]
    weights = loadings(split, index, config.latents)
    found = cut(start, split.context + split.horizon, _FOLDS) if folds else None
    return _Session(index, start, found, weights, project(split, index, weights))


def _describe(own: SessionTerms, split: Split, session: _Session) -> None:
    own.loadings.copy_(session.loadings)
    own.mean.copy_(torch.from_numpy(split.mean[session.index].copy()))
    own.std.copy_(torch.from_numpy(split.std[session.index].copy()))


def _shared_maps(
    form: Form, sessions: Sequence[_Session], grams: Sequence[Tensor], given: Penalties | None
) -> tuple[Tensor, float]:
    """The shared maps ``[1 + K, H, C]`` float64, on all windows and without each fold, and their penalty."""
    horizon, context = form.weight.shape
    taken_off = torch.eye(context + horizon, dtype=torch.float64)
    if form.centred:
        taken_off[:, :context] -= 1.0 / context  # row vectors x -> x - mean of the context, written for x' = M x
    fits = torch.zeros(1 + _FOLDS, context + horizon, context + horizon, dtype=torch.float64)
    held = torch.zeros_like(fits)
    for session, gram in zip(sessions, grams, strict=True):
        sums = torch.einsum("kg,gab->kab", session.fits.double(), gram)
        fits[: len(sums)] += sums
        fits[len(sums) :] += sums[0]  # a session without so many folds is seen whole
        if session.folds is not None:
            held[1 : 1 + session.folds.count] += gram[: session.folds.count]
    fits, held = (taken_off @ g @ taken_off.T for g in (fits, held))

    def moments(g: Tensor) -> tuple[Tensor, Tensor]:
        return g[:, :context, :context], g[:, :context, context:] - g[:, :context, context - 1 : context]

    gram, cross = moments(fits)
    held_gram, held_cross = moments(held)
    unit = gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * torch.eye(context, dtype=torch.float64)
    maps = {}
    errors = {}
    usual = USUAL[0] if not held[1:].any() else None
    for penalty in (given.shared,) if given is not None else (usual,) if usual is not None else SHARED_PENALTIES:
        assert penalty is not None
        maps[penalty] = torch.linalg.solve(gram + penalty * unit + _tiny(gram), cross)
        errors[penalty] = float(_error(maps[penalty][1:], held_gram[1:], held_cross[1:]))
    best = min(errors, key=errors.__getitem__)
    return maps[best].mT.contiguous(), best


def _set_own_scale(form: Form, grams: Sequence[Tensor], sessions: Sequence[_Session]) -> None:
    """Root mean square of the units' own features over all training windows."""
    context = form.own_map.shape[0]
    taken_off = torch.eye(context, dtype=torch.float64) - (1.0 / context if form.centred else 0.0)
    total, rows = torch.zeros(context, context, dtype=torch.float64), 0
    for session, gram in zip(sessions, grams, strict=True):
        total += torch.einsum("g,gab->ab", session.fits[0].double(), gram)[:context, :context]
        rows += session.start.size * len(session.loadings)
    means = taken_off.T @ form.own_map.double()
    form.own_scale.copy_(_safe_root((means * (total @ means)).sum(0) / rows))


def _population(ground: Ground, place: int, session: _Session, index: int | None = None) -> Tensor:
    """The population's features ``[W, Fp]`` in a session's training windows, once their scales are set."""
    form = ground.form(place)
    scale = ground.terms(session.index if index is None else index).form(place).scale
    context = ground.config.context
    raw = torch.cat([form.raw_population(some) for _, some in context_windows(session.latents, session.start, context)])
    scale.copy_(_safe_root(raw.double().square().mean(0)))
    return (raw / scale).clamp(-form.clip, form.clip)


def _unit_penalties(
    split: Split,
    form: Form,
    sessions: Sequence[_Session],
    population: Sequence[Tensor],
    weights: Tensor,
) -> tuple[float, float]:
    """Penalties of the units' coefficients with the lowest squared error out of fold, over a sample of the units."""
    grid = list(itertools.product(OWN_PENALTIES, POPULATION_PENALTIES))
    errors = torch.zeros(len(grid), dtype=torch.float64)
    for session, features in zip(sessions, population, strict=True):
        if session.folds is None:
            continue
        step = -(-len(session.loadings) // _SAMPLE)
        sums = unit_sums(split, session.index, slice(0, None, step), session.start, session.groups, form, features)
        count = session.folds.count
        seen, held = sums.combined(session.fits[1:]), sums.combined(torch.eye(2 * count)[:count])
        maps = weights[1 : 1 + count]
        held_cross = held.residual_cross(maps)
        for place, (own, shared) in enumerate(grid):
            solved = _coefficients(seen, maps, form.own_count, own, shared)
            errors[place] += _error(solved, held.gram, held_cross)
    if not errors.any():
        return USUAL[1:]
    return grid[int(errors.argmin())]


def _solve(
    split: Split, form: Form, session: _Session, population: Tensor, weights: Tensor, penalties: Penalties
) -> Tensor:
    """Coefficients ``[1 + K, N, F, H]`` float32 of all units: on all windows, and without each fold."""
    units = split.recordings[session.index].units
    found = []
    for first in range(0, units, _BLOCK):
        block = slice(first, min(first + _BLOCK, units))
        sums = unit_sums(split, session.index, block, session.start, session.groups, form, population)
        seen = sums.combined(session.fits)
        maps = weights[: len(seen.windows)]
        found.append(_coefficients(seen, maps, form.own_count, penalties.own, penalties.population).float())
    return torch.cat(found, 1)


def _coefficients(sums: UnitSums, maps: Tensor, own: int, own_penalty: float, population_penalty: float) -> Tensor:
    """Ridge ``[G, n, F, H]`` on what the shared maps leave."""
    penalty = torch.full((sums.gram.shape[-1],), population_penalty, dtype=torch.float64)
    penalty[:own] = own_penalty
    ridge = sums.windows[:, None, None] * torch.diag(penalty)
    return torch.linalg.solve(sums.gram + ridge[:, None], sums.residual_cross(maps))


def _error(solved: Tensor, gram: Tensor, cross: Tensor) -> Tensor:
    """Squared error but for what does not depend on the solution: ``tr(C' G C) - 2 tr(C' c)``."""
    return (solved * (gram @ solved)).sum() - 2 * (solved * cross).sum()


def _safe_root(square: Tensor) -> Tensor:
    """Square roots, 1 where there is nothing to scale."""
    return torch.where(square > 1e-12, square, torch.ones_like(square)).sqrt()


def _tiny(gram: Tensor) -> Tensor:
    """So little on the diagonal that it changes nothing but an empty sum."""
    return torch.eye(gram.shape[-1], dtype=gram.dtype) * 1e-12
