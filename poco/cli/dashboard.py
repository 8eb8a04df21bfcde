"""One line on a terminal that is written over and over: how a stream goes."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.live import Live

from poco.cli.output import number
from poco.stream import StreamForecast

_BARS = "▁▂▃▄▅▆▇█"
Show = Callable[[npt.ArrayLike, StreamForecast, float, Mapping[str, float]], None]


@contextmanager
def dashboard(*, silent: bool) -> Iterator[Show]:
    """What shows a frame as it was seen, its forecast, the score so far and the counters of the stream.

    Nothing is shown if it is to be silent, or there is no terminal.
    """
    console, past = Console(stderr=True), deque[float](maxlen=40)
    if silent or not console.is_terminal:
        yield lambda *_: None
        return
    with Live(console=console, refresh_per_second=8) as live:

        def show(seen: npt.ArrayLike, found: StreamForecast, score: float, stats: Mapping[str, float]) -> None:
            past.append(population(seen))
            live.update(
                f"{sparkline(past)}  frame {stats['frames']:,} {found.status}  p50 {stats['p50_ms']:.2f} ms  "
                f"p99 {stats['p99_ms']:.2f} ms  late {stats['late']}  gaps {stats['gaps']}  score {number(score)}  "
                f"{', '.join(sorted(found.marks))}"
            )

        yield show


def population(frame: npt.ArrayLike) -> float:
    """The mean activity of a frame, of the units that have a value; NaN if none has."""
    values = np.asarray(frame, dtype=np.float64)
    values = values[np.isfinite(values)]
    return float(values.mean()) if values.size else math.nan


def sparkline(past: Iterable[float]) -> str:
    """A bar for each value, a blank where it is not finite."""
    known = [value for value in past if math.isfinite(value)]
    low, high = min(known, default=0.0), max(known, default=0.0)
    return "".join(
        _BARS[int(7.99 * (value - low) / ((high - low) or 1))] if math.isfinite(value) else " " for value in past
    )
