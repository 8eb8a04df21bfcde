"""Normal equations of the ground, collected over windows in float64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from poco.core import gather_windows
from poco.data.splits import Split
from poco.ground.form import Form

_ROWS = 32768  # rows (windows times units) held at once


@dataclass(frozen=True, eq=False)
class UnitSums:
    """Products of features, and of features with targets, summed over windows; one set for each unit and fit.

    The population's features are the same for all units, and so are their products with each other.

    Attributes:
        own: ``[G, n, Fo, Fo]`` float64, a unit's own features with each other.
        mixed: ``[G, n, Fo, Fp]`` own features with the population's.
        population: ``[G, Fp, Fp]`` the population's features with each other.
        own_cross: ``[G, n, Fo, t]`` own features with the targets.
        population_cross: ``[G, n, Fp, t]`` the population's features with the targets.
        target: ``[G, t, t]`` targets with each other, added up over units.
        windows: ``[G]`` number of windows.
    """

    own: Tensor
    mixed: Tensor
    population: Tensor
    own_cross: Tensor
    population_cross: Tensor
    target: Tensor
    windows: Tensor

    def combined(self, groups: Tensor) -> UnitSums:
        """Groups of windows added up with these signs: ``[K, G]`` -> sums of ``K`` fits."""
        groups = groups.double()
        return UnitSums(*(torch.tensordot(groups, getattr(self, name), 1) for name in self.__dataclass_fields__))

    def left_by(self, maps: Tensor) -> UnitSums:
        """The same with what shared maps ``[G, H, C]`` leave for targets, in place of the frames of the windows."""
        left = what_is_left(maps).mT
        return UnitSums(
            self.own,
            self.mixed,
            self.population,
            self.own_cross @ left[:, None],
            self.population_cross @ left[:, None],
            left.mT @ self.target @ left,
            self.windows,
        )

    def first(self, features: int) -> UnitSums:
        """The same with the first of the population's features only."""
        return UnitSums(
            self.own,
            self.mixed[..., :features],
            self.population[:, :features, :features],
            self.own_cross,
            self.population_cross[:, :, :features],
            self.target,
            self.windows,
        )


def what_is_left(maps: Tensor) -> Tensor:
    """``[..., H, C + H]``: takes the frames of a window to what shared maps ``[..., H, C]`` leave of the last ``H``."""
    horizon, context = maps.shape[-2:]
    forecast = maps.clone()
    forecast[..., context - 1] += 1
    return torch.cat([-forecast, torch.eye(horizon, dtype=maps.dtype).expand(*maps.shape[:-1], horizon)], -1)


def frame_grams(split: Split, session: int, start: np.ndarray, groups: np.ndarray) -> Tensor:
    """Frames of a window times frames of a window, summed over all units and the windows of each group.

    Args:
        split: recordings and statistics.
        session: which recording.
        start: ``[W]`` first frames of the windows.
        groups: ``[G, W]`` bool.

    Returns:
        ``[G, C + H, C + H]`` float64.
    """
    frames = split.context + split.horizon
    total = torch.zeros(len(groups), frames, frames, dtype=torch.float64)
    for chunk, x in _chunks(split, session, slice(None), start):
        for group in np.flatnonzero(groups[:, chunk].any(axis=1)):
            rows = x[:, groups[group, chunk]].reshape(-1, frames).double()
            total[group] += rows.T @ rows
    return total


def unit_sums(
    split: Split,
    session: int,
    units: slice,
    start: np.ndarray,
    groups: np.ndarray,
    form: Form,
    population: Tensor,
) -> UnitSums:
    """Sums of some units of a session; the targets are all frames of a window, offset taken off.

    Args:
        split: recordings and statistics.
        session: which recording.
        units: which units.
        start: ``[W]`` first frames of the windows.
        groups: ``[G, W]`` bool.
        form: how features are made.
        population: ``[W, Fp]`` the population's features in each window.
    """
    own, whole, frames = form.own_count, population.shape[1], split.context + split.horizon
    count, many = len(range(*units.indices(split.recordings[session].units))), len(groups)
    sums = UnitSums(
        own=torch.zeros(many, count, own, own, dtype=torch.float64),
        mixed=torch.zeros(many, count, own, whole, dtype=torch.float64),
        population=torch.zeros(many, whole, whole, dtype=torch.float64),
        own_cross=torch.zeros(many, count, own, frames, dtype=torch.float64),
        population_cross=torch.zeros(many, count, whole, frames, dtype=torch.float64),
        target=torch.zeros(many, frames, frames, dtype=torch.float64),
        windows=torch.from_numpy(groups.sum(axis=1)).double(),
    )
    for chunk, windows in _chunks(split, session, units, start):
        x = windows.double()
        x = x - form.offset(x[..., : split.context])
        features, shared = form.own_features(x[..., : split.context]), population[chunk].double()
        for group in np.flatnonzero(groups[:, chunk].any(axis=1)):
            inside = torch.from_numpy(groups[group, chunk])
            f, p, y = (
                (features, shared, x) if bool(inside.all()) else (features[:, inside], shared[inside], x[:, inside])
            )
            sums.own[group] += f.mT @ f
            sums.mixed[group] += f.mT @ p
            sums.population[group] += p.mT @ p
            sums.own_cross[group] += f.mT @ y
            sums.population_cross[group] += p.mT @ y
            rows = y.reshape(-1, frames)
            sums.target[group] += rows.T @ rows
    return sums


def context_windows(rows: Tensor, start: np.ndarray, context: int) -> Iterator[Tensor]:
    """Contexts of windows cut out of ``[K, T]``, ``[w, K, C]`` at a time."""
    many = max(1, _ROWS // max(1, len(rows)))
    for first in range(0, len(start), many):
        places = torch.from_numpy(start[first : first + many])[:, None] + torch.arange(context)
        yield rows[:, places].transpose(0, 1)


def _chunks(split: Split, session: int, units: slice, start: np.ndarray) -> Iterator[tuple[slice, Tensor]]:
    """Windows of some units ``[n, w, C + H]`` float32, some windows at a time with their places."""
    whole = (split.recordings[session].activity, split.mean[session], split.inverse_std[session])
    activity, mean, inverse = (np.ascontiguousarray(values[units]) for values in whole)
    many = max(1, _ROWS // len(activity))
    for first in range(0, len(start), many):
        some = start[first : first + many]
        x, target, _, _ = gather_windows(
            [activity], [mean], [inverse], np.zeros(some.size, dtype=np.int64), some, split.context, split.horizon
        )
        both = torch.from_numpy(np.concatenate([x, target], axis=1))
        yield slice(first, first + some.size), both.view(some.size, len(activity), -1).transpose(0, 1)
