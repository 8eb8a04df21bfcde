"""``poco embed``: the embeddings of units, and how far they tell regions apart."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from poco.cli.options import Json, examples, must_be_empty
from poco.cli.output import note, number, print_json, print_table, say
from poco.errors import ConfigError, DataError
from poco.wording import counted

if TYPE_CHECKING:
    from poco.data.recording import Recording
    from poco.models import Forecaster
    from poco.unit_embeddings import SessionEmbeddings


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(
        "embed",
        short_help="Export embeddings of units; do they tell regions apart?",
        epilog=examples(
            "poco embed runs/published --label region",
            "poco embed runs/published --label region --out embeddings.csv --figures figures",
            "poco embed runs/published --label neuron_class --neighbours 1 --json",
        ),
    )
    def embed(
        run: Annotated[
            Path,
            typer.Argument(help="A folder that 'poco train --recipe published' or 'poco adapt' wrote, or of a model."),
        ],
        label: Annotated[
            str | None, typer.Option(help="Label of the units that says their region (default: the only one).")
        ] = None,
        out: Annotated[Path | None, typer.Option(help="Write the embeddings here: .csv or .npz.")] = None,
        figures: Annotated[
            Path | None, typer.Option(help="Draw planes, maps of the brain and similarities into this folder.")
        ] = None,
        data: Annotated[
            Path | None,
            typer.Option(
                help="Where the run's recordings are now (default: where they were; of a model alone it is not known)."
            ),
        ] = None,
        neighbours: Annotated[int, typer.Option(help="Nearest units that vote on the region of a unit.")] = 5,
        shuffles: Annotated[int, typer.Option(help="Shuffles of labels to compare with.")] = 999,
        seed: Annotated[int, typer.Option(help="Seed of shuffles and of untrained embeddings.")] = 0,
        json: Json = False,
    ) -> None:
        """Take the unit embeddings of the model in RUN, and ask whether units of one region lie together.

        Silhouette, and the region of a unit as its nearest units tell it, of the same session and of other animals,
        each beside shuffled labels (with a p-value) and beside untrained embeddings. The JSON document also has the
        mean similarity of each two regions in each session.
        """
        from poco import unit_embeddings as of
        from poco.adapted import Adapted
        from poco.files import ADAPTATION

        if out is not None and out.exists():
            raise ConfigError(f"{out} is there already: choose another file with --out")
        if figures is not None:
            must_be_empty(figures, "--figures")
        if (run / ADAPTATION).exists():
            adapted = Adapted.load(run, data)
            model, recordings = adapted.model, adapted.split.recordings
        else:
            model, recordings = _opened(run, data)
        found = of.embeddings(model, recordings)
        chosen = of.choose(recordings, label)
        written = of.write(found, out) if out is not None else None
        if figures is not None:
            from poco.reporting.embeddings import draw

            for drawn in draw(found, recordings, chosen, {}):
                drawn.save(figures)
        kinds = {"trained": found, "untrained": of.untrained(found, seed)}
        measured = (
            {}
            if chosen is None
            else {
                kind: of.measures(entries, chosen, neighbours=neighbours, shuffles=shuffles, seed=seed)
                for kind, entries in kinds.items()
            }
        )
        if json:
            tables = [] if chosen is None else [_similarities(entry, chosen) for entry in found]
            as_json = {kind: {name: vars(m) for name, m in own.items()} for kind, own in measured.items()}
            print_json({"run": run, "label": chosen, "measures": as_json, "sessions": tables, "out": written})
            return
        units = sum(len(entry.units) for entry in found)
        say(f"{counted(units, 'unit')} in {counted(len(found), 'session')}, {found[0].vectors.shape[1]} numbers each")
        if not recordings:
            note("A model alone does not say where its recordings are: give them (--data) for labels and places.")
        elif chosen is None:
            note("The recordings have no labels of units: there is nothing to compare the embeddings with.")
        else:
            print_table(
                f"Do embeddings tell '{chosen}'? ({counted(neighbours, 'neighbour')}, {shuffles} shuffles)",
                ["embeddings", "measure", "value", "shuffled", "p", "sessions"],
                [
                    [kind, name, number(m.value), number(m.chance), number(m.p), str(m.sessions)]
                    for kind, own in measured.items()
                    for name, m in own.items()
                ],
            )
            for name, m in measured["trained"].items():
                if m.why:
                    note(f"No '{name}': {m.why}.")
        unread = len(found) - len(recordings)
        if chosen is not None and unread > 0:
            note(f"Measured in {counted(len(recordings), 'session')}; labels of {unread} others are not read here.")
        if figures is not None and recordings and all(recording.coordinates is None for recording in recordings):
            note("No map of the brain: the recordings do not say where the units lie.")
        for place in filter(None, (written, figures)):
            note(f"Written to {place}")


def _similarities(entry: SessionEmbeddings, label: str) -> dict[str, Any]:
    from poco.unit_embeddings import similarity

    regions, cosine = similarity(entry, label)
    return {
        "session": entry.session,
        "regions": regions,
        "cosine": cosine,
        "euclidean": similarity(entry, label, "euclidean")[1],
    }


def _opened(folder: Path, data: Path | None) -> tuple[Forecaster, tuple[Recording, ...]]:
    """The model of a run with the recordings that it was trained on, or a model alone with those in ``data``."""
    from poco.cli.runs import open_forecaster
    from poco.data.read import read
    from poco.nn.files import reading_options
    from poco.run import Run

    opened = open_forecaster(folder)
    if isinstance(opened, Run):
        return opened.model, opened.split(opened.read(data)).recordings
    names = [spec.name for spec in opened.sessions]
    found = () if data is None else tuple(r for r in read(data, **reading_options(opened)) if r.session in names)
    if data is not None and not found:
        raise DataError(f"{data} has no session that the model knows: these are {', '.join(names)}")
    return opened, found
