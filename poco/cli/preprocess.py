"""``poco preprocess``: filtered, downsampled recordings, or their components, as files of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from poco.cli.options import Json, Sessions, Without, chosen_sessions, examples, reads
from poco.cli.output import print_json, say
from poco.wording import counted


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(
        short_help="Filter, downsample or reduce recordings; write what comes out.",
        epilog=examples(
            "poco preprocess recordings/ --out components --components 512",
            "poco preprocess recordings/ --out slower --high 0.1 --downsample 2",
            "poco preprocess session.mat --key dF --orientation 'frames x units' --rate 30 --out converted",
            "poco train components/",
        ),
    )
    @reads
    def preprocess(
        data: Annotated[list[Path], typer.Argument(help="Files or folders of recordings.")],
        out: Annotated[Path, typer.Option("--out", "-o", help="Folder to write the recordings to.")],
        low: Annotated[
            float | None, typer.Option(help="Take away frequencies below this, in cycles a frame (0 to 0.5).")
        ] = None,
        high: Annotated[
            float | None, typer.Option(help="Take away frequencies above this, in cycles a frame (0 to 0.5).")
        ] = None,
        causal: Annotated[
            bool, typer.Option("--causal", help="Filter forwards alone, as a rig can: delayed, nothing from later.")
        ] = False,
        from_rest: Annotated[
            bool,
            typer.Option(
                "--from-rest",
                help="Begin each pass of a filter at the unit's mean, as published, not settled on mirrored ends.",
            ),
        ] = False,
        downsample: Annotated[int | None, typer.Option(help="Average so many frames each.")] = None,
        components: Annotated[
            int | None, typer.Option(help="So many principal components in place of the units.")
        ] = None,
        all_frames: Annotated[
            bool,
            typer.Option(
                "--all-frames",
                help="Take components from all frames, as published, not from the first 60% (the training part) alone.",
            ),
        ] = False,
        sessions: Sessions = None,
        without: Without = None,
        json: Json = False,
        *,
        reading: dict[str, Any],
    ) -> None:
        """Filter the recordings in DATA, then downsample them, then take components, each where asked for.

        Every session becomes an NPZ file in OUT that needs no description: names, labels, places, channels, rate and
        what was done to it are in it. Without any of the three the recordings are only converted. A filter is a
        Butterworth filter of order 4, run forwards and backwards unless --causal: then each frame holds some of what
        came after it, which no rig can have, and a warning stays with the recording.
        """
        from poco.data import preprocess as by
        from poco.data.read import read
        from poco.data.recording import warnings_of
        from poco.data.splits import split
        from poco.data.write import write
        from poco.errors import ConfigError

        if components is None and all_frames:
            raise ConfigError("--all-frames is about --components: give both")
        if low is None and high is None and (causal or from_rest):
            raise ConfigError(f"--{'causal' if causal else 'from-rest'} is about a filter: give --low, --high or both")
        if causal and from_rest:
            raise ConfigError("--causal and --from-rest exclude each other: from rest is forwards and backwards")
        if any(path.is_dir() and out.resolve() == path.resolve() for path in data):
            raise ConfigError(f"{out} is read itself, and would hold each session twice: choose another --out")
        found = read([str(path) for path in data], **chosen_sessions(sessions, without), **reading)
        if low is not None or high is not None:
            found = [
                by.butterworth(recording, low=low, high=high, causal=causal, padded=not from_rest)
                for recording in found
            ]
        if downsample is not None:
            found = [by.downsample(recording, downsample) for recording in found]
        if components is not None:
            parts = [None] * len(found) if all_frames else split(found, context=1, horizon=1).segments["train"]
            found = [by.components(one, components, frames=frames) for one, frames in zip(found, parts, strict=True)]
        files = write(found, out)
        if json:
            done = [
                {
                    "session": one.session,
                    "file": file,
                    "units": one.units,
                    "frames": one.frames,
                    "rate_hz": one.rate_hz,
                    "preprocessing": one.provenance.get("preprocessing", ""),
                }
                for one, file in zip(found, files, strict=True)
            ]
            print_json({"recordings": done})
            return
        for one, file in zip(found, files, strict=True):
            size = f"{counted(one.units, 'unit')}, {counted(one.frames, 'frame')}"
            say(f"{file}: {size}; {one.provenance.get('preprocessing', 'as it was')}")
        for line in warnings_of(found):
            say(f"warning: {line}")
