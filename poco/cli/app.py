"""The command ``poco`` with all its subcommands."""

from __future__ import annotations

from typing import Annotated

import typer

from poco.cli import (
    adapt,
    bench_data,
    demo,
    download,
    embed,
    evaluate,
    forecast,
    info,
    inspect,
    preprocess,
    report,
    stream,
    study,
    train,
)
from poco.cli.memory import keep_memory

app = typer.Typer(
    name="poco",
    help="Forecast the activity of every neuron of a recorded population.",
    epilog="Start with 'poco demo', or 'poco inspect PATH' on recordings of your own.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
for _module in (
    demo,
    download,
    inspect,
    preprocess,
    train,
    evaluate,
    forecast,
    stream,
    adapt,
    embed,
    report,
    bench_data,
    study,
    info,
):
    _module.register(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        from poco._version import __version__

        typer.echo(f"poco {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Forecast the activity of every neuron of a recorded population."""
    keep_memory()
