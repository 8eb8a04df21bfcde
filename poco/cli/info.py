"""``poco info``: what this installation can do."""

from __future__ import annotations

import typer

from poco.cli.options import Json, examples
from poco.cli.output import print_json, say


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(short_help="Show what this installation can do.", epilog=examples("poco info", "poco info --json"))
    def info(json: Json = False) -> None:
        """Show versions, the compiled core, backends, devices and extras, and why one of them is missing."""
        from poco.installation import info as find_out

        found = find_out()
        if json:
            print_json(found)
        else:
            say(str(found))
