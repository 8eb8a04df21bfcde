"""``poco download``: the published data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from poco.cli.options import examples
from poco.cli.output import note, say


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(
        short_help="Fetch a published data set.",
        epilog=examples(
            "poco download",
            "poco download zapbench --to data/zapbench",
            "poco inspect data/zapbench --published zapbench",
        ),
    )
    def download(
        name: Annotated[str | None, typer.Argument(help="A published data set; without it, all are listed.")] = None,
        to: Annotated[Path | None, typer.Option(help="Folder of its files (default: its name, here).")] = None,
    ) -> None:
        """Fetch the published data set NAME, or list those that there are.

        Licence, size and source are said first. A call that was interrupted goes on where it was; files that are there
        and right are not fetched again.
        """
        from poco.published import download as fetch
        from poco.published.sources import SOURCES

        if name is None:
            for known, source in SOURCES.items():
                how = "fetched" if source.automatic else "by hand"
                say(f"{known:13} {how:8} {source.what}; {source.size}; licence: {source.licence}")
            return
        folder = fetch(name, to, report=note)
        say(f"{folder}: read it with --published {name}")
