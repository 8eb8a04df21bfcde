"""``poco train``: from recordings to a trained, evaluated, saved forecaster and a figure."""

from __future__ import annotations

import dataclasses
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from poco.cli.options import (
    Json,
    Sessions,
    Without,
    chosen_sessions,
    examples,
    reads,
)
from poco.cli.output import print_json, say
from poco.cli.scores import print_scores
from poco.cli.torch_settings import set_threads
from poco.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from poco.data.recording import Recording
    from poco.run import Run

_LOOP = "Training"


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(
        short_help="Train and score a forecaster on recordings.",
        epilog=examples(
            "poco train recordings/",
            "poco train recordings/ --out runs/first --steps 2000 --val-every 50",
            "poco train fish.h5 --key dff --orientation 'units x frames' --rate 2.5",
            "poco train recordings/ --protocol published --recipe published --seed 1 --out runs/published",
            "poco train recordings/ --out runs/three --seeds 3",
            "poco train recordings/ --without fish-5 --out runs/four",
            "poco train recordings/ --out runs/first --resume",
        ),
    )
    @reads
    def train(
        data: Annotated[
            list[Path] | None, typer.Argument(help="Files or folders of recordings (with --resume: the run's own).")
        ] = None,
        out: Annotated[
            Path | None, typer.Option("--out", "-o", help="Run folder (default: runs/NAME-DATE-TIME).")
        ] = None,
        recipe: Annotated[
            str | None, typer.Option(help="Model and its training: 'grounded' (the default) or 'published'.")
        ] = None,
        protocol: Annotated[
            str | None,
            typer.Option(help="How sessions are cut and normalised: 'leak-free' (the default) or 'published'."),
        ] = None,
        steps: Annotated[
            int | None, typer.Option(help="Optimiser steps (default: as the recipe says).", rich_help_panel=_LOOP)
        ] = None,
        val_every: Annotated[
            int | None, typer.Option(help="Steps from one validation to the next.", rich_help_panel=_LOOP)
        ] = None,
        seed: Annotated[
            int | None, typer.Option(help="Seed of weights, dropout and order (default 0).", rich_help_panel=_LOOP)
        ] = None,
        seeds: Annotated[
            int | None,
            typer.Option(
                help="Train from so many seeds, --seed and those after it, and average their forecasts (default 1).",
                rich_help_panel=_LOOP,
            ),
        ] = None,
        batch_size: Annotated[
            int | None, typer.Option(help="Windows a step and data set.", rich_help_panel=_LOOP)
        ] = None,
        lr: Annotated[float | None, typer.Option(help="Learning rate.", rich_help_panel=_LOOP)] = None,
        context: Annotated[
            int | None, typer.Option(help="Frames that a forecast is made from.", rich_help_panel=_LOOP)
        ] = None,
        horizon: Annotated[int | None, typer.Option(help="Frames that are forecast.", rich_help_panel=_LOOP)] = None,
        segment_length: Annotated[
            int | None,
            typer.Option(help="Frames to a token; divides the context ('published' alone).", rich_help_panel=_LOOP),
        ] = None,
        precision: Annotated[
            str | None, typer.Option(help="'float32' or 'bf16' (mixed).", rich_help_panel=_LOOP)
        ] = None,
        warmup: Annotated[
            int | None, typer.Option(help="Steps over which the learning rate rises.", rich_help_panel=_LOOP)
        ] = None,
        schedule: Annotated[
            str | None, typer.Option(help="Learning rate after that: 'constant' or 'cosine'.", rich_help_panel=_LOOP)
        ] = None,
        ema: Annotated[
            float | None, typer.Option(help="Decay of an average of the weights, e.g. 0.999.", rich_help_panel=_LOOP)
        ] = None,
        patience: Annotated[
            int | None,
            typer.Option(help="Stop after so many validations without a new best.", rich_help_panel=_LOOP),
        ] = None,
        clip: Annotated[
            float | None, typer.Option(help="Largest gradient norm; 0 for no clipping.", rich_help_panel=_LOOP)
        ] = None,
        device: Annotated[
            str | None, typer.Option(help="'auto', 'cpu', 'cuda', 'cuda:1', ...", rich_help_panel=_LOOP)
        ] = None,
        threads: Annotated[int | None, typer.Option(help="Threads on the CPU.", rich_help_panel=_LOOP)] = None,
        resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
        overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in --out.")] = False,
        compare: Annotated[
            bool | None,
            typer.Option(
                "--baselines/--no-baselines",
                help="Compare with every baseline of 'poco eval' (the default), or with the copy forecast only.",
            ),
        ] = None,
        tensorboard: Annotated[
            bool, typer.Option("--tensorboard", help="Also write logs for TensorBoard into the run folder.")
        ] = False,
        sessions: Sessions = None,
        without: Without = None,
        json: Json = False,
        *,
        reading: dict[str, Any],
    ) -> None:
        """Train a forecaster on all sessions in DATA, score it against simple forecasters, and save the run.

        The run folder holds settings, metrics, model, checkpoint, log and figure. An interrupted run goes on with
        --resume; settings not given then are those of the run.
        """
        from poco import baselines
        from poco.run import FIGURE
        from poco.training import Progress

        if resume and overwrite:
            raise ConfigError("--resume and --overwrite exclude each other")
        if resume and out is None:
            raise ConfigError("--resume needs --out, the run folder to go on with")
        if not data and not resume:
            raise ConfigError("no DATA: give files or folders of recordings")
        settings = {
            "steps": steps,
            "val_every": val_every,
            "seed": seed,
            "batch_size": batch_size,
            "learning_rate": lr,
            "precision": precision,
            "warmup": warmup,
            "schedule": schedule,
            "ema": ema,
            "patience": patience,
            "clip": clip,
            "device": device,
        }
        sizes = {"context": context, "horizon": horizon, "segment_length": segment_length}
        wanted = Wanted(
            recipe=recipe,
            protocol=protocol,
            training={name: value for name, value in settings.items() if value is not None},
            model={name: value for name, value in sizes.items() if value is not None},
            seeds=seeds,
            baselines=None if compare is None else baselines.NAMES if compare else ("copy",),
        )
        set_threads(threads)
        folder = out if out is not None else default_folder((data or [Path("run")])[0])
        run, recording = _train(
            folder, data or [], reading, (sessions, without), wanted, resume, overwrite, tensorboard
        )
        names = run.config.get("baselines", baselines.NAMES)
        evaluation = run.evaluate(baselines=names, callbacks=[Progress("baseline")])
        figure = folder / FIGURE if (folder / FIGURE).exists() else None
        if json:
            print_json({"run": folder, "figure": figure, **evaluation.to_json()})
            return
        say()
        print_scores(evaluation)
        say(f"run     {folder}")
        say(f"figure  {figure}" if figure is not None else "figure  none: pip install 'poco-forecast[plots]'")
        say(f"next    {shlex.join(['poco', 'eval', str(folder)])}")
        say(f"        {shlex.join(['poco', 'forecast', str(folder), *recording, '--out', 'forecasts.npz'])}")


@dataclass(frozen=True)
class Wanted:
    """Settings given on the command line; what is not given comes from the recipe or, on resume, from the run.

    Attributes:
        recipe: name, or None.
        protocol: name, or None.
        training: fields of ``TrainConfig``.
        model: fields of ``POCOConfig``.
        seeds: how many, or None.
        baselines: names of what to compare with, or None.
    """

    recipe: str | None
    protocol: str | None
    training: Mapping[str, Any]
    model: Mapping[str, Any]
    seeds: int | None
    baselines: Sequence[str] | None


def _train(
    folder: Path,
    data: list[Path],
    options: dict[str, Any],
    sessions: tuple[str | None, str | None],
    wanted: Wanted,
    resume: bool,
    overwrite: bool,
    tensorboard: bool,
) -> tuple[Run, list[str]]:
    """Train on the sessions wanted (all; less these); returns the run and a recording as ``poco forecast`` takes it."""
    from poco.data.read import read
    from poco.run import CONFIG, read_config
    from poco.training import TensorBoard, TrainConfig, recipe, train
    from poco.training.recipes import DEFAULT

    if resume and not (folder / CONFIG).exists():
        raise CheckpointError(f"there is no run in {folder} to resume: check --out, or start one without --resume")
    before = read_config(folder) if resume else None
    if before is not None:
        recipe_name, protocol = wanted.recipe or before["recipe"], wanted.protocol or before["protocol"]
        sizes = type(recipe(recipe_name)[0]).from_dict(before["model"])  # type: ignore[assignment]
        settings = TrainConfig.from_json(before["training"])
    else:
        recipe_name, protocol = wanted.recipe or DEFAULT, wanted.protocol or "leak-free"
        sizes, settings = recipe(recipe_name)
    training = dict(wanted.training)
    if training.get("clip") == 0:
        training["clip"] = None
    settings = dataclasses.replace(settings, **training)
    foreign = sorted(set(wanted.model) - {field.name for field in dataclasses.fields(sizes)})
    if foreign:
        raise ConfigError(f"--{foreign[0].replace('_', '-')} is no option of the recipe '{recipe_name}'")
    sizes = dataclasses.replace(sizes, **wanted.model)
    chosen = chosen_sessions(*sessions)
    if data:
        source: dict[str, Any] = {"path": [str(path) for path in data], "options": options}
    elif before is not None and before.get("source"):
        source = before["source"]
        chosen = {"sessions": [entry["session"] for entry in before["sessions"]]}
    else:
        raise ConfigError(f"the run in {folder} does not say where its recordings are: give DATA")
    paths = [source["path"]] if isinstance(source["path"], str) else source["path"]
    recordings = read(paths, **chosen, **source.get("options", {}))
    run = train(
        recordings,
        model_config=sizes,
        train_config=settings,
        protocol=protocol,
        recipe=recipe_name,
        out=folder,
        resume=resume,
        overwrite=overwrite,
        callbacks=[TensorBoard(folder / "tensorboard")] if tensorboard else [],
        source=source,
        baselines=wanted.baselines,
        seeds=wanted.seeds if wanted.seeds is not None else (before or {}).get("seeds", 1),
    )
    first = paths[0] if len(paths) == 1 else next(p for p in paths if _is_from(recordings[0], p))
    several = Path(first).is_dir() or sum(_is_from(recording, first) for recording in recordings) > 1
    return run, [first, "--session", recordings[0].session] if several else [first]


def _is_from(recording: Recording, path: str) -> bool:
    return recording.origin is not None and recording.origin.path == str(Path(path).expanduser().resolve())


def default_folder(data: Path) -> Path:
    """``runs/NAME-DATE-TIME`` with the name of the data."""
    name = data.resolve().name.split(".")[0] or "run"
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
