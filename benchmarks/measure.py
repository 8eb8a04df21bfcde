"""Times: contestants take turns, so that noise hits all alike; the median and the quantiles .2 and .8 are kept."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_TURN_SECONDS = 0.02  # a turn repeats short calls for this long
_LONG_CALL = 1.0  # calls longer than this have no warm-up that matters
_SHORT_CALL = 0.2  # calls shorter than this are warmed at the start of each turn: the others have had the caches


@dataclass(frozen=True)
class Times:
    """Seconds of one call: median, quantiles, the shortest, and how many turns of how many calls there were."""

    median: float
    low: float
    high: float
    best: float
    turns: int
    calls: int


def _seconds(call: Callable[[], object], calls: int, finish: Callable[[], object]) -> float:
    finish()
    began = time.perf_counter()
    for _ in range(calls):
        call()
    finish()
    return (time.perf_counter() - began) / calls


def take_turns(
    contestants: Mapping[str, Callable[[], object]],
    seconds: float,
    least: int,
    most: int,
    finish: Callable[[], object] = lambda: None,
) -> dict[str, Times]:
    """Times every contestant, in turns, for about ``seconds`` in all.

    Args:
        contestants: name -> what to time.
        seconds: time to spend.
        least: turns that there are at least, however long they take.
        most: turns that there are at most.
        finish: waits for what the calls of a turn have set going.
    """
    if not contestants:
        return {}
    once: dict[str, float] = {}
    for name, call in contestants.items():
        once[name] = _seconds(call, 1, finish)
        if once[name] < _LONG_CALL:
            once[name] = _seconds(call, 1, finish)
    calls = {name: max(1, min(1000, int(_TURN_SECONDS / max(t, 1e-7)))) for name, t in once.items()}
    round_seconds = sum(t * (calls[name] + (t < _SHORT_CALL)) for name, t in once.items())
    turns = max(least, min(most, int(seconds / round_seconds)))
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(turns):
        for name, call in contestants.items():
            if once[name] < _SHORT_CALL:
                call()
            taken[name].append(_seconds(call, calls[name], finish))
    return {name: _summary(values, calls[name]) for name, values in taken.items()}


def _summary(values: list[float], calls: int) -> Times:
    ordered = sorted(values)
    last = len(ordered) - 1
    low, high = ordered[round(0.2 * last)], ordered[round(0.8 * last)]
    return Times(statistics.median(ordered), low, high, ordered[0], len(ordered), calls)


def load_average() -> float | None:
    """Processes that want a processor, averaged over a minute; None where the system does not say."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return None
