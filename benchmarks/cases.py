"""What is measured: an operation, forward or with gradients, on so many windows of so many units."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

SIZES = (128, 512, 4_096, 71_721, 1_000_000)
QUICK_SIZES = (128, 512)
SCALING_SIZES = (4_096, 16_384, 65_536, 262_144, 1_000_000)
STEP_WINDOWS, STEP_UNITS = 64, 512
FORWARD, BACKWARD, TRAINING, ADAPTATION = "forward", "forward + backward", "training step", "adaptation step"
NAMES = ("latent_pool", "film_forecast", "model", "training", "adaptation", "scaling")


@dataclass(frozen=True)
class Case:
    """One line of the plan.

    Attributes:
        part: ``latent_pool`` (population to latents), ``film_forecast`` (latents to every unit) or ``model`` (all).
        mode: FORWARD in evaluation mode; BACKWARD adds the gradients of every parameter; TRAINING adds dropout,
            clipping and the optimiser; ADAPTATION is a training step that fits the embeddings of the session alone.
        windows: windows in the batch.
        units: units in each.
        scaling: whether this is a point of the scaling table, which has our own contestants only.
    """

    part: str
    mode: str
    windows: int
    units: int
    scaling: bool = False

    @property
    def name(self) -> str:
        """What ``--only`` calls it."""
        if self.scaling:
            return "scaling"
        return {TRAINING: "training", ADAPTATION: "adaptation"}.get(self.mode, self.part)

    @property
    def title(self) -> str:
        """One line for people."""
        windows = f"{self.windows} windows of " if self.windows > 1 else ""
        return f"{self.part}, {self.mode}, {windows}{self.units:,} units"

    @property
    def gradients(self) -> bool:
        """Whether gradients are part of it."""
        return self.mode != FORWARD

    @property
    def steps(self) -> bool:
        """Whether the optimiser is part of it."""
        return self.mode in (TRAINING, ADAPTATION)


def with_takers(cases: Iterable[Case], contestants: Sequence[Any]) -> list[Case]:
    """The cases that a contestant takes part in; where that is none, it is said."""
    found = [case for case in cases if any(contestant.takes(case) for contestant in contestants)]
    if not found:
        says = "none of the contestants takes part in these cases: leave out --contestants, or ask for others"
        print(says, file=sys.stderr)
    return found


def plan(only: tuple[str, ...], sizes: tuple[int, ...], quick: bool) -> list[Case]:
    """The cases to run, by name (all where ``only`` is empty)."""
    wanted = only or tuple(name for name in NAMES if not (quick and name == "scaling"))
    cases = [
        Case(part, mode, 1, units)
        for part in ("latent_pool", "film_forecast", "model")
        if part in wanted
        for mode in (FORWARD, BACKWARD)
        for units in sizes
    ]
    windows = 4 if quick else STEP_WINDOWS
    if "training" in wanted:
        cases.append(Case("model", TRAINING, windows, STEP_UNITS))
    if "adaptation" in wanted:
        cases.append(Case("model", ADAPTATION, windows, STEP_UNITS))
    if "scaling" in wanted:
        cases += [Case("model", FORWARD, 1, units, scaling=True) for units in SCALING_SIZES]
    return cases
