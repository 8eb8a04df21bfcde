"""``poco report``: one page of all that runs found."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from poco.cli.options import Json, Threads, examples, set_threads
from poco.cli.output import print_json, say


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(
        short_help="Write a page of all that runs found.",
        epilog=examples(
            "poco report runs/first",
            "poco report runs/first adapted --out report",
            "poco report runs/published --label region",
        ),
    )
    def report(
        runs: Annotated[
            list[Path], typer.Argument(help="Folders that 'poco train' or 'poco adapt' wrote.", metavar="RUN")
        ],
        out: Annotated[
            Path | None, typer.Option("--out", "-o", help="Folder of the page (default: 'report' in the first run).")
        ] = None,
        data: Annotated[
            Path | None, typer.Option(help="Where the recordings are now (default: where they were).")
        ] = None,
        label: Annotated[
            str | None, typer.Option(help="Label of the units that says their region (default: the only one).")
        ] = None,
        no_baselines: Annotated[
            bool,
            typer.Option(
                "--no-baselines",
                help="Train no baselines to compare what has no scores yet with (runs trained with it: none either).",
            ),
        ] = False,
        threads: Threads = None,
        json: Json = False,
    ) -> None:
        """Write report.html, which needs nothing but itself, and its figures as PNG and SVG.

        Data, split, scores with intervals, every unit, forecasts, what errors still hold, curves of training or
        adaptation, embeddings of units, cost, settings, and how to make it again.
        """
        from poco.reporting import report as write
        from poco.reporting.page import FIGURES
        from poco.training.callbacks import Progress

        set_threads(threads)
        page = write(runs, out, data=data, label=label, baselines=not no_baselines, callbacks=[Progress("baseline")])
        figures = page.parent / FIGURES
        if json:
            print_json({"report": page, "figures": figures})
            return
        say(f"report   {page}")
        say(f"figures  {figures}")
