"""``poco demo``: the whole story on simulated animals, in a few minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from poco.cli.options import Json, examples, set_threads
from poco.cli.output import number, print_json, print_table, say


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(
        short_help="Train, compare, adapt and draw on simulated animals.",
        epilog=examples("poco demo", "poco demo --out my-demo --quick", "poco demo --json"),
    )
    def demo(
        out: Annotated[Path, typer.Option("--out", "-o", help="Folder for everything the demo makes.")] = Path(
            "poco-demo"
        ),
        quick: Annotated[
            bool, typer.Option("--quick", help="A tiny version that takes seconds and shows little.")
        ] = False,
        seed: Annotated[int, typer.Option(help="Seed of the models.")] = 0,
        threads: Annotated[
            int, typer.Option(help="Threads on the CPU; more than one helps little with models this small.")
        ] = 1,
        json: Json = False,
    ) -> None:
        """Simulate animals, train a POCO, compare it with simple forecasters, adapt it to an unseen animal, draw it.

        The animals are chaotic networks that share part of their connectivity. A demo that is in --out already is
        replaced.
        """
        from poco.demo import run_demo
        from poco.plots.style import label

        set_threads(threads)
        result = run_demo(out, quick=quick, seed=seed)
        if json:
            print_json(result.to_json())
            return
        say()
        rows = result.rows()
        print_table(
            "Score on frames never trained on (1 - MSE / MSE of copy; 0 is copy, 1 is perfect)",
            ["forecaster", "training animals", f"unseen {result.adapted.session}"],
            [[name, number(known), number(unseen)] for name, known, unseen in rows],
            bold_row=0,
        )
        say(
            f"adaptation  {label('poco')} {result.adapted.before:.3f} before, {result.adapted.after:.3f} after "
            f"{result.adapted.seconds:.1f} s: {result.adapted.parameters:,} values fitted, all of the new animal"
        )
        say("refitted    to the unseen animal; the other forecasters only know the training animals")
        say(f"took        {result.seconds:.0f} s")
        if result.figure is not None:
            say(f"figure      {result.figure}")
        else:
            say("figure      none: pip install 'poco-forecast[plots]'")
        say(f"run         {result.run.folder}")
        say("next        poco inspect PATH, then poco train PATH, with recordings of your own")
