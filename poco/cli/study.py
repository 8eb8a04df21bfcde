"""``poco study``: the experiments of the paper."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from poco.cli.options import set_threads
from poco.cli.output import LeftOut
from poco.errors import ConfigError, DataError
from poco.wording import listed

if TYPE_CHECKING:
    from poco.data.recording import Recording


def register(app: typer.Typer) -> None:
    """Add the commands."""
    study = typer.Typer(help="Run the experiments of the paper.", no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(study, name="study", short_help="Run the experiments of the paper.")

    @study.command("list")
    def list_studies() -> None:
        """Say which studies there are."""
        from poco import studies

        for name in studies.names():
            typer.echo(f"{name:20} {studies.load(name).title}")

    @study.command("run")
    def run_study(
        name: Annotated[str, typer.Argument(help="One that 'poco study list' lists, or a .toml file of your own.")],
        out: Annotated[Path, typer.Option(help="Folder of the results; what is there is not made again.")],
        data: Annotated[list[Path] | None, typer.Option(help="Recordings; may be given several times.")] = None,
        published: Annotated[
            list[str] | None,
            typer.Option(help="The files of --data are those of this data set, as published; once for all or each."),
        ] = None,
        protocol: Annotated[str | None, typer.Option(help="'published' (the default) or 'leak-free'.")] = None,
        seeds: Annotated[int | None, typer.Option(help="How many seeds (default 3).")] = None,
        steps: Annotated[int | None, typer.Option(help="Gradient steps (default: the study's).")] = None,
        batch: Annotated[int | None, typer.Option(help="Windows of a gradient step (default: as published).")] = None,
        simulation: Annotated[
            str, typer.Option(help="Sizes of a simulation, such as 'animals=4,units=32,frames=1000'.")
        ] = "",
        label: Annotated[
            str | None, typer.Option(help="Label of the units, for a study that embeds it (default: the only one).")
        ] = None,
        reduced: Annotated[bool, typer.Option("--reduced", help="Very small, to see that it runs.")] = False,
        processes: Annotated[int, typer.Option(help="Processes at a time.")] = 1,
        threads: Annotated[
            int | None, typer.Option(help="Threads on the CPU, of each process (default: its share of the processors).")
        ] = None,
    ) -> None:
        """Run the study NAME and print its table."""
        from poco import studies
        from poco.data.read import without_options

        set_threads(threads)
        sizes = {key: value for key, _, value in (pair.partition("=") for pair in listed(simulation))}
        for key, value in sizes.items():
            if key not in ("animals", "units", "frames") or not value.isdecimal():
                raise ConfigError(f"--simulation takes animals, units and frames, each a number; got '{key}={value}'")
        report = LeftOut()
        with without_options():
            cells = studies.run(
                studies.load(name),
                out,
                _recordings(data or [], published or []),
                protocol=protocol,
                seeds=seeds,
                steps=steps,
                batch=batch,
                simulation={key: int(value) for key, value in sizes.items()},
                label=label,
                reduced=reduced,
                processes=processes,
                threads=threads,
                report=report,
            )
        _show(cells)
        report.again()

    @study.command("table")
    def show_table(
        out: Annotated[Path, typer.Argument(help="Folder that 'poco study run' wrote.")],
        to_csv: Annotated[Path | None, typer.Option("--csv", help="Write a row for each cell here.")] = None,
        steps_csv: Annotated[
            Path | None, typer.Option("--steps-csv", help="Write a row for each cell and step ahead here.")
        ] = None,
    ) -> None:
        """Print the table of all results in the folder OUT."""
        from poco import studies

        cells = _cells(out)
        if to_csv is not None:
            studies.write_csv(cells, to_csv)
        if steps_csv is not None:
            studies.steps.write_csv(cells, steps_csv)
        _show(cells)

    @study.command("plot")
    def plot(
        out: Annotated[Path, typer.Argument(help="Folder that 'poco study run' wrote.")],
        figure: Annotated[Path, typer.Argument(help="Image to write (.png, .svg, .pdf).")],
        per_step: Annotated[bool, typer.Option("--per-step", help="Against the step ahead instead.")] = False,
    ) -> None:
        """Draw the score against what was varied, mean over seeds with 95% intervals."""
        from poco import studies

        studies.plot(_cells(out), figure, per_step=per_step)


def _recordings(data: list[Path], published: list[str]) -> list[Recording]:
    """All recordings, each path read as the published data set in its place, or as the only one."""
    from poco.data.read import read

    if len(published) not in (0, min(1, len(data)), len(data)):
        raise ConfigError(f"--published is given {len(published)} times for {len(data)} --data: once, or once for each")
    names = published if len(published) > 1 else [*published, None][:1] * len(data)
    return [one for path, name in zip(data, names, strict=True) for one in read(path, published=name)]


def _show(cells: list[dict[str, Any]]) -> None:
    """Print the table of the cells, and what its numbers are."""
    from poco import studies

    typer.echo(f"{studies.table(cells)}\n\n{studies.meaning(cells)}")


def _cells(out: Path) -> list[dict[str, Any]]:
    from poco import studies

    cells = studies.cells(out)
    if not cells:
        raise DataError(f"{out} has no results of a study: 'poco study run' makes some")
    return cells
