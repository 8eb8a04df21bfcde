"""Steps around the training loop for a forecaster on the ground: fit and mix before, weigh the networks after."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from poco.data.splits import Split
from poco.ground import gain
from poco.ground.estimator import Fitted
from poco.ground.grounded import APART, POPULATION_WINDOWS, Grounded, GroundedConfig
from poco.ground.selection import Selection, fit_selected
from poco.training.callbacks import Callback
from poco.training.config import TrainConfig


def prepare(
    split: Split,
    config: GroundedConfig,
    settings: TrainConfig,
    callbacks: Sequence[Callback] = (),
    like: tuple[Grounded, Fitted] | None = None,
) -> tuple[Grounded, Fitted]:
    """The forecaster that training starts from, and the ground that it stands on.

    Args:
        split: recordings, parts and statistics; the test part is not looked at.
        config: sizes.
        settings: of the training loop.
        callbacks: are told what is done and was chosen.
        like: what was returned for another seed, whose ground is then taken: it does not depend on the seed.
    """
    if like is None:
        _tell(callbacks, "ground: being solved for")
        fitted, mixture = fit_selected(split, config.ground, cross=True)
        _tell(callbacks, _chosen(mixture))
        chosen = {"latents_chosen": config.latents is None, "penalties": [vars(p) for p in fitted.penalties]}
        reasons = {**chosen, **mixture.to_json()}
    else:
        fitted, reasons = like[1], like[0].metadata["ground"]
    if config.population is None:
        config = dataclasses.replace(config, population=len(split.windows("train")) >= POPULATION_WINDOWS)
    model = gain.start(fitted, split, config, settings.seed)
    model.metadata |= {"ground": reasons, "split": split.key}
    return model, fitted


def finish(
    model: Grounded,
    fitted: Fitted,
    split: Split,
    settings: TrainConfig,
    best_steps: Mapping[str, int],
    callbacks: Sequence[Callback] = (),
) -> dict[str, Any]:
    """Weigh the trained networks.

    Args:
        model: the forecaster with its best weights.
        fitted: the ground that it stands on.
        split: recordings, parts and statistics; the test part is not looked at.
        settings: of the training loop.
        best_steps: the step that the weights of each network are from; 0 or missing if it has learnt nothing.
        callbacks: are told what is done and was chosen.

    Returns:
        The gains and the reasons, which are also kept in the model's metadata.
    """
    trust = gain.trust(split)
    steps = {name: best_steps.get(name, 0) for name in model.networks}
    stretches = {}
    if any(steps[name] for name in model.residuals):
        _tell(
            callbacks, "forecast: residuals are trained again, without the last quarter of training, and judged on it"
        )
        rehearsal = gain.rehearse(fitted, split, model.config, settings, steps)
        if rehearsal is not None:
            stretches["rehearsal on the last quarter of training"] = rehearsal
    validation = gain.products(model, split, "val", list(model.networks))
    stretches["validation"] = validation[:-1, :-1]
    errors = (float(validation[0, 0]), float(validation[-1, -1]))
    learnt = {name: taken > 0 for name, taken in steps.items()}
    gains = trust * gain.weigh(list(stretches.values()), errors, learnt)
    model.gains.copy_(torch.from_numpy(gains))
    model.forget()
    names = ["ground", *(f"with the {name} residual" for name in model.residuals)]
    judged = [
        {"stretch": name, **dict(zip(names, (1 - np.diag(p)).tolist(), strict=True))} for name, p in stretches.items()
    ]
    judged[-1][APART] = 1 - errors[1]
    reasons = {"gains": gains.tolist(), "trust": trust, "stretches": judged}
    model.metadata["networks"] = reasons
    told = "; ".join(
        f"{stretch['stretch']}: "
        + ", ".join(f"{stretch[name]:.3f} {name}" for name in (*names, APART) if name in stretch)
        for stretch in judged
    )
    shares = zip((max(0.0, 1 - gains.sum()), *gains), ("ground alone", *names[1:], "apart from it"), strict=True)
    used = ", ".join(f"{share:.0%} {name}" for share, name in shares)
    _tell(callbacks, f"forecast: {used} ({told})")
    return reasons


def _chosen(mixture: Selection) -> str:
    parts = [f"{100 * w:.3g}% {name}" for name, w in mixture.to_json()["weights"].items() if w]
    scores = [stretch["chosen"] for stretch in mixture.stretches]
    between = (
        f"{min(scores):.3f} to {max(scores):.3f} on {len(scores)} stretches" if len(scores) > 1 else f"{scores[0]:.3f}"
    )
    return f"ground: {', '.join(parts)} (score {between} after what was fitted)"


def _tell(callbacks: Sequence[Callback], text: str) -> None:
    for callback in callbacks:
        callback.message(text)
