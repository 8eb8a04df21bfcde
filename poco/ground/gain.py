"""How much of the residual is used: by how it does on two stretches that follow what it was trained on.

A residual can do well on the validation part, where its weights were chosen, and badly later. So another one is trained
in rehearsal on the first three quarters of the training part, for as many steps as were found best, and judged on the
last quarter; the residual proper is judged on the validation part. The forecast's error is quadratic in the gain, and
the gain is the one with the smallest mean squared relative regret, as for the forms of the ground.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from poco.data.splits import Split, Windows
from poco.data.windows import Packer
from poco.ground.estimator import Fitted, fit
from poco.ground.grounded import Grounded, GroundedConfig
from poco.ground.stretches import forward_chained
from poco.training.config import TrainConfig
from poco.training.loop import fit as train
from poco.training.seeds import stream

_STEPS = 20  # gains are multiples of 1 / 20


def start(fitted: Fitted, split: Split, config: GroundedConfig, seed: int) -> Grounded:
    """A forecaster on a fitted ground with the residual that a seed starts from."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(seed, "weights"))
        return Grounded.of(fitted, split, config)


def rehearse(
    fitted: Fitted, split: Split, config: GroundedConfig, settings: TrainConfig, steps: int
) -> np.ndarray | None:
    """Train a residual on the first three quarters of the training part and judge it on the last one.

    Args:
        fitted: the ground on the whole training part, mixed as chosen; penalties and mixture are taken from it.
        split: recordings, parts and statistics; the validation and test parts are not looked at.
        config: sizes.
        settings: of the training loop.
        steps: how many to take; at most half of those in the settings are taken.

    Returns:
        Products of errors, see :func:`products`; None where the training part is too short.
    """
    found = list(forward_chained(split))
    if not found or found[-1][0][0] < 0.7:
        return None
    shares, part = found[-1]
    shorter = fit(part, config.ground, penalties=[p.for_share(shares[0]) for p in fitted.penalties])
    shorter.ground.shares.copy_(fitted.ground.shares)
    shorter.ground.gains.copy_(fitted.ground.gains)
    model = start(shorter, part, config, settings.seed)
    steps = max(1, min(steps, (settings.steps or steps) // 2))
    train(model, part, dataclasses.replace(settings, steps=steps, val_every=steps, val_first=False))
    return products(model, part, "val")


@torch.no_grad()
def products(model: Grounded, split: Split, part: str) -> np.ndarray:
    """Mean products of the ground's error and the residual in one part, relative to repeating the last frame.

    Args:
        model: the forecaster, its gain 1; left evaluating.
        split: recordings and parts.
        part: which part.

    Returns:
        ``[2, 2]`` float64 ``P``: with gain ``g`` the relative error, averaged over sessions, is ``[1, g] P [1, g]'``.
    """
    model.eval()
    everything, packer = split.windows(part), Packer(split, model.sessions)
    device = model.ground.shares.device
    found = []
    for session in range(len(split.recordings)):
        first = everything.start[everything.session == session]
        total, copy = torch.zeros(2, 2, dtype=torch.float64), 0.0
        for _, packed in packer.batches(Windows(np.full(first.size, session), first)):
            batch = packed.to(device)
            assert batch.target is not None
            ground = model.ground.forward_packed(batch)
            both = torch.stack([(ground - batch.target).flatten(), (model.forward_packed(batch) - ground).flatten()])
            total += (both.double() @ both.double().T).cpu()
            copy += float((batch.x[:, -1:] - batch.target).double().square().sum())
        if copy > 0:
            found.append(total.numpy() / copy)
    return np.mean(found, axis=0) if found else np.eye(2)


def choose(stretches: Sequence[np.ndarray]) -> float:
    """The gain between 0 and 1 with the smallest mean squared relative regret over stretches, see :func:`products`."""
    gains = np.linspace(0.0, 1.0, _STEPS + 1)
    errors = np.stack([p[0, 0] + 2 * gains * p[0, 1] + gains**2 * p[1, 1] for p in stretches])
    regret = errors / np.maximum(errors.min(axis=1, keepdims=True), 1e-6) - 1.0
    return float(gains[np.square(regret).mean(axis=0).argmin()])
