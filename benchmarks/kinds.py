"""Forecasters on simulated recordings of many kinds: ``python -m benchmarks.kinds --out FOLDER``.

Real recordings are few, and were looked at while the forecaster on the ground was made. These were not: activity that
is linear and that is not, that drifts, jumps, fades and repeats itself, of three units and of a hundred. Cells are
those of :mod:`benchmarks.accuracy`, whose ``--table`` prints what is there.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

import poco
from benchmarks.accuracy import NAMES, Cell, make_cells
from poco.data.splits import PROTOCOLS

FORECASTERS = ("ridge", "nlinear", "mlp", "ground", "grounded")


def faded(kicks: np.ndarray, frames: float) -> np.ndarray:
    """Each kick ``[N, T]`` leaves a trace that falls to a third in about so many frames."""
    left, trace, traces = np.exp(-1 / frames), np.zeros(len(kicks)), np.empty_like(kicks)
    for frame in range(kicks.shape[1]):
        trace = left * trace + kicks[:, frame]
        traces[:, frame] = trace
    return traces


def slow(rng: np.random.Generator, units: int, frames: int, time: float) -> np.ndarray:
    """Processes of variance 1 that forget in about ``time`` frames, each for itself."""
    kept = np.exp(-1 / time)
    return faded(rng.standard_normal((units, frames)) * np.sqrt(1 - kept * kept), time)


def network(rng: np.random.Generator, units: int, frames: int, gain: float = 1.8) -> np.ndarray:
    """A chaotic network of random couplings."""
    couplings = rng.standard_normal((units, units)) * gain / np.sqrt(units)
    state, states = rng.standard_normal(units), np.empty((units, frames))
    for frame in range(-200, frames):
        state = state + (couplings @ np.tanh(state) - state) / 4.0 + 0.05 * rng.standard_normal(units)
        if frame >= 0:
            states[:, frame] = state
    return states


def noise(rng: np.random.Generator, units: int, frames: int) -> np.ndarray:
    """Nothing that could be forecast."""
    return rng.standard_normal((units, frames))


def wandering(rng: np.random.Generator, units: int = 60, frames: int = 1500) -> np.ndarray:
    """Units whose level is a random walk."""
    return 0.05 * np.cumsum(noise(rng, units, frames), 1) + 0.3 * slow(rng, units, frames, 3)


def trials(rng: np.random.Generator, units: int = 70, repeats: int = 24) -> np.ndarray:
    """A sequence of units that comes again every 100 frames, more or less strongly."""
    phase = np.arange(100 * repeats) % 100
    sequence = np.exp(-((phase - rng.uniform(0, 100, (units, 1))) ** 2) / 50)
    strength = 1 + 0.5 * rng.standard_normal((1, repeats)).repeat(100, 1)
    return sequence * strength * rng.gamma(2, 1, (units, 1)) + 0.3 * noise(rng, units, 100 * repeats)


def oscillators(rng: np.random.Generator, units: int = 50, frames: int = 2000) -> np.ndarray:
    """Oscillators with frequencies of their own, whose phases wander."""
    frequency = rng.uniform(0.005, 0.05, (units, 1))
    phase = 2 * np.pi * frequency * np.arange(frames) + 0.05 * np.cumsum(noise(rng, units, frames), 1)
    return np.sin(phase) + 0.2 * noise(rng, units, frames)


def lorenz(rng: np.random.Generator, units: int = 100, frames: int = 3000) -> np.ndarray:
    """Random views of the three variables of a Lorenz system."""
    state, states = np.array([1.0, 1.0, 20.0]), np.empty((3, frames))
    for frame in range(frames):
        for _ in range(4):
            x, y, z = state
            state = state + 0.01 * np.array([10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z])
        states[:, frame] = state
    states = (states - states.mean(1, keepdims=True)) / states.std(1, keepdims=True)
    return rng.standard_normal((units, 3)) @ states + 0.5 * noise(rng, units, frames)


def switching(rng: np.random.Generator, units: int = 90, stays: int = 60) -> np.ndarray:
    """Linear dynamics of six variables that change to another of three every 40 frames."""
    which = np.repeat(rng.integers(0, 3, stays), 40)
    states, state = np.empty((6, len(which))), np.zeros(6)
    dynamics = [np.linalg.qr(rng.standard_normal((6, 6)))[0] * 0.97 for _ in range(3)]
    for frame, one in enumerate(which):
        state = dynamics[one] @ state + 0.3 * rng.standard_normal(6)
        states[:, frame] = state
    return rng.standard_normal((units, 6)) @ states + 0.5 * noise(rng, units, len(which))


def events(rng: np.random.Generator, units: int = 120, frames: int = 3000) -> np.ndarray:
    """Rare transients of single units, and of six groups of them."""
    own = (rng.random((units, frames)) < 0.01) * rng.gamma(2, 1, (units, frames))
    groups = 2.0 * (rng.random((6, frames)) < 0.01)
    return faded(own + groups[rng.integers(0, 6, units)], 8) + 0.1 * noise(rng, units, frames)


def jumps(rng: np.random.Generator, units: int = 60, frames: int = 1800) -> np.ndarray:
    """Units whose level jumps a few times."""
    steps = (rng.random((units, frames)) < 0.003) * noise(rng, units, frames) * 2
    return np.cumsum(steps, 1) + 0.5 * slow(rng, units, frames, 6)


def bleaching(rng: np.random.Generator, units: int = 60, frames: int = 1800) -> np.ndarray:
    """Units that fade away."""
    fading = 5 * np.exp(-np.arange(frames) / rng.uniform(300, 1500, (units, 1)))
    return fading + 0.5 * slow(rng, units, frames, 10) + 0.2 * noise(rng, units, frames)


def wave(rng: np.random.Generator, units: int = 40, frames: int = 4000) -> np.ndarray:
    """What the first unit does comes to each unit two frames later than to the one before it."""
    first = slow(rng, 1, frames, 6)[0]
    return np.stack([np.roll(first, 2 * unit) for unit in range(units)]) + 0.5 * noise(rng, units, frames)


def outliers(rng: np.random.Generator, units: int = 60, frames: int = 2000) -> np.ndarray:
    """Slow units of very different strength, and single frames far off."""
    strength = np.exp(1.5 * rng.standard_normal((units, 1)))
    off = (rng.random((units, frames)) < 0.001) * 30 * noise(rng, units, frames)
    return strength * slow(rng, units, frames, 10) + off + 0.2 * noise(rng, units, frames)


def swelling(rng: np.random.Generator, units: int = 60, frames: int = 2400) -> np.ndarray:
    """A few latents whose strength is a random walk."""
    strength = np.exp(0.03 * np.cumsum(rng.standard_normal((1, frames)), 1))
    latents = rng.standard_normal((units, 4)) @ slow(rng, 4, frames, 15)
    return strength * latents + 0.3 * noise(rng, units, frames)


def _noisy(kind: np.ndarray, rng: np.random.Generator, share: float) -> np.ndarray:
    return kind + share * noise(rng, *kind.shape)


#: By name: the activity ``[N, T]`` of each session. One generator is drawn from, kind after kind.
KINDS: Mapping[str, Callable[[np.random.Generator], list[np.ndarray]]] = {
    "linear": lambda rng: [_noisy(slow(rng, 80, 2000, 12), rng, 0.3)],
    "wandering": lambda rng: [wandering(rng)],
    "trials": lambda rng: [trials(rng)],
    "oscillators": lambda rng: [oscillators(rng)],
    "lorenz": lambda rng: [lorenz(rng)],
    "switching": lambda rng: [switching(rng)],
    "events": lambda rng: [events(rng)],
    "jumps": lambda rng: [jumps(rng)],
    "bleaching": lambda rng: [bleaching(rng)],
    "network": lambda rng: [_noisy(network(rng, 100, 2000), rng, 0.2)],
    "short": lambda rng: [_noisy(slow(rng, 20, 520, 8), rng, 0.3)],
    "wave": lambda rng: [wave(rng)],
    "outliers": lambda rng: [outliers(rng)],
    "swelling": lambda rng: [swelling(rng)],
    "three-sessions": lambda rng: [_noisy(network(rng, units, 900), rng, 0.3) for units in (40, 75, 110)],
    "ten-units-long": lambda rng: [_noisy(network(rng, 10, 9000, gain=2.2), rng, 0.1)],
    "three-units": lambda rng: [_noisy(slow(rng, 3, 800, 5), rng, 0.2)],
    "noise": lambda rng: [noise(rng, 50, 1500)],
}


def recordings(seed: int) -> Iterator[tuple[str, list[poco.Recording]]]:
    """The recordings of each kind that a seed gives."""
    rng = np.random.default_rng(seed)
    for kind, make in KINDS.items():
        sessions = enumerate(make(rng))
        yield kind, [poco.Recording(activity.astype(np.float32), session=f"s{i}") for i, activity in sessions]


def main(arguments: list[str]) -> int:
    """Fits, scores, writes."""
    given = _parser().parse_args(arguments)
    warnings.simplefilter("ignore")
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    for kind, made in recordings(given.seed):
        if given.only and kind not in given.only:
            continue
        for protocol in given.protocols:
            make_cells(Cell(poco.split(made, protocol=protocol)), kind, given.forecasters, 1, given.out)
    print(f"python -m benchmarks.accuracy --table --out {given.out} prints the scores")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kinds", description="Simulated recordings.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--seed", type=int, default=100, help="of the recordings")
    parser.add_argument("--only", nargs="+", choices=KINDS, metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--protocols", nargs="+", choices=PROTOCOLS, default=list(PROTOCOLS))
    parser.add_argument("--forecasters", nargs="+", choices=NAMES, default=list(FORECASTERS))
    parser.add_argument("--threads", type=int, default=1)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
