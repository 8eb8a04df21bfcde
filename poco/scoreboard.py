"""The scoreboard: every forecaster on every data set of a folder, in both protocols and from several seeds.

A cell (data set, protocol, seed, forecaster) is a JSON file in the output folder as soon as it is done, so a run that
was stopped goes on where it was. Every cell is scored on the test part, at every frame.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from poco import baselines
from poco.data.splits import PROTOCOLS, Split, split
from poco.errors import ConfigError, DataError
from poco.evaluation import BASELINE_PATIENCE, BASELINE_STEPS, fit_baseline, score_forecasters
from poco.files import write_json
from poco.intervals import block_length, interval, resampled_scores
from poco.training.config import BATCH_SIZE, TrainConfig
from poco.training.recipes import complete, recipe
from poco.training.trainer import Trainer

#: Forecasters in the order in which cells are made: cheap ones first.
FORECASTERS = (
    *("copy", "mean", "ridge", "unit-ridge", "nlinear", "dlinear", "pai-filter", "tex-filter", "ground", "grounded"),
    *("tsmixer", "mlp", "plrnn", "netformer", "uico", "poyo", "poco", "taco", "modern-tcn", "patchtst", "mlp-large"),
    "ar-transformer",
)
#: Those whose score is the same from every seed.
SEEDLESS = ("copy", "mean", *baselines.FITTED)
#: Two-sided 95% quantiles of Student's t for 1, 2, ... degrees of freedom.
_T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def fit(
    name: str,
    data: Split,
    seed: int,
    steps: int = BASELINE_STEPS,
    batch: int = BATCH_SIZE,
) -> nn.Module:
    """A forecaster of :data:`FORECASTERS`, fitted: at most so many gradient steps, each of so many windows.

    ``grounded`` has the steps and windows of its recipe.
    """
    if name not in ("poco", "grounded"):
        config = TrainConfig(steps=steps, batch_size=batch, patience=BASELINE_PATIENCE, seed=seed)
        return fit_baseline(name, data, config=config)
    kind = "published" if name == "poco" else name
    sizes, settings = recipe(kind)
    settings = dataclasses.replace(settings, seed=seed)
    if name == "poco":
        settings = dataclasses.replace(settings, steps=steps, batch_size=batch, val_every=min(20, steps))
    return Trainer(data, sizes).train(complete(kind, settings, data))[0]


def run(
    folders: Sequence[Path],
    out: Path,
    *,
    forecasters: Sequence[str] = FORECASTERS,
    protocols: Sequence[str] = PROTOCOLS,
    seeds: int = 3,
    steps: int = BASELINE_STEPS,
    batch: int = BATCH_SIZE,
    published: Sequence[str] = (),
    report: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Fit and score what is not in ``out`` yet; returns all cells that are there.

    Args:
        folders: data sets, each what :func:`poco.read` reads.
        out: folder of the cells.
        forecasters: names out of :data:`FORECASTERS`, in the order in which they are to run.
        protocols: names out of :data:`poco.data.splits.PROTOCOLS`.
        seeds: seeds 0, 1, ... of those that are trained.
        steps: most gradient steps of each.
        batch: windows of each step.
        published: names of folders with the files of the published data set of that name.
        report: called with a line for each cell.

    Raises:
        ConfigError: for an unknown name, or steps or windows other than those of the cells that are there.
    """
    unknown = [name for name in forecasters if name not in FORECASTERS]
    if unknown:
        raise ConfigError(f"there is no forecaster '{unknown[0]}': choose from {', '.join(FORECASTERS)}")
    out.mkdir(parents=True, exist_ok=True)

    @functools.cache
    def prepared(folder: Path, protocol: str) -> Split:
        from poco.data.read import read

        recordings = read(folder, published=folder.name if folder.name in published else None)
        return split(recordings, protocol=protocol)

    for name, folder, protocol, seed in _cells(forecasters, folders, protocols, seeds):
        file = file_of(out, folder.name, protocol, seed, name)
        if is_made(file, steps, batch):
            continue
        try:
            data = prepared(folder, protocol)
        except DataError as error:
            report(f"{folder.name}, {protocol}: left out, {error}")
            continue
        began = time.process_time()
        model = fit(name, data, seed, steps, batch)
        seconds = time.process_time() - began
        trained = name not in (*SEEDLESS, "grounded")
        made_with = {"steps": steps, "batch": batch} if trained else {}
        cell = score_cell(model, data, folder.name, name, seed, seconds, **made_with)
        write_json(file, cell)
        report(f"{folder.name}, {protocol}, {name}, seed {seed}: {cell['score']:.4f} in {seconds:.1f} s")
    return load(out)


def file_of(out: Path, data: str, protocol: str, seed: int, forecaster: str) -> Path:
    """The file of a cell."""
    return out / f"{data}--{protocol}--{seed}--{forecaster}.json"


def is_made(file: Path, steps: int, batch: int) -> bool:
    """Whether a cell is there; a ConfigError if it was made with other steps or windows."""
    if not file.exists():
        return False
    cell = _read(file)
    for what, now in {"steps": steps, "batch": batch}.items():
        if (before := cell[what]) not in (None, now):
            raise ConfigError(f"{file} was made with {what} {before}, now {now}: take another folder for --out")
    return True


def score_cell(
    model: nn.Module,
    split: Split,
    data: str,
    forecaster: str,
    seed: int,
    seconds: float,
    *,
    steps: int | None = None,
    batch: int | None = None,
) -> dict[str, Any]:
    """A cell: the scores of a fitted forecaster on the test part.

    Args:
        model: the forecaster.
        split: recordings and parts.
        data: name of the data set.
        forecaster: its name.
        seed: its seed.
        seconds: what fitting it took.
        steps: most gradient steps it was given; None if it has none or its own.
        batch: windows of each step; None like these.

    Returns:
        What it is of and was made with; ``score``, its 95% ``interval`` by block bootstrap over time (None where there
        is none), ``score_per_step``; of each session the score and the number of windows; the squared errors of each
        window, which intervals of differences are made of; ``seconds`` and ``parameters``.
    """
    scores = score_forecasters({forecaster: model}, split)[forecaster]
    assert scores.window_error is not None
    assert scores.copy_window_error is not None
    cell = {
        "data": data,
        "protocol": split.protocol,
        "forecaster": forecaster,
        "seed": seed,
        "score": scores.score,
        "score_per_step": list(scores.score_per_step),
        "sessions": {one.session: [one.score, one.windows] for one in scores.sessions},
        "window_error": [float(f"{error:.6g}") for error in scores.window_error],
        "copy_window_error": [float(f"{error:.6g}") for error in scores.copy_window_error],
        "block": block_length(split.context, split.horizon),
        "seconds": round(seconds, 2),
        "parameters": sum(p.numel() for p in (*model.parameters(), *_weights(model))),
        "steps": steps,
        "batch": batch,
    }
    return {**cell, "interval": interval(resampled([cell])[0], most=1.0)}


def resampled(cells: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Scores ``[F, R]`` of cells of the same data, each on the same resampled windows."""
    windows = [count for _, count in cells[0]["sessions"].values()]
    errors = np.array([cell["window_error"] for cell in cells])
    return resampled_scores(errors, np.array(cells[0]["copy_window_error"]), windows, cells[0]["block"])


def load(out: Path) -> list[dict[str, Any]]:
    """All cells of a folder; a ConfigError names one that another version wrote."""
    return [_read(file) for file in sorted(out.glob("*--*--*--*.json"))]


def _read(file: Path) -> dict[str, Any]:
    cell: dict[str, Any] = json.loads(file.read_text())
    if "block" not in cell:
        raise ConfigError(f"{file} is a cell of an earlier version: take another folder for --out")
    return cell


def mean_interval(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean of the seeds and half the width of its 95% t-interval; None for a single seed."""
    count, mean = len(values), math.fsum(values) / len(values)
    if count == 1:
        return mean, None
    deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (count - 1))
    return mean, _t95(count - 1) * deviation / math.sqrt(count)


def _t95(freedom: int) -> float:
    """The two-sided 95% quantile of Student's t; from 10 degrees of freedom on by Fisher's expansion (within .001)."""
    if freedom <= len(_T95):
        return _T95[freedom - 1]
    z = 1.959964
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def write_csv(cells: Sequence[dict[str, Any]], path: Path) -> None:
    """One tidy table, a row for each cell; ``low`` and ``high`` are the ends of its interval over time."""
    which, result = ("data", "protocol", "forecaster", "seed"), ("score", "low", "high", "seconds", "parameters")
    columns = (*which, *result, "steps", "batch")
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for cell in cells:
            low, high = cell["interval"] or ("", "")
            writer.writerow({**cell, "low": low, "high": high})


def table(cells: Sequence[dict[str, Any]]) -> str:
    """Markdown: for each protocol a row for each forecaster, mean over seeds and half the t-interval."""
    lines: list[str] = []
    cells = [cell for cell in cells if cell["forecaster"] in FORECASTERS]
    for protocol in sorted({c["protocol"] for c in cells}):
        some = [c for c in cells if c["protocol"] == protocol]
        data, names = sorted({c["data"] for c in some}), {c["forecaster"] for c in some}
        lines += [f"| {protocol} | {' | '.join(data)} | seconds, median |", "|---|" + "---|" * (len(data) + 1)]
        for name in (n for n in FORECASTERS if n in names):
            own = [c for c in some if c["forecaster"] == name]
            row = [mean_text([c["score"] for c in own if c["data"] == d]) for d in data]
            seconds = sorted(c["seconds"] for c in own)[len(own) // 2]
            lines.append(f"| {name} | {' | '.join(row)} | {seconds:.1f} |")
        lines.append("")
    return "\n".join(lines)


def draw(cells: Sequence[dict[str, Any]], out: Path) -> list[Path]:
    """A figure for each protocol, ``scores-PROTOCOL.png`` in a folder.

    Raises:
        MissingExtraError: if matplotlib is missing.
    """
    from poco.plots.board import board_figure
    from poco.plots.figures import save

    written = []
    cells = [cell for cell in cells if cell["forecaster"] in FORECASTERS]
    for protocol in sorted({c["protocol"] for c in cells}):
        scores: dict[str, dict[str, list[float]]] = {}
        for cell in (c for c in cells if c["protocol"] == protocol):
            scores.setdefault(cell["data"], {}).setdefault(cell["forecaster"], []).append(cell["score"])
        means = {data: {name: mean_interval(values) for name, values in own.items()} for data, own in scores.items()}
        title = f"Score on the test part, {protocol} protocol; mean over seeds and its 95% interval"
        written.append(save(board_figure(means, FORECASTERS, title), out / f"scores-{protocol}.png"))
    return written


def mean_text(values: Sequence[float], digits: int = 3) -> str:
    """Mean of the seeds and half its interval as a table shows them; nothing of none."""
    if not values:
        return ""
    mean, half = mean_interval(values)
    form = f".{digits}f" if abs(mean) < 100 else ".2g"  # a forecast that blew up
    return f"{mean:{form}}" + (f" ± {half:{form}}" if half is not None else "")


def _weights(model: nn.Module) -> Iterator[Any]:
    """Weights of a closed form, which are kept as buffers."""
    return (b for n, b in model.named_buffers() if n.startswith("weight"))


def _cells(
    forecasters: Sequence[str], folders: Sequence[Path], protocols: Sequence[str], seeds: int
) -> Iterator[tuple[str, Path, str, int]]:
    for name in forecasters:
        for seed in range(1 if name in SEEDLESS else seeds):
            for folder in folders:
                for protocol in protocols:
                    yield name, folder, protocol, seed
