"""What training on several sessions together brings over a model of each session alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any, NamedTuple


class Trained(NamedTuple):
    """Models that learnt from several sessions together: of which study, value and forecaster, and how."""

    study: str
    value: Any
    forecaster: str
    training: str


def gains(cells: Sequence[Mapping[str, Any]]) -> dict[Trained, list[float]]:
    """Of each session, how much higher its score is than that of a model of it alone; empty without such models.

    Seeds of one session are averaged first: they say nothing of other sessions. A simulation has others for each seed.
    """
    scores: dict[Trained, dict[tuple[int, str], float]] = {}
    for cell in cells:
        key = Trained(*(cell[name] for name in Trained._fields))
        own = {(cell["seed"], name): score for name, score in cell.get("score_by_session", {}).items()}
        scores.setdefault(key, {}).update(own)
    simulated = {cell["study"] for cell in cells if cell.get("simulate")}
    found = {}
    for key, together in scores.items():
        if key.training == "single":
            continue
        alone = scores.get(key._replace(training="single"), {})
        each: dict[tuple[int, str] | str, list[float]] = {}
        for seed, session in together.keys() & alone.keys():
            which = (seed, session) if key.study in simulated else session
            each.setdefault(which, []).append(together[seed, session] - alone[seed, session])
        if each:
            found[key] = [mean(seeds) for seeds in each.values()]
    return found
