"""``poco train``: from recordings to a trained, evaluated, saved forecaster and a figure."""

from __future__ import annotations

import shlex
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from poco.cli.options import Json, Sessions, Threads, Without, chosen_sessions, examples, reads, set_threads
from poco.cli.output import print_json, say
from poco.cli.scores import print_scores
from poco.errors import CheckpointError, ConfigError
from poco.files import CONFIG, FIGURE

if TYPE_CHECKING:
    from poco.data.recording import Recording
    from poco.run import Run


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
        steps: Annotated[int | None, typer.Option(help="Optimiser steps (default: as the recipe says).")] = None,
        val_every: Annotated[int | None, typer.Option(help="Steps from one validation to the next.")] = None,
        seed: Annotated[int | None, typer.Option(help="Seed of weights, dropout and order (default 0).")] = None,
        seeds: Annotated[
            int | None,
            typer.Option(
                help="Train from so many seeds, --seed and those after it, and average their forecasts (default 1)."
            ),
        ] = None,
        batch_size: Annotated[int | None, typer.Option(help="Windows a step and data set.")] = None,
        lr: Annotated[float | None, typer.Option(help="Learning rate.")] = None,
        context: Annotated[int | None, typer.Option(help="Frames that a forecast is made from.")] = None,
        horizon: Annotated[int | None, typer.Option(help="Frames that are forecast.")] = None,
        segment_length: Annotated[
            int | None, typer.Option(help="Frames to a token; divides the context ('published' alone).")
        ] = None,
        precision: Annotated[str | None, typer.Option(help="'float32' or 'bf16' (mixed).")] = None,
        warmup: Annotated[int | None, typer.Option(help="Steps over which the learning rate rises.")] = None,
        schedule: Annotated[str | None, typer.Option(help="Learning rate after that: 'constant' or 'cosine'.")] = None,
        ema: Annotated[float | None, typer.Option(help="Decay of an average of the weights, e.g. 0.999.")] = None,
        patience: Annotated[int | None, typer.Option(help="Stop after so many validations without a new best.")] = None,
        clip: Annotated[float | None, typer.Option(help="Largest gradient norm; 0 for no clipping.")] = None,
        device: Annotated[str | None, typer.Option(help="'auto', 'cpu', 'cuda', 'cuda:1', ...")] = None,
        threads: Threads = None,
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
        --resume and the settings that it began with, which need not be given again.
        """
        from poco import baselines
        from poco.training import Progress, TensorBoard
        from poco.training.interrupt import Interrupted

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
        wanted: dict[str, Any] = {
            "recipe": recipe,
            "protocol": protocol,
            "train_config": {name: value for name, value in settings.items() if value is not None},
            "model_config": {name: value for name, value in sizes.items() if value is not None},
            "seeds": seeds,
            "baselines": None if compare is None else baselines.NAMES if compare else ("copy",),
            "resume": resume,
            "overwrite": overwrite,
        }
        if clip == 0:
            wanted["train_config"]["clip"] = None
        set_threads(threads)
        folder = out if out is not None else default_folder((data or [Path("run")])[0])
        if tensorboard:
            wanted["callbacks"] = [TensorBoard(folder / "tensorboard")]
        began = time.time()
        try:
            run, recording = _train(folder, data or [], reading, chosen_sessions(sessions, without), wanted)
            evaluation = run.evaluate(callbacks=[Progress("baseline")])
        except KeyboardInterrupt:
            kept = folder / CONFIG
            if not kept.exists() or (kept.stat().st_mtime < began and not resume):
                raise
            again = shlex.join(["poco", "train", "--resume", "--out", str(folder)])
            raise Interrupted(f"interrupted: what is done is in {folder}; {again} goes on", signal.SIGINT) from None
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


def _train(
    folder: Path, data: list[Path], options: dict[str, Any], chosen: dict[str, Any], wanted: dict[str, Any]
) -> tuple[Run, list[str]]:
    """Train on the sessions chosen; returns the run and a recording as ``poco forecast`` takes it.

    Args:
        folder: of the run.
        data: where the recordings are; on resume they may be left to the run.
        options: of reading them; on resume those that are not given are those of the run.
        chosen: which sessions, as :func:`poco.read` takes it; on resume by default those of the run.
        wanted: what else ``poco.train`` is told.
    """
    from poco.data.read import read
    from poco.training import train
    from poco.training.folder import expect_recordings, read_config

    source: dict[str, Any] = {"path": [str(path) for path in data], "options": options}
    if wanted["resume"]:
        if not (folder / CONFIG).exists():
            raise CheckpointError(f"there is no run in {folder} to resume: check --out, or start one without --resume")
        before = read_config(folder)
        known = before.get("source") or {}
        if not data and "path" not in known:
            raise ConfigError(f"the run in {folder} does not say where its recordings are: give DATA")
        if not data:
            expect_recordings(known["path"], "DATA")
            source["path"] = known["path"]
        source["options"] = {**known.get("options", {}), **options}
        chosen = chosen or {"sessions": [entry["session"] for entry in before["sessions"]]}
    paths = [source["path"]] if isinstance(source["path"], str) else source["path"]
    recordings = read(paths, **chosen, **source["options"])
    run = train(recordings, out=folder, source=source, **wanted)
    first = paths[0] if len(paths) == 1 else next(p for p in paths if _is_from(recordings[0], p))
    several = Path(first).is_dir() or sum(_is_from(recording, first) for recording in recordings) > 1
    return run, [first, "--session", recordings[0].session] if several else [first]


def _is_from(recording: Recording, path: str) -> bool:
    return recording.origin is not None and recording.origin.path == str(Path(path).expanduser().resolve())


def default_folder(data: Path) -> Path:
    """``runs/NAME-DATE-TIME`` with the name of the data."""
    name = data.resolve().name.split(".")[0] or "run"
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
