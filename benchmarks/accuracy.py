"""How well forecasters do on recordings: ``python -m benchmarks.accuracy DATA ... --out FOLDER``.

Every forecaster is scored on the same windows of the test part, with intervals by block bootstrap over time, in both
protocols and from several seeds. A cell (data set, protocol, seed, forecaster) is a file in the folder as soon as it is
done; a run that was stopped goes on where it was. ``--table`` prints what is there.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import poco
from poco.data.read import read
from poco.data.splits import PROTOCOLS, Split
from poco.evaluation import fit_baseline, score_forecasters
from poco.ground import GroundConfig
from poco.ground.grounded import Grounded, GroundedConfig
from poco.ground.job import finish, prepare
from poco.ground.model import Ground
from poco.ground.selection import FORECASTERS, choose, error_products, fit_selected, mix
from poco.training import fit, recipe
from poco.training.recipes import steps as usual_steps

#: Steps of a published POCO; on recordings of this length its best ones lie well before.
PUBLISHED_STEPS = 300


class Cell:
    """One data set under one protocol; what several forecasters share is made once."""

    def __init__(self, split: Split) -> None:
        self.split = split
        self._made: dict[tuple[str, int], Any] = {}

    def once(self, name: str, make: Callable[[], Any], seed: int = 0) -> Any:
        """What ``make`` returned the first time."""
        if (name, seed) not in self._made:
            self._made[name, seed] = make()
        return self._made[name, seed]

    def prepared(self, seed: int, **sizes: Any) -> tuple[Grounded, Any]:
        """The forecaster that training starts from, and the ground that it stands on."""
        first = self.once(
            "prepared", lambda: prepare(self.split, GroundedConfig(population=False), recipe("grounded")[1])
        )
        settings = dataclasses.replace(recipe("grounded")[1], seed=seed)
        return prepare(self.split, GroundedConfig(**{"population": False, **sizes}), settings, like=first)

    def ground(self) -> Ground:
        """The ground, mixed as chosen."""
        return copy.deepcopy(self.prepared(0)[0].ground)


def grounded(cell: Cell, seed: int, cross: bool = True, **sizes: Any) -> nn.Module:
    """The forecaster on the ground, as ``poco train`` makes it; or with residuals that see in-sample forecasts."""
    _, settings = recipe("grounded")
    settings = dataclasses.replace(settings, seed=seed, steps=usual_steps("grounded", cell.split))
    model, fitted = cell.prepared(seed, **sizes)
    if not cross:
        model._cross, model._remembered = (), ()
    history = fit(model, cell.split, settings)
    finish(model, fitted, cell.split, settings, history.best_step)
    return model


def published(cell: Cell, seed: int) -> nn.Module:
    """A published POCO, its best weights by validation every 20 steps."""
    sizes, settings = recipe("published")
    settings = dataclasses.replace(settings, seed=seed, steps=PUBLISHED_STEPS, val_every=20)
    run = poco.train(
        cell.split.recordings, model_config=sizes, train_config=settings, protocol=cell.split.protocol, progress=False
    )
    return run.model


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


FORECAST: dict[str, Callable[[Cell, int], nn.Module]] = {
    "ridge": lambda cell, seed: fit_baseline("ridge", cell.split, seed=seed),
    "nlinear": lambda cell, seed: fit_baseline("nlinear", cell.split, seed=seed),
    "mlp": lambda cell, seed: fit_baseline("mlp", cell.split, seed=seed),
    "published POCO": published,
    "ground": lambda cell, seed: cell.ground(),
    "level ground": lambda cell, seed: mixed(cell, {"level ground": 1.0}),
    "centred ground": lambda cell, seed: mixed(cell, {"centred ground": 1.0}),
    "ground by validation": lambda cell, seed: mixed(cell, None),
    "ground, 8 latents": lambda cell, seed: few_latents(cell),
    "in-sample residual": lambda cell, seed: grounded(cell, seed, cross=False),
    "own residual": lambda cell, seed: grounded(cell, seed, population=False),
    "population residual": lambda cell, seed: grounded(cell, seed, population=True),
    "grounded": lambda cell, seed: grounded(cell, seed, population=None),
}
#: Those that are the same for every seed.
SEEDLESS = ("ridge", "ground", "level ground", "centred ground", "ground by validation", "ground, 8 latents")
#: Those that a forecaster on the ground is measured against.
PEERS = ("ridge", "nlinear", "mlp", "published POCO")


def main(arguments: list[str]) -> int:
    """Fits, scores, writes; or prints what was written."""
    given = _parser().parse_args(arguments)
    warnings.simplefilter("ignore")
    torch.set_num_threads(given.threads)
    given.out.mkdir(parents=True, exist_ok=True)
    for data in () if given.table else given.data:
        for protocol in given.protocols:
            cell = Cell(poco.split(read(data), protocol=protocol))
            for seed in range(given.seeds):
                for name in given.only or FORECAST:
                    file = given.out / f"{data.name}--{protocol}--{seed}--{name.replace(' ', '_')}.json"
                    if not file.exists() and (seed == 0 or name not in SEEDLESS):
                        file.write_text(json.dumps(_cell(cell, name, seed)) + "\n")
                        print(file.name, f"{json.loads(file.read_text())['score']:.4f}", flush=True)
    if given.table:
        print(_table(given.out))
    return 0


def _cell(cell: Cell, name: str, seed: int) -> dict[str, Any]:
    """Score, errors of each window, and the processor's seconds that the fit took."""
    began = time.process_time()
    model = FORECAST[name](cell, seed)
    seconds = time.process_time() - began
    scores = score_forecasters({name: model}, cell.split)[name]
    assert scores.window_error is not None
    assert scores.copy_window_error is not None
    return {
        "score": scores.score,
        "interval": scores.interval,
        "sessions": {entry.session: [entry.score, entry.windows] for entry in scores.sessions},
        "seconds": round(seconds, 2),
        "window_error": [float(f"{e:.6g}") for e in scores.window_error],
        "copy_window_error": [float(f"{e:.6g}") for e in scores.copy_window_error],
        "chosen": {key: model.metadata[key] for key in ("ground", "residual")} if isinstance(model, Grounded) else None,
    }


def load(folder: Path) -> dict[tuple[str, str], dict[str, dict[int, dict[str, Any]]]]:
    """What was written: by data set and protocol, then forecaster, then seed."""
    found: dict[tuple[str, str], dict[str, dict[int, dict[str, Any]]]] = {}
    for file in sorted(folder.glob("*--*--*--*.json")):
        data, protocol, seed, name = file.stem.split("--")
        cells = found.setdefault((data, protocol), {})
        cells.setdefault(name.replace("_", " "), {})[int(seed)] = json.loads(file.read_text())
    return found


def mean_score(cells: Mapping[int, Mapping[str, Any]]) -> float:
    """Mean over seeds."""
    return float(np.mean([cell["score"] for cell in cells.values()]))


def _table(folder: Path) -> str:
    """Scores of all forecasters, mean over seeds, a row for each data set and protocol."""
    found = load(folder)
    names = [name for name in FORECAST if any(name in row for row in found.values())]
    lines = [" | ".join(["data set, protocol", *names])]
    for (data, protocol), row in sorted(found.items(), key=lambda item: item[0][::-1]):
        scores = [f"{mean_score(row[n]):.4f} ({len(row[n])})" if n in row else "-" for n in names]
        lines.append(" | ".join([f"{data}, {protocol}", *scores]))
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description="How well forecasters do.")
    parser.add_argument("data", type=Path, nargs="*", help="folders of recordings, one a data set")
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--protocols", nargs="+", choices=PROTOCOLS, default=list(PROTOCOLS))
    parser.add_argument("--only", nargs="+", choices=list(FORECAST), metavar="FORECASTER", help=", ".join(FORECAST))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="print what is in the folder")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
