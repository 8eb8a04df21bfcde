"""The scoreboard: every forecaster on every data set of a folder, in both protocols and from several seeds.

A cell (data set, protocol, seed, forecaster) is a JSON file in the output folder as soon as it is done, so a run that
was stopped goes on where it was. Every cell is scored on the test part, at every frame. Data sets are gone through one
after another, so that each is read once and few are in memory.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
from torch import nn

from poco import baselines
from poco import cells as cells_of
from poco.baselines.fitted import BASELINE_PATIENCE, BASELINE_STEPS, fit_baseline
from poco.data.recording import warnings_of
from poco.data.splits import PROTOCOLS, Split, split
from poco.errors import ConfigError, DataError
from poco.files import write_json
from poco.intervals import block_length, lasting_block, mean_interval, mean_text, resampled_scores
from poco.parameters import count_solved
from poco.scoring import score_forecasters, score_interval
from poco.training.config import BATCH_SIZE, Precision, TrainConfig, check_precision
from poco.training.loop import DivergedError
from poco.training.recipes import complete, recipe
from poco.training.trainer import Trainer

#: Forecasters in the order in which the cells of a data set are made: cheap ones first.
FORECASTERS = (
    *("copy", "mean", "ridge", "unit-ridge", "nlinear", "dlinear", "pai-filter", "tex-filter", "ground", "grounded"),
    *("tsmixer", "mlp", "plrnn", "netformer", "uico", "poyo", "poco", "taco", "modern-tcn", "patchtst", "mlp-large"),
    "ar-transformer",
)
#: Those whose score is the same from every seed.
SEEDLESS = ("copy", "mean", *baselines.FITTED)

Made = TypeVar("Made")
#: Makes a forecaster of one's own, fitted to a split, from a seed.
Factory = Callable[[Split, int], nn.Module]


def fit(
    name: str,
    data: Split,
    seed: int,
    steps: int = BASELINE_STEPS,
    batch: int = BATCH_SIZE,
    precision: Precision = "float32",
) -> nn.Module:
    """A forecaster of :data:`FORECASTERS`, fitted: at most so many gradient steps, each of so many windows.

    ``grounded`` has the steps and windows of its recipe. What is solved for is solved for in float64 whatever the
    ``precision`` of gradient steps.
    """
    if name not in ("poco", "grounded"):
        config = TrainConfig(steps=steps, batch_size=batch, patience=BASELINE_PATIENCE, seed=seed, precision=precision)
        return fit_baseline(name, data, config=config)
    kind = "published" if name == "poco" else name
    sizes, settings = recipe(kind)
    settings = dataclasses.replace(settings, seed=seed, precision=precision)
    if name == "poco":
        settings = dataclasses.replace(settings, steps=steps, batch_size=batch, val_every=min(20, steps))
    return Trainer(data, sizes).train(complete(kind, settings, data))[0]


def run(
    folders: Sequence[str | Path],
    out: str | Path,
    *,
    forecasters: Sequence[str] = FORECASTERS,
    own: Mapping[str, Factory] = MappingProxyType({}),
    protocols: Sequence[str] = PROTOCOLS,
    seeds: int = 3,
    steps: int = BASELINE_STEPS,
    batch: int = BATCH_SIZE,
    precision: Precision = "float32",
    published: Sequence[str] = (),
    report: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Fit and score what is not in ``out`` yet; returns all cells that are there.

    Args:
        folders: data sets, each what :func:`poco.read` reads.
        out: folder of the cells.
        forecasters: names out of :data:`FORECASTERS`, in the order in which they are to run.
        own: forecasters of one's own, which run after those: by name what makes one, given the split and the seed.
            Cells do not say how it was made: call it something else when it has changed.
        protocols: names out of :data:`poco.data.splits.PROTOCOLS`.
        seeds: seeds 0, 1, ... of those that are trained.
        steps: most gradient steps of each.
        batch: windows of each step.
        precision: what gradient steps compute in, ``"float32"`` or ``"bf16"`` (autocast); scores are of float32.
        published: names of folders with the files of the published data set of that name.
        report: called with a line for each cell.

    Raises:
        ConfigError: for an unknown name, one of one's own that is known, what is no forecaster, data sets of one name,
            a number below 1, no such precision, or recordings, steps, windows or a precision other than those of the
            cells that are there.
        DataError: if none of the data sets can be used.
        DivergedError: when all the others are made, if training losses were no longer finite; names those cells.
    """
    unknown = [name for name in forecasters if name not in FORECASTERS]
    if unknown:
        raise ConfigError(f"there is no forecaster '{unknown[0]}': choose from {', '.join(FORECASTERS)}")
    check_precision(precision)
    taken = [name for name in own if name in FORECASTERS]
    if taken:
        raise ConfigError(f"there is a forecaster '{taken[0]}' already: call your own something else")
    places, out = [Path(folder) for folder in folders], Path(out)
    cells_of.at_least_one(seeds=seeds, steps=steps, batch=batch)
    _check_names(places)
    out.mkdir(parents=True, exist_ok=True)
    used, left_out, diverged = 0, list[str](), list[DivergedError]()

    def leave_out(line: str) -> None:
        left_out.append(line)
        report(line)

    for folder in places:
        for data in _cuts(folder, protocols, folder.name if folder.name in published else None, leave_out, report):
            used += 1
            of, where = cells_of.recordings_of(data.recordings), (folder.name, data.protocol)
            for name in (*forecasters, *own):
                for seed in range(1 if name in SEEDLESS else seeds):
                    file = file_of(out, *where, seed, name)
                    if is_made(file, steps, batch, of, precision):
                        continue
                    began = time.process_time()
                    which = f"{', '.join(where)}, {name}, seed {seed}"
                    try:
                        model = own[name](data, seed) if name in own else fit(name, data, seed, steps, batch, precision)
                    except DivergedError as error:
                        diverged.append(DivergedError(f"{which}: {error}"))
                        report(str(diverged[-1]))
                        continue
                    seconds = time.process_time() - began
                    made_with: dict[str, Any] = {}
                    if name not in (*SEEDLESS, *own):
                        made_with["precision"] = precision
                        if name != "grounded":
                            made_with |= {"steps": steps, "batch": batch}
                    cell = score_cell(model, data, folder.name, name, seed, seconds, **made_with)
                    write_json(file, cell)
                    report(f"{which}: {cell['score']:.4f} in {seconds:.1f} s")
    if left_out and not used:
        raise DataError(f"none of the data sets could be used; {left_out[0]}")
    if diverged:
        raise DivergedError(cells_of.of_several(diverged))
    return load(out)


def _check_names(folders: Sequence[Path]) -> None:
    """A ConfigError names two folders that their cells could not be told apart by."""
    known: dict[str, Path] = {}
    for folder in folders:
        if folder.name in known:
            both = f"{known[folder.name]} and {folder}"
            raise ConfigError(f"two data sets are called '{folder.name}', {both}: rename one, or leave it out")
        known[folder.name] = folder


def _cuts(
    folder: Path,
    protocols: Sequence[str],
    published: str | None,
    leave_out: Callable[[str], None],
    report: Callable[[str], None],
) -> Iterator[Split]:
    """A data set, cut by each protocol; its warnings are reported, and what it cannot be used for is left out."""
    from poco.data.read import read

    recordings = _usable(folder.name, lambda: read(folder, published=published), leave_out)
    if recordings is None:
        return
    for warning in warnings_of(recordings):
        report(f"{folder.name}: warning: {warning}")
    for protocol in protocols:
        cut = _usable(f"{folder.name}, {protocol}", functools.partial(split, recordings, protocol=protocol), leave_out)
        if cut is not None:
            yield cut


def _usable(what: str, make: Callable[[], Made], report: Callable[[str], None]) -> Made | None:
    """What is made of data; None, and a line, where they cannot be used."""
    from poco.data.read import without_options

    try:
        with without_options():
            return make()
    except DataError as error:
        report(f"{what}: left out, {error}")
        return None


def file_of(out: Path, data: str, protocol: str, seed: int, forecaster: str) -> Path:
    """The file of a cell."""
    return cells_of.file_of(out, data, protocol, seed, forecaster)


def is_made(
    file: Path,
    steps: int,
    batch: int,
    recordings: Sequence[Mapping[str, str]],
    precision: Precision = "float32",
) -> bool:
    """Whether a cell is there.

    Args:
        file: where it would be.
        steps: most gradient steps of those that are trained.
        batch: windows of each step.
        recordings: of the data set, as :func:`poco.cells.recordings_of` gives them.
        precision: what gradient steps compute in.

    Raises:
        ConfigError: if it was made of other recordings, or with other steps, windows or precision; what it does not
            say does not matter.
    """
    if not file.exists():
        return False
    cell = cells_of.read_one(file)
    now = {"steps": steps, "batch": batch, "precision": precision, "recordings": recordings}
    cells_of.check(file, cell, {name: value for name, value in now.items() if cell.get(name) is not None})
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
    precision: Precision | None = None,
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
        precision: what its gradient steps computed in; None if it has none.

    Returns:
        What it is of and was made with; ``score``, its 95% ``interval`` by block bootstrap over time (None where there
        is none), how many ``blocks`` the windows make up for it, ``score_per_step``; of each session the score and the
        number of windows; the squared errors of each window, which intervals of differences are made of; ``seconds``
        and ``parameters``.
    """
    scores = score_forecasters({forecaster: model}, split)[forecaster]
    assert scores.window_error is not None
    assert scores.copy_window_error is not None
    least = block_length(split.context, split.horizon)
    found, blocks = score_interval(scores, least)
    return {
        "data": data,
        "recordings": cells_of.recordings_of(split.recordings),
        "neural": all(recording.is_neural for recording in split.recordings),
        "protocol": split.protocol,
        "forecaster": forecaster,
        "seed": seed,
        "score": scores.score,
        "score_per_step": list(scores.score_per_step),
        "sessions": {one.session: [one.score, one.windows] for one in scores.sessions},
        "window_error": [float(f"{error:.6g}") for error in scores.window_error],
        "copy_window_error": [float(f"{error:.6g}") for error in scores.copy_window_error],
        "block": least,
        "seconds": round(seconds, 2),
        "parameters": sum(p.numel() for p in model.parameters()) + count_solved(model),
        "steps": steps,
        "batch": batch,
        "precision": precision,
        "interval": found,
        "blocks": blocks,
    }


def resampled(cells: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Scores ``[F, R]`` of cells of the same data, each on the same resampled windows.

    A block is as long as any of their errors lasts; of several cells those of the others less the first one's, for they
    are there to be compared with it.
    """
    windows = [count for _, count in cells[0]["sessions"].values()]
    errors, copy = np.array([cell["window_error"] for cell in cells]), np.array(cells[0]["copy_window_error"])
    compared = errors if len(cells) == 1 else errors[1:] - errors[0]
    block = max(lasting_block(error, copy, windows, cells[0]["block"]) for error in compared)
    return resampled_scores(errors, copy, windows, block)


def load(out: Path) -> list[dict[str, Any]]:
    """All cells of a folder; those without the errors of windows will do where scores are not resampled."""
    return list(cells_of.read(out, 4).values())


def write_csv(cells: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """One tidy table, a row for each cell; ``low`` and ``high`` are the ends of its interval over time."""
    which = ("data", "protocol", "forecaster", "seed")
    result = ("score", "low", "high", "blocks", "seconds", "parameters")
    marks = _marks(cells)
    shown = [{**cell, "data": cell["data"] + marks.get(cell["data"], "")} for cell in cells]
    cells_of.write_csv(cells_of.with_ends(shown), (*which, *result, "steps", "batch", "precision"), Path(path))


def table(cells: Sequence[dict[str, Any]]) -> str:
    """Markdown: for each protocol a row for each forecaster, mean over seeds and half the t-interval.

    Data sets that are no neural activity are marked, and a line says what that means.
    """
    lines: list[str] = []
    marks = _marks(cells)
    for protocol in sorted({c["protocol"] for c in cells}):
        some = [c for c in cells if c["protocol"] == protocol]
        data, names = sorted({c["data"] for c in some}), {c["forecaster"] for c in some}
        shown = " | ".join(d + marks.get(d, "") for d in data)
        lines += [f"| {protocol} | {shown} | seconds, median |", "|---|" + "---|" * (len(data) + 1)]
        for name in (n for n in _order(cells) if n in names):
            own = [c for c in some if c["forecaster"] == name]
            row = [mean_text([c["score"] for c in own if c["data"] == d]) for d in data]
            seconds = median(c["seconds"] for c in own)
            lines.append(f"| {name} | {' | '.join(row)} | {seconds:.1f} |")
        lines.append("")
    if marks:
        lines += ["A control is no neural activity: its scores never count.", ""]
    return "\n".join(lines)


def _marks(cells: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What is said behind the names of data sets that are no neural activity."""
    return {cell["data"]: " (control)" for cell in cells if not cell.get("neural", True)}


def _order(cells: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Names of forecasters as tables and figures have them: those of one's own after the others."""
    return tuple(dict.fromkeys((*FORECASTERS, *(cell["forecaster"] for cell in cells))))


def draw(cells: Sequence[dict[str, Any]], out: str | Path) -> list[Path]:
    """A figure for each protocol, ``scores-PROTOCOL.png`` in a folder.

    Raises:
        MissingExtraError: if matplotlib is missing.
    """
    from poco.plots.board import board_figure
    from poco.plots.figures import save

    written, marks = [], _marks(cells)
    for protocol in sorted({c["protocol"] for c in cells}):
        scores: dict[str, dict[str, list[float]]] = {}
        for cell in (c for c in cells if c["protocol"] == protocol):
            scores.setdefault(cell["data"], {}).setdefault(cell["forecaster"], []).append(cell["score"])
        means = {
            data + marks.get(data, ""): {name: mean_interval(values) for name, values in own.items()}
            for data, own in scores.items()
        }
        title = f"Score on the test part, {protocol} protocol; mean over seeds and its 95% interval"
        written.append(save(board_figure(means, _order(cells), title), Path(out) / f"scores-{protocol}.png"))
    return written
