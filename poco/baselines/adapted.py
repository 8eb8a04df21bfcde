"""A trained baseline taken to a session that it has not seen."""

from __future__ import annotations

from torch import nn

from poco.adaptation_steps import LEARNING_RATE, embedding_rate, fit_with_curve, scores_of, settings
from poco.adapted import Point
from poco.baselines import OF_SESSIONS, TRAINED, build
from poco.data.splits import Split
from poco.nn import SessionSpec
from poco.training.seeds import drawing

#: Those that have embeddings of units, and nothing else of a session: the parameter ``units``.
EMBEDDING = ("uico", "uico-large")
#: Those that can be taken to another session.
ADAPTABLE = tuple(name for name in TRAINED if name in EMBEDDING or name not in OF_SESSIONS)


def modes(name: str) -> tuple[str, ...]:
    """What can be done with one of :data:`ADAPTABLE`, of the modes of :func:`poco.adapt`."""
    return ("zero-shot", *(("embeddings",) if name in EMBEDDING else ()), "full", "scratch")


def adapt_baseline(
    name: str, trained: nn.Module, cut: Split, mode: str, *, steps: int, seed: int, score_every: int
) -> tuple[tuple[Point, ...], float, int]:
    """Fit a baseline to a new session alone, as :func:`poco.adapt` fits a POCO.

    Args:
        name: one of :data:`ADAPTABLE`.
        trained: it, fitted to other sessions, which is left as it was; not looked at from ``"scratch"``.
        cut: the session and its parts.
        mode: one of :func:`modes`; embeddings of new units are fresh.
        steps: optimiser steps.
        seed: of fresh weights, dropout and the order of the windows.
        score_every: steps from one validation, and point of the curve, to the next.

    Returns:
        Test scores of the weights as they are at each validation; that of those with the lowest validation error, which
        are kept; and how many values were fitted.
    """
    with drawing(seed, "weights"):
        model = build(name, cut.context, cut.horizon, [SessionSpec.of(recording) for recording in cut.recordings])
    own = {"units"} if name in EMBEDDING else set()
    if mode != "scratch":
        shared = {key: value for key, value in trained.state_dict().items() if key not in own}
        missing, _ = model.load_state_dict(shared, strict=False)
        assert set(missing) == own
    if mode == "zero-shot":
        score = scores_of(model.eval(), cut).score
        return (Point(0, 0.0, score),), score, 0
    rate = LEARNING_RATE
    if mode == "embeddings":
        for key, parameter in model.named_parameters():
            parameter.requires_grad_(key in own)
        rate = embedding_rate(trained.get_parameter("units").detach(), 0.0)
    config = settings(
        cut,
        mode,
        steps=steps,
        learning_rate=rate,
        batch_size=None,
        seed=seed,
        precision="auto",
        score_every=score_every,
        patience=None,
    )
    points, _ = fit_with_curve(model, cut, config)
    fitted = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return points, scores_of(model, cut).score, fitted
