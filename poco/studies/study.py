"""Studies: run cell by cell, each cell a file that is not made twice."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from poco import cells as cells_of
from poco.data.recording import Recording, warnings_of
from poco.errors import ConfigError
from poco.studies import plan, zapbench
from poco.studies.definition import Study
from poco.studies.make import bases, begins, is_trained, make, train_base
from poco.studies.processes import in_processes
from poco.training.loop import DivergedError

SEEDS = 3
#: Sizes of a study made small, to see that it runs: of its simulation, and of the rest.
REDUCED = {"animals": 2, "units": 8, "frames": 400}
REDUCED_STEPS = 3
_NUMBER = re.compile(r"([0-9]+)")


def run(
    study: Study,
    out: Path,
    recordings: Sequence[Recording] = (),
    *,
    protocol: str | None = None,
    seeds: int | None = None,
    steps: int | None = None,
    batch: int | None = None,
    simulation: Mapping[str, Any] | None = None,
    label: str | None = None,
    reduced: bool = False,
    processes: int = 1,
    threads: int | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Make the cells of a study that are not in ``out`` yet; returns all of them.

    Args:
        study: the experiment.
        out: folder of the cells.
        recordings: what it runs on; a study of simulated recordings takes none.
        protocol: ``"published"``, the default, or ``"leak-free"``; that of ZAPBench is its own.
        seeds: how many, 0, 1, ...; default 3; a simulation has other animals for each.
        steps: gradient steps of each model; default the study's.
        batch: windows of each step; default as published.
        simulation: sizes that replace those of the study's simulation.
        label: of the units, for a POCO that embeds it; default the only one there is.
        reduced: two values and, where not given otherwise, one seed, very few steps and a very small simulation: to
            see that the study runs.
        processes: cells made at a time.
        threads: of torch in each of several processes; default their share of the processors.
        report: called with a line for each cell.

    Raises:
        ConfigError: if it needs recordings and none are given or too short ones, its values, the windows of a step,
            sizes of a simulation, recordings, a protocol or a label are not its to choose, a device to train on is not
            here, or cells in ``out``, or models beside them, were made of other recordings or with other settings.
        DataError: if a recording cannot be used, or one, a simulated one too, has no window in one of its parts.
        DivergedError: when all the others are made, if training losses were no longer finite; names those cells.
        PocoError: if one of several processes is killed.
    """
    seeds = (1 if reduced else SEEDS) if seeds is None else seeds
    cells_of.at_least_one(steps=steps, batch=batch, seeds=seeds)
    if batch is not None and (study.form or study.base_steps):
        raise ConfigError(f"the study '{study.name}' has steps of its own: leave out batch (--batch)")
    if study.simulate is not None:
        if recordings:
            raise ConfigError(
                f"the study '{study.name}' simulates its recordings: leave out recordings (recordings, --data)"
            )
        sizes = {**study.simulate, **(REDUCED if reduced else {}), **(simulation or {})}
        study = dataclasses.replace(study, simulate=sizes)
    elif simulation:
        raise ConfigError(f"the study '{study.name}' simulates nothing: leave out simulation (--simulation)")
    elif not recordings:
        raise ConfigError(f"the study '{study.name}' needs recordings: give some (recordings, --data)")
    if study.form == zapbench.PROTOCOL:
        if protocol is not None:
            raise ConfigError(f"the study '{study.name}' has a protocol of its own: leave out protocol (--protocol)")
        protocol = zapbench.PROTOCOL
    protocol = protocol or "published"
    study = plan.on_recordings(study, recordings, label, report)
    if reduced:
        base_steps = None if study.base_steps is None else REDUCED_STEPS
        values = study.values[:2]
        if least := REDUCED.get(study.vary.removeprefix("simulate.")):  # a size of the simulation is varied
            values = tuple(min(value, least * times) for times, value in enumerate(values, start=1))
        frames = study.frames
        if study.simulate is not None:
            frames = tuple(number and min(number, REDUCED["frames"] // 2) for number in frames)
        study = dataclasses.replace(study, values=values, base_steps=base_steps, frames=frames)
    study = plan.long_enough(study, recordings, protocol, report)
    plan.check_cells(study, recordings, protocol)
    if steps is None:
        steps = REDUCED_STEPS if reduced else study.steps if study.epochs is None else None
    for warning in warnings_of(recordings):
        report(f"warning: {warning}")
    out.mkdir(parents=True, exist_ok=True)
    others = {cell["study"] for cell in cells(out)} - {study.name}
    if others:
        raise ConfigError(f"{out} has cells of the study '{min(others)}': give each study a folder of its own")
    every = list(
        plan.jobs(study, out, recordings, protocol=protocol, seeds=seeds, steps=steps, batch=batch, label=label)
    )
    for job in every:
        if job.file.exists():
            cells_of.check(job.file, cells_of.read_one(job.file), job.cell)
    left = [job for job in every if not job.file.exists()]
    if study.vary == "sessions" and left:
        names = ", ".join(recording.session for recording in recordings[: min(study.values)])
        report(f"{study.name}: scores are of {names or 'the first'}, which all values learn from")
    untrained = [job for job in bases(left) if not is_trained(job)]
    with in_processes(processes, threads) as each:
        told = _told(each(train_base, untrained), report)  # all before any cell: a pool takes all it is given at once
        told += _told(each(make, [job for job in left if begins(job)]), report)
    if told:
        raise DivergedError(cells_of.of_several(told))
    return [cell for cell in cells(out) if cell["study"] == study.name]


def _told(each: Iterable[str | DivergedError], report: Callable[[str], None]) -> list[DivergedError]:
    """Report what is made as it comes; returns what could not be."""
    diverged = []
    for made in each:
        report(str(made))
        if isinstance(made, DivergedError):
            diverged.append(made)
    return diverged


def cells(out: Path) -> list[dict[str, Any]]:
    """All cells of a folder, of any study, in the order of its values, and of their files where these are the same.

    Numbers in texts count as numbers: "context 4" is before "context 256".
    """
    return sorted(cells_of.read(out, 5).values(), key=_place)


def _place(cell: Mapping[str, Any]) -> tuple[str, float, list[str | int]]:
    value = cell["value"]
    if isinstance(value, int | float):
        return str(cell["study"]), value, []
    return str(cell["study"]), 0.0, [int(part) if part.isdecimal() else part for part in _NUMBER.split(str(value))]


def write_csv(cells: Sequence[Mapping[str, Any]], path: Path) -> None:
    """One tidy table, a row for each cell; ``low`` and ``high`` are the ends of its interval over time."""
    which = ("study", "value", "training", "forecaster", "frames", "source", "seed")
    columns = (*which, "score", "low", "high", "blocks", "seconds", "steps", "batch", "protocol")
    cells_of.write_csv(cells_of.with_ends(cells), columns, path)


def plot(cells: Sequence[Mapping[str, Any]], path: Path, *, per_step: bool = False) -> None:
    """Draw the scores of one study, or those of each step ahead, into an image.

    Raises:
        ConfigError: for results of several studies, or a kind of image that is not known.
        DataError: for scores of each step, if there are none.
        MissingExtraError: if matplotlib is missing.
    """
    from poco.plots.figures import save
    from poco.plots.studies import steps_figure, study_figure

    save((steps_figure if per_step else study_figure)(cells), path)
