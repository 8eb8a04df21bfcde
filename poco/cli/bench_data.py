"""``poco bench-data``: the scoreboard over a folder of data sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from poco.cli.options import Threads, examples, lists_of, set_threads
from poco.cli.output import LeftOut, note
from poco.errors import ConfigError, DataError, MissingExtraError

if TYPE_CHECKING:
    from poco.training.config import Precision


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(
        "bench-data",
        short_help="Score every forecaster on every data set of a folder.",
        epilog=examples(
            "poco bench-data recordings --out scores",
            "poco bench-data recordings --out scores --only nlinear,mlp,poco --seeds 1",
            "poco bench-data published --published chen2018,kato2015 --out scores",
        ),
    )
    def bench_data(
        folder: Annotated[Path, typer.Argument(help="A folder of data sets, one folder each.")],
        out: Annotated[Path, typer.Option(help="Folder of the scores; what is there is not made again.")],
        only: Annotated[str | None, typer.Option(help="Forecasters, comma between them (default: all).")] = None,
        data: Annotated[str | None, typer.Option(help="Data sets, comma between them (default: all).")] = None,
        protocols: Annotated[str, typer.Option(help="Protocols, comma between them.")] = "leak-free,published",
        seeds: Annotated[int, typer.Option(help="Seeds of those that are trained.")] = 3,
        steps: Annotated[int, typer.Option(help="Most gradient steps of a forecaster.")] = 1000,
        batch: Annotated[int, typer.Option(help="Windows of a gradient step.")] = 64,
        precision: Annotated[str, typer.Option(help="'float32' or 'bf16' (mixed) for gradient steps.")] = "float32",
        published: Annotated[
            str | None,
            typer.Option(help="Folders with the files of the published data set of their name, comma between them."),
        ] = None,
        threads: Threads = None,
    ) -> None:
        """Fit and score forecasters on each data set in FOLDER.

        Into the folder OUT go scores.csv, scores.md, a figure for each protocol, and of each step ahead steps.csv.
        Where training diverges, all else is made and written, and then the command fails and names what is not there.
        """
        from poco import scoreboard
        from poco.data.splits import PROTOCOLS
        from poco.published import NAMES
        from poco.studies import steps as by_step
        from poco.training.loop import DivergedError

        set_threads(threads)
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder")
        found = {path.name: path for path in sorted(folder.iterdir()) if path.is_dir()}
        if not found:
            raise DataError(f"{folder} has no folders, one for each data set: put these files into {folder / 'NAME'}/")
        lists = lists_of({"only": only, "data": data, "protocols": protocols, "published": published})
        names = lists.get("data", list(found))
        for name in names:
            if name not in found:
                raise DataError(f"{folder} has no data set '{name}': it has {', '.join(found) or 'none'}")
        as_published = lists.get("published", [])
        for name in as_published:
            if name not in names or name not in NAMES:
                raise ConfigError(f"--published: '{name}' is not both in {folder} and one of {', '.join(NAMES)}")
        wanted = lists["protocols"]
        for name in wanted:
            if name not in PROTOCOLS:
                raise ConfigError(f"--protocols must be of {', '.join(PROTOCOLS)}, got '{name}'")
        report, diverged = LeftOut(), None
        try:
            cells = scoreboard.run(
                [found[name] for name in names],
                out,
                forecasters=lists.get("only", scoreboard.FORECASTERS),
                protocols=wanted,
                seeds=seeds,
                steps=steps,
                batch=batch,
                precision=cast("Precision", precision),
                published=as_published,
                report=report,
            )
        except DivergedError as error:  # the others are made, and have a table
            cells, diverged = scoreboard.load(out), error
        scoreboard.write_csv(cells, out / "scores.csv")
        if cells:
            by_step.write_csv(cells, out / "steps.csv")
            try:
                scoreboard.draw(cells, out)
            except MissingExtraError as error:
                note(f"no figures: {error}")
        (out / "scores.md").write_text(scoreboard.table(cells) + "\n", encoding="utf-8")
        typer.echo(scoreboard.table(cells))
        report.again()
        if diverged is not None:
            raise diverged
