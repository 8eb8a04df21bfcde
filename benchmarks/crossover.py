"""From which recording length on a larger model pays: ``python -m benchmarks.crossover --out FOLDER``.

A simulated population with known coupling is recorded for an hour. Forecasters are fitted to its last minutes before
the validation part, more and more of them; validation and test part stay what they are, and statistics are those of the
shorter training part.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import warnings
from pathlib import Path

import numpy as np
import torch

import poco
from benchmarks.accuracy import Cell, make_cells
from poco.data.simulate import simulate
from poco.data.splits import Split
from poco.data.statistics import statistics

RATE = 2.0  # frames a second
HOUR = int(3600 * RATE)
#: Minutes of training.
MINUTES = (2, 4, 8, 16, 36)
FORECASTERS = (
    "nlinear",
    "mlp",
    "ground-8-latents",
    "ground",
    "own-residual",
    "population-residual",
    "poco",
)


def hour() -> Split:
    """An hour of 100 coupled units whose time constant is a second, in a chaotic network, cut as usual."""
    recording = simulate(1, 100, HOUR, rate_hz=RATE, time_constant=1.0, step=0.1, seed=0, measurement_noise=0.1)
    return poco.split(recording)


def shortened(split: Split, minutes: float) -> Split:
    """The same with the last minutes of the training part only."""
    ((_, stop),) = split.segments["train"][0]
    segments = ((max(0, stop - int(60 * RATE * minutes)), stop),)
    mean, std = statistics(split.recordings[0], segments)
    return dataclasses.replace(
        split,
        mean=(mean.astype(np.float32),),
        std=(std.astype(np.float32),),
        segments={**split.segments, "train": (segments,)},
    )


def main(arguments: list[str]) -> int:
    """Fits, scores, writes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crossover", description="When a larger model pays.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=FORECASTERS, default=FORECASTERS, metavar="FORECASTER")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    whole = hour()
    for minutes in MINUTES:
        cell = Cell(shortened(whole, minutes))
        make_cells(cell, f"{minutes:02}", given.only, given.seeds, given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
