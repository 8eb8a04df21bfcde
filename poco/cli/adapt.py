"""``poco adapt``: fit a trained model to a new session."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from poco.cli.options import Json, Session, Threads, examples, must_be_empty, read_one, reads, set_threads
from poco.cli.output import print_json, say


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(
        short_help="Fit a trained model to a new session.",
        epilog=examples(
            "poco adapt runs/first new-animal.h5 --out adapted",
            "poco adapt runs/published new-animal.h5 --out adapted --steps 400 --mode full",
            "poco forecast adapted new-animal.h5 --out forecasts.npz",
        ),
    )
    @reads
    def adapt(
        run: Annotated[Path, typer.Argument(help="A run folder, or a model folder.")],
        recording: Annotated[Path, typer.Argument(help="The recording of the new session.")],
        out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write the adapted model to.")],
        mode: Annotated[
            str | None,
            typer.Option(
                help="What to fit: the new session's own, the default ('solve' on the ground, 'embeddings' of a POCO), "
                "or of a POCO also 'mlp' (the network that forecasts each unit), 'full', 'scratch', 'zero-shot' "
                "(nothing)."
            ),
        ] = None,
        steps: Annotated[int | None, typer.Option(help="Optimiser steps (default 200).")] = None,
        lr: Annotated[float | None, typer.Option(help="Learning rate (default: as the mode needs).")] = None,
        batch_size: Annotated[
            int | None, typer.Option(help="Windows a step (default 64; embeddings alone: 16).")
        ] = None,
        seed: Annotated[int | None, typer.Option(help="Seed (default 0).")] = None,
        patience: Annotated[
            int | None,
            typer.Option(help="Stop after this many validations without a new best (default 5; 0: take all steps)."),
        ] = None,
        precision: Annotated[
            str | None,
            typer.Option(help="'float32', 'bf16' (mixed), or 'auto' (the default): bf16 where the machine has it."),
        ] = None,
        frames: Annotated[
            int | None, typer.Option(help="Learn from the last so many frames before the test part (default: all).")
        ] = None,
        protocol: Annotated[str | None, typer.Option(help="'leak-free' or 'published' (default: the run's).")] = None,
        unit_types: Annotated[
            str | None, typer.Option(help="Label of the units, for a model that embeds unit types.")
        ] = None,
        threads: Threads = None,
        session: Session = None,
        json: Json = False,
        *,
        reading: dict[str, Any],
    ) -> None:
        """Adapt the model of RUN to a session it has not seen.

        What it has learnt of each session that it knows stays as it is; with 'mlp' and 'full' the weights that all
        sessions share change, and with them the forecasts of the others.

        A forecaster on the ground solves for the new units. A POCO fits the session's embeddings, or more, in steps;
        every 20 steps a line shows the test score against the seconds it took, and where validation gets no better the
        steps end. The weights kept are the best on validation; if none are better than the start, the start.
        With too few frames to keep some for validation, 20 steps are taken and the last weights kept.

        Options of reading that are not given are those the run was trained with, where RECORDING leaves them open.
        """
        from poco.adaptation import adapt as fit_to
        from poco.cli.runs import open_forecaster, reading_of
        from poco.commands import option
        from poco.intervals import ROUGH
        from poco.models import kind_of
        from poco.run import Run
        from poco.training.callbacks import Progress

        must_be_empty(out, "--out")
        set_threads(threads)
        forecaster = open_forecaster(run)
        chosen = read_one(recording, session, reading_of(run, forecaster, recording) | reading)
        again = [str(recording), *(["--session", chosen.session] if session is not None else [])]
        solved = kind_of(forecaster.model if isinstance(forecaster, Run) else forecaster) == "grounded"
        given = {
            "steps": steps,
            "learning_rate": lr,
            "batch_size": batch_size,
            "seed": seed,
            "patience": patience,
            "precision": precision,
        }
        settings: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if patience == 0:
            settings["patience"] = None
        progress = Progress("adapting")
        if settings and (solved or mode == "zero-shot"):
            why = "a forecaster on the ground takes a session by a solve" if solved else "zero-shot fits nothing"
            progress.message(f"note: {why}; {', '.join(map(option, settings))} left aside")
        adapted = fit_to(
            forecaster,
            chosen,
            mode=mode,
            frames=frames,
            protocol=protocol,
            unit_types=unit_types,
            source={"run": run.resolve()},
            callbacks=[progress],
            **settings,
        )
        if frames is not None and adapted.frames is None:
            progress.message(f"note: there are no {frames} frames before the test part: all there are were learnt from")
        for line in adapted.notes:
            progress.message(f"note: {line}")
        saved = adapted.save(out)
        if json:
            print_json({"model": saved, **adapted.to_json()})
        else:
            say(
                f"session '{adapted.session}', {adapted.mode}: test score {adapted.before:.3f} before, "
                f"{adapted.after:.3f} after {adapted.seconds:.1f} s ({adapted.parameters:,} values fitted, "
                f"{adapted.split.protocol} protocol)"
            )
            if adapted.gain is not None:
                kept = "" if adapted.kept_step is None else f"; the weights of step {adapted.kept_step} are kept"
                say(f"That is {adapted.gain.explained}{kept}.")
                if adapted.gain.is_rough:
                    say(ROUGH)
            if len(adapted.history) > 2:
                say("These scores are over all windows of the test part, the lines above over about 128 of them.")
            say(f"model  {saved}")
            say(f"next   {shlex.join(['poco', 'report', str(out)])}")
            say(f"       {shlex.join(['poco', 'forecast', str(out), *again, '--out', 'forecasts.npz'])}")
