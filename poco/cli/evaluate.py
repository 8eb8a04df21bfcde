"""``poco eval``: scores of a run and of the simple forecasters on the same windows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from poco.cli.options import Json, Threads, examples, reads, set_threads
from poco.cli.output import print_json
from poco.cli.scores import print_scores
from poco.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(
        "eval",
        short_help="Score a run and the simple forecasters.",
        epilog=examples(
            "poco eval runs/first",
            "poco eval runs/first --json > scores.json",
            "poco eval runs/first --split val",
            "poco eval runs/first --data /new/place/of/recordings",
            "poco eval runs/first --data moved.npy --orientation 'units x frames' --rate 2.5",
        ),
    )
    @reads
    def evaluate(
        run: Annotated[Path, typer.Argument(help="A run folder that 'poco train' wrote.")],
        split: Annotated[str, typer.Option(help="Part to score: 'test', 'val' or 'train'.")] = "test",
        data: Annotated[
            Path | None, typer.Option(help="Where the run's recordings are now (default: where they were).")
        ] = None,
        stride: Annotated[int, typer.Option(help="Frames from one window to the next.")] = 1,
        precision: Annotated[
            str, typer.Option(help="What the run's model computes in: 'float32' or 'bf16' (mixed).")
        ] = "float32",
        no_baselines: Annotated[bool, typer.Option("--no-baselines", help="Score the run alone.")] = False,
        threads: Threads = None,
        json: Json = False,
        *,
        reading: dict[str, Any],
    ) -> None:
        """Score the run in RUN: 1 - MSE / MSE of repeating the last frame, per session and averaged over sessions.

        Every score and every difference to the run's has a 95% interval, for these recordings, not for other animals.
        Scores of the whole test part in float32 are kept in the run folder, with a figure. The JSON document has
        'score', 'interval', 'sessions', 'baselines', 'protocol' and 'split'; each baseline has 'score', 'interval' and
        'ahead', how far the run is ahead of it: 'difference' and 'interval'. Options of reading that are not given are
        those the run was trained with.
        """
        from poco.baselines import NAMES
        from poco.cli.runs import open_run
        from poco.data.splits import PARTS
        from poco.evaluation import evaluate as score
        from poco.training.callbacks import Progress

        if split not in PARTS:
            raise ConfigError(f"--split must be one of {', '.join(PARTS)}, got '{split}'")
        set_threads(threads)
        loaded = open_run(run)
        recordings = loaded.read(data, **reading)
        options: dict[str, Any] = {"part": split, "stride": stride, "precision": precision}
        options["callbacks"] = [Progress("baseline")]
        if no_baselines:  # scores beside baselines that are kept stay
            evaluation = score(loaded, loaded.split(recordings), baselines=(), **options)
        else:
            evaluation = loaded.evaluate(recordings, baselines=NAMES, **options)
        if json:
            print_json({"run": run, **evaluation.to_json()})
        else:
            print_scores(evaluation)
