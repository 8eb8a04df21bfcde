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
    """Sums over windows for each unit and each group of windows.

    Attributes:
        gram: ``[G, n, F, F]`` float64, features times features.
        cross: ``[G, n, F, C + H]`` float64, features times the frames of the window, offset taken off.
        windows: ``[G]`` windows in each group.
    """

    gram: Tensor
    cross: Tensor
    windows: Tensor

    def combined(self, groups: Tensor) -> UnitSums:
        """Groups added up with these signs: ``[K, G]`` -> sums of ``K`` groups."""
        groups = groups.double()
        return UnitSums(
            torch.einsum("kg,gnab->knab", groups, self.gram),
            torch.einsum("kg,gnab->knab", groups, self.cross),
            groups @ self.windows,
        )

    def residual_cross(self, weight: Tensor) -> Tensor:
        """Features times what the shared map leaves, ``[G, n, F, H]``.

        Args:
            weight: ``[G or 1, H, C]`` shared maps of the context.
        """
        context = weight.shape[-1]
        last = self.cross[..., context - 1 : context]
        return self.cross[..., context:] - last - self.cross[..., :context] @ weight.mT[:, None]


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
    """Sums of some units of a session.

    Args:
        split: recordings and statistics.
        session: which recording.
        units: which units.
        start: ``[W]`` first frames of the windows.
        groups: ``[G, W]`` bool.
        form: how features are made.
        population: ``[W, Fp]`` the population's features in each window.
    """
    own, width = form.own_count, form.own_count + population.shape[1]
    count = len(range(*units.indices(split.recordings[session].units)))
    gram = torch.zeros(len(groups), count, width, width, dtype=torch.float64)
    cross = torch.zeros(len(groups), count, width, split.context + split.horizon, dtype=torch.float64)
    for chunk, windows in _chunks(split, session, units, start):
        x = windows.double()
        x = x - form.offset(x[..., : split.context])
        features = torch.empty(*x.shape[:2], width, dtype=torch.float64)
        features[..., :own] = form.own_features(x[..., : split.context])
        features[..., own:] = population[chunk]
        for group in np.flatnonzero(groups[:, chunk].any(axis=1)):
            inside = torch.from_numpy(groups[group, chunk])
            left, right = (features, x) if bool(inside.all()) else (features[:, inside], x[:, inside])
            gram[group] += left.mT @ left
            cross[group] += left.mT @ right
    return UnitSums(gram, cross, torch.from_numpy(groups.sum(axis=1)).double())


def context_windows(rows: Tensor, start: np.ndarray, context: int) -> Iterator[tuple[slice, Tensor]]:
    """Contexts of windows cut out of ``[K, T]``, ``[w, K, C]`` at a time with their places among the windows."""
    many = max(1, _ROWS // max(1, len(rows)))
    for first in range(0, len(start), many):
        places = torch.from_numpy(start[first : first + many])[:, None] + torch.arange(context)
        yield slice(first, first + len(places)), rows[:, places].transpose(0, 1)


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
