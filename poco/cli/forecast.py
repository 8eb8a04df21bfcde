"""``poco forecast``: forecasts of a recording, in its own units, to a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from poco.cli.options import (
    Constant,
    CutTrials,
    Description,
    Json,
    Key,
    Nan,
    Orientation,
    Rate,
    examples,
    reading_options,
)
from poco.cli.output import print_json, say
from poco.errors import ConfigError, DataError

if TYPE_CHECKING:
    from poco.data.recording import Recording


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(
        short_help="Forecast a recording, to a file.",
        epilog=examples(
            "poco forecast runs/first recordings/fish1.h5 --out forecasts.npz",
            "poco forecast runs/first recordings/ --session fish1 --out forecasts.zarr",
            "poco forecast runs/first today.npy --session fish1 --latest --out next.npz",
        ),
    )
    def forecast(
        run: Annotated[Path, typer.Argument(help="A run folder, or a model folder.")],
        recording: Annotated[Path, typer.Argument(help="The recording to forecast.")],
        out: Annotated[Path, typer.Option("--out", "-o", help="File to write: .npz or .zarr.")],
        session: Annotated[
            str | None, typer.Option(help="Session of the model to use (default: the recording's own name).")
        ] = None,
        latest: Annotated[
            bool, typer.Option("--latest", help="Only the forecast of the frames after the end of the recording.")
        ] = False,
        stride: Annotated[int, typer.Option(help="Frames from one forecast to the next.")] = 1,
        threads: Annotated[int | None, typer.Option(help="Threads on the CPU.")] = None,
        description: Description = None,
        key: Key = None,
        orientation: Orientation = None,
        rate: Rate = None,
        nan: Nan = None,
        constant: Constant = None,
        cut_trials: CutTrials = None,
        json: Json = False,
    ) -> None:
        """Forecast RECORDING with the model of RUN, wherever a whole context precedes, in the recording's own units.

        The file holds 'values' (windows x units x steps ahead) and 'frame', the first frame that each window forecasts.
        Options of reading that are not given are those the run was trained with.
        """
        from poco.cli.runs import open_forecaster, source_of
        from poco.cli.torch_settings import set_threads
        from poco.data.read import read
        from poco.forecasting import forecast as make
        from poco.run import Run

        if out.suffix not in (".npz", ".zarr"):
            raise ConfigError(f"--out must end in .npz or .zarr, got '{out.name}'")
        set_threads(threads)
        forecaster = open_forecaster(run)
        options = source_of(forecaster)[1] if isinstance(forecaster, Run) else {}
        options |= reading_options(
            key=key, orientation=orientation, rate=rate, nan=nan, constant=constant, cut_trials=cut_trials
        )
        if description is not None:
            options["description"] = description
        chosen = choose_recording(read(recording, **options), session, recording)
        forecasts = make(forecaster, chosen, session=session, stride=stride, latest=latest)
        forecasts.save(out)
        windows, units, horizon = forecasts.values.shape
        if json:
            print_json(
                {
                    "out": out,
                    "session": forecasts.session,
                    "windows": windows,
                    "units": units,
                    "horizon": horizon,
                    "first_frame": forecasts.frame[0],
                    "last_frame": forecasts.frame[-1] + horizon - 1,
                    "rate_hz": forecasts.rate_hz,
                }
            )
        else:
            say(f"{out}: {windows} forecasts of {units} units, {horizon} frames ahead, session '{forecasts.session}'")


def choose_recording(recordings: list[Recording], session: str | None, path: Path) -> Recording:
    """The only recording, or the one that has the session's name.

    Raises:
        DataError: if it is not clear which; the message names the sessions.
    """
    if len(recordings) == 1:
        return recordings[0]
    names = [recording.session for recording in recordings]
    if session is None:
        raise DataError(f"{path} holds {len(names)} sessions: choose one with --session: {', '.join(names)}")
    if session not in names:
        raise DataError(f"{path}: there is no session '{session}'; it has {', '.join(names)}")
    return recordings[names.index(session)]
