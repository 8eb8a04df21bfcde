"""Reads frames, forecasts, and says when a group of units is about to become active: trigger.c in Python.

    python trigger.py MODEL SESSION THRESHOLD UNIT [UNIT...] < frames.txt

A frame is a line of numbers in the recording's own units, one for each unit in the order of the session; "nan" is a
unit that was not seen. Where a first number is wanted for the time in seconds, begin lines with "t=0.5". A line
"TRIGGER frame step value" is printed, once for each crossing, when the forecast mean of the chosen units rises above
the threshold at some step; units that are not valid have no say, nor has a forecast that counts whole frames which
never came (mark "filled"), one past the deadline ("late"; this stream has none: deadline_ms sets it), or one of another
kind of activity than the model was trained on ("scale"). After a gap that begins the context anew (mark "restarted")
there is no forecast until it is full. After five frames in a row whose times do not come after the last one, the clock
is believed, and the stream begins anew. Where no line was a frame of the session, it ends with 1.
"""

from __future__ import annotations

import argparse
import math
import sys

import numpy as np

import poco
from poco.errors import PocoError

DOUBTFUL = {"filled", "late", "scale"}


def read_frame(line: str) -> tuple[list[float], float | None]:
    """The numbers of a line, and its time; a ValueError if one is none."""
    words = line.replace(",", " ").split()
    time = float(words.pop(0)[2:]) if words and words[0].startswith("t=") else None
    return [float(word) for word in words], time


def crossing(forecast: poco.stream.StreamForecast, units: list[int], threshold: float) -> tuple[int, float] | None:
    """The first step at which the mean forecast of the units is above the threshold, and that mean."""
    valid = [unit for unit in units if forecast.valid[unit]]
    if forecast.values is None or not valid:
        return None
    means = forecast.values[valid].mean(axis=0, dtype=np.float64)
    above = np.flatnonzero(means > threshold)
    return (int(above[0]) + 1, float(means[above[0]])) if above.size else None


def main() -> int:
    """Read, push, say."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("model")
    parser.add_argument("session")
    parser.add_argument("threshold", type=float)
    parser.add_argument("units", type=int, nargs="+")
    given = parser.parse_args()
    stream = poco.Stream(given.model, given.session, threads=1)
    if not all(0 <= unit < stream.units for unit in given.units):
        parser.error(f"units are 0 to {stream.units - 1}")
    if math.isnan(given.threshold):
        parser.error("the threshold is a number")
    above, refused, useless = False, 0, 0
    for line in sys.stdin:
        try:
            frame, time = read_frame(line)
            forecast = stream.push(frame, time)
        except (ValueError, PocoError) as error:  # the stream is as it was
            print(error, file=sys.stderr)
            useless += 1
            refused += isinstance(error, PocoError) and len(frame) == stream.units
            if refused == 5:
                print("the last 5 frames were refused: the stream begins anew", file=sys.stderr)
                stream.reset()
                refused = 0
            continue
        refused = 0
        if forecast.status == "warming" or forecast.marks & DOUBTFUL:
            continue
        found = crossing(forecast, given.units, given.threshold)
        if found is not None and not above:
            print(f"TRIGGER {forecast.frame} {found[0]} {found[1]:g}", flush=True)
        above = found is not None
    stats = stream.stats()
    print(f"{stats['frames']} frames, median {stats['p50_ms']:.3f} ms", file=sys.stderr)
    return int(useless > 0 and stats["frames"] == 0)  # no line was a frame of the session


if __name__ == "__main__":
    try:
        raise SystemExit(main())
    except PocoError as error:
        raise SystemExit(str(error)) from None
