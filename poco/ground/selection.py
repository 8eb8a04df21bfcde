"""How the forms of a ground are mixed: by how they forecast several stretches that follow what they were fitted to.

One validation stretch misleads where activity drifts: what was best there may be the worst later. So the ground is
fitted to the first third, half and three quarters of the training part, and judged on what follows, near and farther
away; the validation part is one more stretch. Four forecasters, the shared map and the whole ground on the level and
centred, are mixed with weights that are not negative and add up to one. A weighting's error in a stretch is a quadratic
form of its weights, so each stretch is read once; the weights are those with the smallest mean squared regret
over the stretches, where regret is how much larger the error is than that of the best weights for the stretch alone.

Whatever the stretches say, a tenth goes to the centred ground: training may not show what comes, and where it does this
tenth costs next to nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from poco.data.packed import PackedBatch
from poco.data.splits import Split
from poco.data.windows import Packer
from poco.ground.config import GroundConfig
from poco.ground.estimator import Fitted, fit
from poco.ground.model import FORMS, Ground
from poco.ground.stretches import forward_chained

#: What is mixed: the shared map alone, then with the units' terms, in each form.
FORECASTERS = (*(f"{name} map" for name in FORMS), *(f"{name} ground" for name in FORMS))

#: Weight of the centred ground that the stretches have no say in.
INSURANCE = 0.1

_STEPS = 20  # weights are multiples of 1 / 20


@dataclass(frozen=True)
class Selection:
    """The weights and what they were chosen on.

    Attributes:
        weights: of each of :data:`FORECASTERS`.
        stretches: for each stretch its name, the score of each forecaster alone, of the weights and of the best
            weights for it alone; scores are 1 - MSE / MSE of repeating the last frame, averaged over sessions.
    """

    weights: tuple[float, ...]
    stretches: tuple[Mapping[str, Any], ...]

    def to_json(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {
            "weights": dict(zip(FORECASTERS, self.weights, strict=True)),
            "stretches": [dict(stretch) for stretch in self.stretches],
        }


def fit_selected(split: Split, config: GroundConfig | None = None, *, cross: bool = False) -> tuple[Fitted, Selection]:
    """Fit a ground to the training part and choose how its forms are mixed; the test part is not looked at.

    Args:
        split: recordings, parts and statistics.
        config: sizes; default those of the split.
        cross: whether to keep coefficients fitted without each fold too, see :class:`poco.ground.CrossFit`.

    Returns:
        The fitted ground, mixed as chosen, and the reasons.
    """
    fitted = fit(split, config, cross=cross)
    names, errors = [], []
    known: tuple[Any, Ground] | None = None
    for shares, part in forward_chained(split):
        # Stretches of one share leave out different sessions where some are short or interrupted.
        seen = (shares[0], [recording.session for recording in part.recordings], part.segments["train"])
        if known is None or known[0] != seen:
            penalties = [p.for_share(shares[0]) for p in fitted.penalties]
            known = (seen, fit(part, fitted.ground.config, penalties=penalties, cross=False).ground)
        ground = known[1]
        names.append(f"fitted to {shares[0]:.0%} of training, judged from {shares[1]:.0%} to {shares[2]:.0%}")
        errors.append(error_products(ground, part, "val"))
    names.append("fitted to training, judged on validation")
    errors.append(error_products(fitted.ground, split, "val"))
    weights, best = choose(errors)
    weights = (1.0 - INSURANCE) * weights
    weights[FORECASTERS.index("centred ground")] += INSURANCE
    mix(fitted.ground, weights)
    stretches = []
    for name, error, least in zip(names, errors, best, strict=True):
        alone = dict(zip(FORECASTERS, (1.0 - np.diag(error)).tolist(), strict=True))
        stretches.append(
            {"stretch": name, "alone": alone, "chosen": 1.0 - float(weights @ error @ weights), "best": 1.0 - least}
        )
    return fitted, Selection(tuple(weights.tolist()), tuple(stretches))


def error_products(ground: Ground, split: Split, part: str) -> np.ndarray:
    """Mean products of the forecasters' errors in one part, relative to the squared error of repeating the last frame.

    ``w' E w`` is then the relative error of the weights ``w``, averaged over sessions. Windows are those of
    :meth:`poco.data.splits.Split.windows_to_judge`.

    Args:
        ground: knows the sessions of the split.
        split: recordings and parts; sessions without a window in the part do not count.
        part: which part.

    Returns:
        ``[4, 4]`` float64, in the order of :data:`FORECASTERS`.
    """

    def each(batch: PackedBatch) -> list[torch.Tensor]:
        session = int(batch.window_session[0])
        x = batch.x.view(-1, len(ground.sessions[session].units), split.context)
        parts = [ground.parts(x, session, form) for form in range(len(FORMS))]
        return [forecast.flatten(0, 1) for forecast in (*(p.base for p in parts), *(p.forecast for p in parts))]

    return products_of(each, len(FORECASTERS), ground, split, part)


@torch.no_grad()
def products_of(
    each: Callable[[PackedBatch], Sequence[torch.Tensor]], count: int, ground: Ground, split: Split, part: str
) -> np.ndarray:
    """Mean products of the errors of several forecasters, relative to the squared error of repeating the last frame.

    Args:
        each: the forecasts ``[R, H]`` of windows of one session, where the ground is.
        count: how many forecasters there are, ``M``.
        ground: knows the sessions of the split.
        split: recordings and parts; sessions without a window in the part do not count.
        part: which part; windows are those of :meth:`poco.data.splits.Split.windows_to_judge`.

    Returns:
        ``[M, M]`` float64.
    """
    everything, packer, device = split.windows_to_judge(part), Packer(split, ground.sessions), ground.shares.device
    found = []
    for session in range(len(split.recordings)):
        total, copy = torch.zeros(count, count, dtype=torch.float64), 0.0
        for _, packed in packer.batches(everything[everything.session == session]):
            batch = packed.to(device)
            assert batch.target is not None
            error = torch.stack([(forecast - batch.target).flatten() for forecast in each(batch)]).double()
            total += (error @ error.T).cpu()
            copy += float((batch.x[:, -1:] - batch.target).double().square().sum())
        if copy > 0:
            found.append(total.numpy() / copy)
    return np.mean(found, axis=0) if found else np.eye(count)


def choose(errors: Sequence[np.ndarray]) -> tuple[np.ndarray, list[float]]:
    """The weights with the smallest mean squared relative regret over stretches.

    Args:
        errors: of each stretch ``[M, M]``, see :func:`error_products`.

    Returns:
        The weights ``[M]``, not negative and adding up to 1, and the least relative error in each stretch.
    """
    candidates = _simplex(errors[0].shape[0])
    relative = np.stack([np.einsum("wi,ij,wj->w", candidates, error, candidates) for error in errors])
    least = relative.min(axis=1, keepdims=True)
    regret = relative / np.maximum(least, 1e-6) - 1.0
    best = int(np.square(regret).mean(axis=0).argmin())
    return candidates[best], least[:, 0].tolist()


def mix(ground: Ground, weights: np.ndarray) -> None:
    """Mix the forms of a ground with these weights of :data:`FORECASTERS`."""
    maps, whole = weights[: len(FORMS)], weights[len(FORMS) :]
    shares = maps + whole
    ground.shares.copy_(torch.from_numpy(shares))
    ground.gains.copy_(torch.from_numpy(np.divide(whole, shares, out=np.zeros_like(whole), where=shares > 0)))


def _simplex(count: int) -> np.ndarray:
    """All weights that are multiples of 1 / 20, ``[n, count]``."""
    bars = np.array(list(itertools.combinations(range(_STEPS + count - 1), count - 1)))
    edges = np.concatenate([np.full((len(bars), 1), -1), bars, np.full((len(bars), 1), _STEPS + count - 1)], 1)
    weights: np.ndarray = (np.diff(edges, axis=1) - 1) / _STEPS
    return weights
