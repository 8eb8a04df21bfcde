"""What the parts of a forecaster on the ground are worth: ``python -m benchmarks.accuracy DATA ... --out FOLDER``.

Beside some forecasters of the scoreboard it fits the ground's forms, other choices between them, and other networks.
Cells are those of ``poco bench-data`` (:mod:`poco.scoreboard`) and may lie in one folder with them; a run that was
stopped goes on where it was. ``--table`` prints what is there: scores, and where ``grounded`` is behind, with the
interval of the difference by block bootstrap over time.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
import json
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import poco
from benchmarks.environment import describe
from poco import scoreboard
from poco.baselines.fitted import BASELINE_STEPS
from poco.cells import recordings_of
from poco.data.read import read
from poco.data.splits import PROTOCOLS, Split
from poco.files import write_json
from poco.ground import GroundConfig
from poco.ground.gain import products
from poco.ground.grounded import Grounded, GroundedConfig
from poco.ground.job import finish, prepare
from poco.ground.model import Ground
from poco.ground.selection import FORECASTERS, choose, error_products, fit_selected, mix
from poco.intervals import interval
from poco.training import fit, recipe
from poco.training.config import BATCH_SIZE
from poco.training.recipes import complete

#: Steps of a published POCO; on the recordings its best ones lie before, on simulations of half an hour it would go on.
PUBLISHED_STEPS = 300


class Cell:
    """One data set under one protocol; what several forecasters share is made once."""

    def __init__(self, split: Split) -> None:
        self.split = split

    @functools.cached_property
    def _first(self) -> tuple[Grounded, Any]:
        return prepare(self.split, GroundedConfig(population=False), recipe("grounded")[1])

    def prepared(self, seed: int, **sizes: Any) -> tuple[Grounded, Any]:
        """The forecaster that training starts from, and the ground that it stands on."""
        settings = dataclasses.replace(recipe("grounded")[1], seed=seed)
        return prepare(self.split, GroundedConfig(**{"population": False, **sizes}), settings, like=self._first)

    def ground(self) -> Ground:
        """The ground, mixed as chosen."""
        return copy.deepcopy(self.prepared(0)[0].ground)


def grounded(cell: Cell, seed: int, cross: bool = True, **sizes: Any) -> nn.Module:
    """The forecaster on the ground, as ``poco train`` makes it; or with networks that see in-sample forecasts."""
    settings = complete("grounded", dataclasses.replace(recipe("grounded")[1], seed=seed), cell.split)
    model, fitted = cell.prepared(seed, **sizes)
    if not cross:
        model._cross, model._remembered = (), ()
    history = fit(model, cell.split, settings)
    finish(model, fitted, cell.split, settings, history.best_steps)
    return model


def mixed(cell: Cell, weights: Mapping[str, float] | None) -> nn.Module:
    """The ground with these weights of its forecasters; None: those that are best on validation alone."""
    ground = cell.ground()
    if weights is None:
        mix(ground, choose([error_products(ground, cell.split, "val")])[0])
    else:
        mix(ground, np.array([weights.get(name, 0.0) for name in FORECASTERS]))
    return ground


def few_latents(cell: Cell) -> nn.Module:
    """The ground with 8 latents, whatever is best."""
    return fit_selected(cell.split, GroundConfig(cell.split.context, cell.split.horizon, latents=8))[0].ground


#: What is not on the scoreboard, or shares the ground with others here.
FORECAST: dict[str, Callable[[Cell, int], nn.Module]] = {
    "ground": lambda cell, seed: cell.ground(),
    "level-ground": lambda cell, seed: mixed(cell, {"level ground": 1.0}),
    "centred-ground": lambda cell, seed: mixed(cell, {"centred ground": 1.0}),
    "ground-by-validation": lambda cell, seed: mixed(cell, None),
    "ground-8-latents": lambda cell, seed: few_latents(cell),
    "in-sample-residual": lambda cell, seed: grounded(cell, seed, cross=False),
    "own-residual": lambda cell, seed: grounded(cell, seed, population=False),
    "population-residual": lambda cell, seed: grounded(cell, seed, population=True),
    "grounded": lambda cell, seed: grounded(cell, seed, population=None),
}
#: The one that is compared with the others.
OURS = "grounded"
#: Those that a forecaster on the ground is measured against.
PEERS = ("ridge", "nlinear", "mlp", "poco")
NAMES = (*PEERS, *FORECAST)
#: Those that are the same for every seed.
SEEDLESS = ("ridge", "ground", "level-ground", "centred-ground", "ground-by-validation", "ground-8-latents")


def main(arguments: list[str]) -> int:
    """Fits, scores, writes; or prints what was written."""
    given = _parser().parse_args(arguments)
    warnings.simplefilter("ignore")
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    for data in () if given.table else given.data:
        for protocol in given.protocols:
            cell = Cell(poco.split(read(data), protocol=protocol))
            make_cells(cell, data.name, given.only or NAMES, given.seeds, given.out)
    if given.table:
        report = summary(given.out)
        if not report["cells"]:
            print(f"there are no scores in {given.out}: fit forecasters first, without --table", file=sys.stderr)
            return 2
        print(table(report))
        if given.json:
            whole = {"environment": describe("", {}), **report}
            given.json.write_text(json.dumps(whole, indent=1) + "\n")
            given.json.with_suffix(".txt").write_text(table(report) + "\n")
    return 0


def make_cells(cell: Cell, data: str, names: Sequence[str], seeds: int, out: Path) -> None:
    """Fit and score what is not in the folder yet."""
    of = recordings_of(cell.split.recordings)
    for seed in range(seeds):
        for name in names:
            file = scoreboard.file_of(out, data, cell.split.protocol, seed, name)
            steps = PUBLISHED_STEPS if name == "poco" else BASELINE_STEPS
            if (seed > 0 and name in SEEDLESS) or scoreboard.is_made(file, steps, BATCH_SIZE, of):
                continue
            began = time.process_time()
            made_with: dict[str, Any] = {}
            if name in FORECAST:
                model = FORECAST[name](cell, seed)
            else:
                model = scoreboard.fit(name, cell.split, seed, steps)
                made_with = {} if name in SEEDLESS else {"steps": steps, "batch": BATCH_SIZE}
            seconds = time.process_time() - began
            found = scoreboard.score_cell(model, cell.split, data, name, seed, seconds, **made_with)
            if isinstance(model, Grounded):
                found |= _of_networks(model, cell.split)
            write_json(file, found)
            print(file.name, f"{found['score']:.4f}", flush=True)


def _of_networks(model: Grounded, split: Split) -> dict[str, Any]:
    """What was chosen and why, and the test score of the ground alone and of each network."""
    alone = (1 - np.diag(products(model, split, "test", list(model.networks)))).tolist()
    return {
        "chosen": {key: model.metadata[key] for key in ("ground", "networks")},
        "alone": dict(zip(("ground", *model.networks), alone, strict=True)),
    }


def load(folder: Path) -> dict[tuple[str, str], dict[str, dict[int, dict[str, Any]]]]:
    """What was written: by data set and protocol, then forecaster, then seed."""
    found: dict[tuple[str, str], dict[str, dict[int, dict[str, Any]]]] = {}
    for cell in scoreboard.load(folder):
        if cell["forecaster"] in NAMES:
            row = found.setdefault((cell["data"], cell["protocol"]), {})
            row.setdefault(cell["forecaster"], {})[cell["seed"]] = cell
    return found


def summary(folder: Path) -> dict[str, Any]:
    """What the cells say, without the errors of single windows: scores, and how far "grounded" is ahead, by seed."""
    found = []
    for (data, protocol), row in load(folder).items():
        entry: dict[str, Any] = {"data": data, "protocol": protocol, "forecasters": {}}
        for name, cells in row.items():
            entry["forecasters"][name] = {
                "scores": [cells[seed]["score"] for seed in sorted(cells)],
                "intervals": [cells[seed]["interval"] for seed in sorted(cells)],
                "seconds": [cells[seed]["seconds"] for seed in sorted(cells)],
                "ahead": [ahead(row[OURS], cells, seed) for seed in sorted(row.get(OURS, ()))] if name != OURS else [],
            }
        for key in ("chosen", "alone"):
            entry[key] = next((cell.get(key) for cell in row.get(OURS, {}).values()), None)
        found.append(entry)
    return {"cells": found}


def ahead(ours: Mapping[int, Mapping[str, Any]], theirs: Mapping[int, Mapping[str, Any]], seed: int) -> list[Any]:
    """Difference of the scores with the same seed, and its interval from the same resampled windows for both."""
    one, other = ours[seed], theirs.get(seed, theirs[min(theirs)])
    resampled = scoreboard.resampled([one, other])
    return [one["score"] - other["score"], interval(resampled[0] - resampled[1])]


def table(report: Mapping[str, Any]) -> str:
    """Scores of all forecasters, mean over seeds, a row for each data set and protocol; then who is ahead of whom."""
    names = [name for name in NAMES if any(name in entry["forecasters"] for entry in report["cells"])]
    width = max(len(f"{entry['data']}, {entry['protocol']}") for entry in report["cells"])
    lines = [f"{'score, mean over seeds':{width}}  " + "  ".join(f"{name:>{max(9, len(name))}}" for name in names)]
    behind = []
    for entry in sorted(report["cells"], key=lambda e: (e["protocol"], e["data"])):
        of, where = entry["forecasters"], f"{entry['data']}, {entry['protocol']}"
        means = {name: float(np.mean(of[name]["scores"])) for name in names if name in of}
        shown = (f"{means[n]:.4f}" if n in means else "-" for n in names)
        lines.append(
            f"{where:{width}}  " + "  ".join(f"{s:>{max(9, len(n))}}" for n, s in zip(names, shown, strict=True))
        )
        for peer in PEERS:
            for seed, (difference, bounds) in enumerate(of[peer]["ahead"] if peer in of else ()):
                if difference < 0:
                    tie = bounds is not None and bounds[1] >= 0
                    told = "" if bounds is None else f" [{bounds[0]:+.4f}, {bounds[1]:+.4f}]"
                    behind.append(f"{where}, seed {seed}: {peer} {difference:+.4f}{told}{', a tie' if tie else ''}")
    lines += ["", f"{OURS} behind a simpler one or the published POCO:", *(behind or ["nowhere"]), ""]
    for protocol in sorted({entry["protocol"] for entry in report["cells"]}):
        ratios = []
        for entry in report["cells"]:
            of = entry["forecasters"]
            if entry["protocol"] == protocol and OURS in of:
                best = max(float(np.mean(of[peer]["scores"])) for peer in PEERS if peer in of)
                ratios.append(float(np.mean(of[OURS]["scores"])) / best)
        if ratios:
            lines.append(f"{protocol}: {OURS} / best of the others, mean over data sets: {np.mean(ratios):.3f}")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description="How well forecasters do.")
    parser.add_argument("data", type=Path, nargs="*", help="folders of recordings, one a data set")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--protocols", nargs="+", choices=PROTOCOLS, default=list(PROTOCOLS))
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="FORECASTER", help=", ".join(NAMES))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="print what is in the folder")
    parser.add_argument("--json", type=Path, help="with --table: write it here, and as text beside it")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
