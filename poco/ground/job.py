"""Steps around the training loop for a forecaster on the ground: fit and mix before, weigh the residual after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from poco.data.splits import Split
from poco.ground import gain
from poco.ground.estimator import Fitted
from poco.ground.grounded import Grounded, GroundedConfig
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
        callbacks: are told what was chosen.
        like: what was returned for another seed, whose ground is then taken: it does not depend on the seed.
    """
    if like is None:
        fitted, selection = fit_selected(split, config.ground, cross=True)
        _tell(callbacks, _chosen(selection))
        reasons = {"penalties": [vars(p) for p in fitted.penalties], **selection.to_json()}
    else:
        fitted, reasons = like[1], like[0].metadata["ground"]
    model = gain.start(fitted, split, config, settings.seed)
    model.metadata["ground"] = reasons
    return model, fitted


def finish(
    model: Grounded,
    fitted: Fitted,
    split: Split,
    settings: TrainConfig,
    best_step: int,
    callbacks: Sequence[Callback] = (),
) -> dict[str, Any]:
    """Weigh the trained residual.

    Args:
        model: the forecaster with its best weights.
        fitted: the ground that it stands on.
        split: recordings, parts and statistics; the test part is not looked at.
        settings: of the training loop.
        best_step: the step that its weights are from; 0 if the residual is still zero.
        callbacks: are told what was chosen.

    Returns:
        The gain and the reasons, which are also kept in the model's metadata.
    """
    rehearsal = gain.rehearse(fitted, split, model.config, settings, best_step) if best_step else None
    stretches = [] if rehearsal is None else [rehearsal]
    stretches.append(gain.products(model, split, "val"))
    chosen = gain.choose(stretches) if best_step else 0.0
    model.residual.gain.fill_(chosen)
    names = (["rehearsal on the last quarter of training"] if rehearsal is not None else []) + ["validation"]
    judged = [
        {"stretch": name, "ground": 1 - float(p[0, 0]), "in full": 1 - float(p.sum())}
        for name, p in zip(names, stretches, strict=True)
    ]
    reasons = {"gain": chosen, "stretches": judged}
    model.metadata["residual"] = reasons
    told = "; ".join(f"{s['stretch']} {s['ground']:.3f} without, {s['in full']:.3f} with" for s in judged)
    _tell(callbacks, f"residual: {chosen:.0%} of it is used ({told})")
    return reasons


def _chosen(selection: Selection) -> str:
    parts = [f"{w:.0%} {name}" for name, w in selection.to_json()["weights"].items() if w]
    scores = [stretch["chosen"] for stretch in selection.stretches]
    return (
        f"ground: {', '.join(parts)} (score {min(scores):.3f} to {max(scores):.3f} on {len(scores)} stretches "
        "that follow what was fitted)"
    )


def _tell(callbacks: Sequence[Callback], text: str) -> None:
    for callback in callbacks:
        callback.message(text)
