"""``poco forecast``: forecasts of a recording, in its own units, to a file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from poco.cli.options import Json, Session, Threads, examples, read_one, reads, set_threads
from poco.cli.output import print_json, say
from poco.wording import counted


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(
        short_help="Forecast a recording, to a file.",
        epilog=examples(
            "poco forecast runs/first recordings/fish1.h5 --out forecasts.npz",
            "poco forecast runs/first recordings/ --session fish1 --out forecasts.zarr",
            "poco forecast runs/first today.npy --as fish1 --latest --out next.npz",
        ),
    )
    @reads
    def forecast(
        run: Annotated[Path, typer.Argument(help="A run folder, or a model folder.")],
        recording: Annotated[Path, typer.Argument(help="The recording to forecast.")],
        out: Annotated[Path, typer.Option("--out", "-o", help="File to write: .npz or .zarr.")],
        as_session: Annotated[
            str | None, typer.Option("--as", help="Session of the model to use (default: the recording's own name).")
        ] = None,
        latest: Annotated[
            bool, typer.Option("--latest", help="Only the forecast of the frames after the end of the recording.")
        ] = False,
        overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace earlier forecasts in --out.")] = False,
        stride: Annotated[int, typer.Option(help="Frames from one forecast to the next.")] = 1,
        threads: Threads = None,
        session: Session = None,
        json: Json = False,
        *,
        reading: dict[str, Any],
    ) -> None:
        """Forecast RECORDING with the model of RUN, wherever a whole context precedes, in the recording's own units.

        The file holds 'values' (windows x units x steps ahead) and 'frame', the first frame that each window forecasts.
        Of a recording that the run was trained on, the first ones are of frames that it has learnt: 'poco eval' scores
        the test part alone. Options of reading that are not given are those the run was trained with; of another
        recording, those that it leaves open itself.
        """
        from poco.cli.runs import open_forecaster, reading_of
        from poco.forecasting import check_place
        from poco.forecasting import forecast as make

        check_place(out, overwrite=overwrite)
        set_threads(threads)
        forecaster = open_forecaster(run)
        chosen = read_one(recording, session, reading_of(run, forecaster, recording) | reading)
        forecasts = make(forecaster, chosen, session=as_session, stride=stride, latest=latest)
        forecasts.save(out, overwrite=overwrite)
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
            what = f"{counted(windows, 'forecast')} of {counted(units, 'unit')}, {counted(horizon, 'frame')} ahead"
            say(f"{out}: {what}, session '{forecasts.session}'")
