"""``poco inspect``: what the reader sees in a file or folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from poco.cli.options import Json, Sessions, Without, chosen_sessions, examples, reads
from poco.cli.output import print_json, say
from poco.errors import DataError


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(
        short_help="Show what is read from a file or folder.",
        epilog=examples(
            "poco inspect recordings/",
            "poco inspect traces.h5 --key dff --orientation 'units x frames' --rate 30",
            "poco inspect recordings/ --json",
            "poco inspect chen2018/ --published chen2018",
        ),
    )
    @reads
    def inspect(
        path: Annotated[list[Path], typer.Argument(help="Files or folders of recordings.")],
        sessions: Sessions = None,
        without: Without = None,
        json: Json = False,
        *,
        reading: dict[str, Any],
    ) -> None:
        """Show what is read from PATH: sessions, units, frames, rate, gaps, labels, stimuli and warnings.

        Sessions that cannot be read are listed with the reason, and the exit code is then 2.
        """
        from poco.data.choice import Choice
        from poco.data.inspect import inspect_chosen, repeated

        choice = Choice(**chosen_sessions(sessions, without))
        seen = inspect_chosen(path, choice, **reading)
        choice.check()
        reports = [report for inspection in seen for report in inspection.sessions]
        unreadable = [report for report in reports if report.error]
        if len(unreadable) == 1 == len(reports):
            raise DataError(unreadable[0].error)
        warnings = repeated(reports) if len(seen) > 1 else []
        if json:
            together = {"paths": [one.to_json() for one in seen], "warnings": warnings}
            print_json(seen[0].to_json() if len(seen) == 1 else together)
        else:
            texts = [one.to_text() for one in seen]
            say("\n\n".join([*texts, *(f"together: {warning}" for warning in warnings)]))
        if unreadable:
            raise DataError(f"{len(unreadable)} of {len(reports)} sessions cannot be read: {unreadable[0].error}")
