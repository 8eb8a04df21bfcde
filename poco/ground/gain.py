"""How much of each network is used: by how it does on two stretches that follow what it was trained on.

A residual can do well on the validation part, where its weights were chosen, and badly later. So others are trained in
rehearsal on the first three quarters of the training part, for as many steps as were best for each, and judged on the
last quarter; the residuals proper are judged on the validation part. What is used is the mixture of the ground alone
and the ground with each residual that has the smallest mean squared relative regret, as for the forms of the ground.
Whatever the stretches say, a fifth goes to the network that does not stand on the ground, as a tenth of the ground goes
to its centred form: training may not show the drift that comes. Only where it forecasts validation far worse than the
ground, as after few steps, it is not used. All is used the less, the shorter validation is, see :func:`trust`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from poco.data.packed import PackedBatch
from poco.data.splits import Split
from poco.ground.estimator import Fitted, fit
from poco.ground.grounded import APART, Grounded, GroundedConfig
from poco.ground.selection import choose, products_of
from poco.ground.stretches import CHAIN, forward_chained
from poco.training.config import TrainConfig
from poco.training.loop import fit as train
from poco.training.seeds import drawing

#: Weight of the network apart from the ground that the stretches have no say in.
INSURANCE = 0.2
#: It is not used if its error on validation is more than so many times that of the ground.
MOST_ERROR = 1.15


def weigh(stretches: Sequence[np.ndarray], errors: tuple[float, float], learnt: Mapping[str, bool]) -> np.ndarray:
    """How much of each network is used.

    Args:
        stretches: products of errors of each stretch, of the ground and with each residual, see :func:`products`.
        errors: on validation, of the ground and of the network apart from it.
        learnt: whether each network was ever better than before training, those that were not are not used; residuals
            in the order of the stretches, then the network apart.

    Returns:
        The gains, not negative and adding up to 1 at most.
    """
    insured = INSURANCE if learnt[APART] and errors[1] <= MOST_ERROR * errors[0] else 0.0
    chosen = np.array([used for name, used in learnt.items() if name != APART]) * choose(stretches)[0][1:]
    return np.append((1.0 - insured) * chosen, insured)


def trust(split: Split) -> float:
    """How far validation can be trusted: ``1 - 1 / n``, where ``n`` windows have room in it side by side.

    Windows that overlap say much the same, so what is best on little more than one says next to nothing of the next.
    """
    window = split.context + split.horizon
    lengths = [stop - start for stretches in split.segments["val"] for start, stop in stretches]
    room = sum(length for length in lengths if length >= window)
    return 1.0 - window / room if room else 0.0


def start(fitted: Fitted, split: Split, config: GroundedConfig, seed: int) -> Grounded:
    """A forecaster on a fitted ground with the networks that a seed starts from."""
    with drawing(seed, "weights"):
        return Grounded.of(fitted, split, config)


def rehearse(
    fitted: Fitted, split: Split, config: GroundedConfig, settings: TrainConfig, steps: Mapping[str, int]
) -> np.ndarray | None:
    """Train residuals on the first three quarters of the training part and judge them on the last one.

    Args:
        fitted: the ground on the whole training part, mixed as chosen; penalties and mixture are taken from it.
        split: recordings, parts and statistics; the validation and test parts are not looked at.
        config: sizes.
        settings: of the training loop, with ``steps`` filled in.
        steps: how many to take with each residual; at most half of those in the settings are taken. One that takes
            none stays zero.

    Returns:
        Products of errors, see :func:`products`; None where the training part is too short.
    """
    found = next(forward_chained(split, CHAIN[-1:]), None)
    if found is None:
        return None
    assert settings.steps is not None
    shares, part = found
    shorter = fit(part, config.ground, penalties=[p.for_share(shares[0]) for p in fitted.penalties])
    shorter.ground.shares.copy_(fitted.ground.shares)
    shorter.ground.gains.copy_(fitted.ground.gains)
    model = start(shorter, part, config, settings.seed)
    for name in model.residuals:
        if count := min(steps[name], max(1, settings.steps // 2)):
            model.networks.requires_grad_(False)
            model.networks[name].requires_grad_(True)
            train(model, part, dataclasses.replace(settings, steps=count, val_every=count, val_first=False))
    model.networks.requires_grad_(True)
    return products(model, part, "val", model.residuals)


def products(model: Grounded, split: Split, part: str, names: Sequence[str]) -> np.ndarray:
    """Mean products of the errors in one part, relative to the squared error of repeating the last frame.

    Windows are those of :meth:`poco.data.splits.Split.windows_to_judge`.

    Args:
        model: the forecaster; left evaluating.
        split: recordings and parts.
        part: which part.
        names: which networks.

    Returns:
        ``[M, M]`` float64: of the ground, and of each of these networks in full.
    """
    model.eval()

    def each(batch: PackedBatch) -> list[torch.Tensor]:
        return [model.ground.forward_packed(batch), *model.each_packed(batch, names)]

    return products_of(each, 1 + len(names), model.ground, split, part)
