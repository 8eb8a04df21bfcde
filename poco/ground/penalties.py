"""Ridge penalties of the ground, the number of its latents, and how both are chosen: out of fold."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from poco.ground.sums import UnitSums

#: What the shared map may be shrunk towards, 1: the last value, or 0: the mean; and the penalties that are tried with
#: it, relative to the mean square of a frame. Large ones are for activity that is hardly to be forecast.
SHARED_PENALTIES: dict[float, tuple[float, ...]] = {
    1.0: (1e-4, 1e-3, 1e-2, 1e-1),
    0.0: (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0),
}
#: Of the error: what shrinking towards the mean must gain, for where activity drifts the last value is the safer one.
MEAN_WORTH = 0.003
#: Penalties of a unit's coefficients that are tried, for each window and feature of unit variance.
UNIT_PENALTIES: tuple[float, ...] = (0.02, 0.1, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
#: Numbers of latents that are tried.
LATENTS: tuple[int, ...] = (8, 32, 64)
#: Where a session has more units, the first of them is taken: coefficients take room, and 8 latents take little.
MANY_UNITS = 8192

_WORTH = 0.001  # of the error: what more latents must gain


@dataclass(frozen=True)
class Penalties:
    """Penalties of one form: of the shared map, of a unit's own features and of the population's.

    The shared map is shrunk towards ``last`` times the last value, see :data:`SHARED_PENALTIES`. Penalties of units are
    for each of ``windows``, the mean number of windows of the sessions that they were chosen on (0: not chosen).
    """

    shared: float
    own: float
    population: float
    last: float = 1.0
    windows: float = 0.0

    def for_share(self, share: float) -> Penalties:
        """The same for a share of the windows: fewer windows say less of a unit, and the whole penalty stays."""
        return dataclasses.replace(self, own=self.own / share, population=self.population / share)

    def for_windows(self, count: int) -> Penalties:
        """The same for a session of so many windows, see :meth:`for_share`; one with more is shrunk as usual."""
        return self.for_share(count / self.windows) if count < self.windows else self


#: What is used where a recording is too short to choose.
USUAL = Penalties(1e-3, 4.0, 4.0)


@dataclass(frozen=True, eq=False)
class Held:
    """Normal equations of some units of one session, with each fold left out, and those of the fold.

    Attributes:
        seen: of all windows that share no frame with the fold, one set a fold.
        held: of the fold, against what the maps fitted without it leave.
        scale: ``[Fp]`` root mean squares of the population's features before they are divided by them.
    """

    seen: UnitSums
    held: UnitSums
    scale: Tensor


def coefficients(sums: UnitSums, own: float, population: float, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Ridge regression of each unit on its own features and the population's.

    Features of a small latent, or of what it hardly does, say less and are shrunk more: the penalty of a feature of the
    population grows as its root mean square falls. The products of the population's features are the same for all
    units, so they are decomposed once, and what is solved for each unit is as small as its own features.

    Args:
        sums: ``G`` sets of normal equations of ``n`` units.
        own: penalty of own features, a window.
        population: penalty of the population's largest feature, a window.
        scale: ``[Fp]`` root mean squares of the population's features.

    Returns:
        ``[G, n, Fo, t]`` and ``[G, n, Fp, t]`` float64.
    """
    fits, units, own_count, whole = sums.mixed.shape
    targets = sums.own_cross.shape[-1]
    ridge = population * scale.double().max().clamp(min=1e-12) / scale.double() if whole else scale.double()
    shared = sums.population + sums.windows[:, None, None] * torch.diag(ridge)
    right = torch.cat([sums.mixed.mT, sums.population_cross], -1).transpose(1, 2)
    right = right.reshape(fits, whole, units * (own_count + targets))
    solved = torch.cholesky_solve(right, torch.linalg.cholesky(shared)) if whole else right
    solved = solved.view(fits, whole, units, own_count + targets).transpose(1, 2)
    by_own, by_target = solved.split([own_count, targets], -1)
    single = sums.own + (own * sums.windows)[:, None, None, None] * torch.eye(own_count, dtype=torch.float64)
    mine = torch.linalg.solve(single - sums.mixed @ by_own, sums.own_cross - sums.mixed @ by_target)
    return mine, by_target - by_own @ mine


def error(sums: UnitSums, own: Tensor, population: Tensor) -> float:
    """Squared error of such coefficients on these sums, over all fits, units and targets."""
    quadratic = (own * (sums.own @ own)).sum() + (population * (sums.population[:, None] @ population)).sum()
    mixed = (own * (sums.mixed @ population)).sum()
    linear = (own * sums.own_cross).sum() + (population * sums.population_cross).sum()
    return float(quadratic + 2 * mixed - 2 * linear + sums.target.diagonal(dim1=1, dim2=2).sum())


class Search:
    """The penalties of one form with the lowest squared error out of fold, one number of latents after another.

    Args:
        held: of each session that has folds, some units at a time.
        means: features of the population that one latent gives.
    """

    def __init__(self, held: Sequence[Held], means: int) -> None:
        self._held, self._means = held, means
        self._alone = sum(float(one.held.target.diagonal(dim1=1, dim2=2).sum()) for one in held)
        self._errors: dict[tuple[int, tuple[int, int]], float] = {}
        self._best: dict[int, tuple[int, int]] = {}
        self._place = (UNIT_PENALTIES.index(USUAL.own), UNIT_PENALTIES.index(USUAL.population))

    def error(self, latents: int) -> float:
        """The lowest squared error with so many latents, relative to that of the shared map alone.

        Looked for downhill, one penalty at a time, from where the search before ended.
        """
        before = None
        while before != self._place:
            before = self._place
            for step in ((0, 1), (0, -1), (1, 0), (-1, 0)):
                self._walk(latents, *step)
        self._best[latents] = self._place
        return self._error(latents, self._place) / max(self._alone, 1e-12)

    def penalties(self, latents: int, given: Penalties) -> Penalties:
        """The penalties for so many latents, once :meth:`error` has found them; those of the shared map are given."""
        own, population = self._best[latents]
        return dataclasses.replace(given, own=UNIT_PENALTIES[own], population=UNIT_PENALTIES[population])

    def _walk(self, latents: int, own: int, population: int) -> None:
        """Steps in one direction for as long as the error falls."""
        while True:
            place = (self._place[0] + own, self._place[1] + population)
            if not all(0 <= index < len(UNIT_PENALTIES) for index in place):
                return
            if self._error(latents, place) >= self._error(latents, self._place):
                return
            self._place = place

    def _error(self, latents: int, place: tuple[int, int]) -> float:
        key = (latents, place)
        if key not in self._errors:
            total, (own, population) = 0.0, (UNIT_PENALTIES[index] for index in place)
            for one in self._held:
                features = min(len(one.scale), latents * self._means)
                found = coefficients(one.seen.first(features), own, population, one.scale[:features])
                total += error(one.held.first(features), *found)
            self._errors[key] = total
        return self._errors[key]


def choose_latents(searches: Sequence[Search], candidates: Sequence[int]) -> int:
    """The number of latents with the lowest error out of fold, forms together; more only for as long as it is worth it.

    Args:
        searches: of each form.
        candidates: numbers to try, rising.
    """
    best, least = candidates[0], sum(search.error(candidates[0]) for search in searches)
    for latents in candidates[1:]:
        found = sum(search.error(latents) for search in searches)
        if found > least - _WORTH * len(searches):
            break
        best, least = latents, found
    return best
