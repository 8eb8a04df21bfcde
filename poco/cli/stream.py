"""``poco stream``: a recorded session played as if it were live."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from poco.cli.options import (
    Description,
    Json,
    Key,
    Nan,
    Orientation,
    Rate,
    Session,
    choose_recording,
    examples,
    reading_options,
)
from poco.cli.output import counted, note, number, print_json, say

_BARS = "▁▂▃▄▅▆▇█"


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(
        short_help="Play a recording as if it were live, and watch latency and score.",
        epilog=examples(
            "poco stream runs/first --replay recordings/fish1.h5",
            "poco stream runs/first --replay recordings/ --session fish1 --speed 0 --json",
        ),
    )
    def stream(
        run: Annotated[Path, typer.Argument(help="A run folder, or a model folder.")],
        replay: Annotated[Path, typer.Option("--replay", help="The recording to play.")],
        as_session: Annotated[
            str | None, typer.Option("--as", help="Session of the model to use (default: the recording's own name).")
        ] = None,
        speed: Annotated[float, typer.Option(help="Times the recording's rate; 0: as fast as possible.", min=0)] = 1.0,
        frames: Annotated[int | None, typer.Option(help="Stop after so many frames.", min=1)] = None,
        precision: Annotated[str, typer.Option(help="'float32' or 'bf16'.")] = "float32",
        threads: Annotated[int | None, typer.Option(help="Threads of the engine.", min=1)] = None,
        missing: Annotated[str, typer.Option(help="Units without a value: 'hold' or 'drop'.")] = "hold",
        gap: Annotated[str, typer.Option(help="Missing frames: 'fill', 'restart' or 'refuse'.")] = "fill",
        deadline_ms: Annotated[float | None, typer.Option(help="Count forecasts that take longer.", min=0)] = None,
        description: Description = None,
        key: Key = None,
        orientation: Orientation = None,
        rate: Rate = None,
        nan: Nan = "keep",
        session: Session = None,
        json: Json = False,
    ) -> None:
        """Push the frames of a recording one by one at its rate, forecast after each, and score what then comes.

        Options of reading that are not given are those the run was trained with.
        """
        from poco.cli.runs import open_forecaster, source_of
        from poco.data.read import read
        from poco.replay import replay as play
        from poco.stream import Stream

        options = source_of(open_forecaster(run))[1]
        options |= reading_options(description=description, key=key, orientation=orientation, rate=rate, nan=nan)
        recording = choose_recording(read(replay, **options), session, replay)
        opened = Stream(
            run,
            as_session or recording.session,
            precision=precision,
            threads=threads,
            missing=missing,
            gap=gap,
            interval=1 / recording.rate_hz if recording.rate_hz else None,
            deadline_ms=deadline_ms,
        )
        if not json:
            note(f"session '{opened.session}', {counted(opened.units, 'unit')}, at {recording.rate_hz or 0:g} Hz")
        score = None
        with _Dashboard(silent=json) as dashboard:
            for found, score in play(opened, recording, speed=speed, frames=frames):
                dashboard.show(recording.activity[:, found.frame], found, score.score, opened.stats())
        stats = {**opened.stats(), "score": None if score is None else score.score}
        if json:
            print_json({"session": opened.session, "units": opened.units, **stats})
            return
        say(
            f"{counted(stats['frames'], 'frame')}, {counted(stats['forecasts'], 'forecast')}: median "
            f"{stats['p50_ms']:.3g} ms, 99% within {stats['p99_ms']:.3g} ms, longest {stats['longest_ms']:.3g} ms, "
            f"{stats['late']} late, {stats['gaps']} gaps; score {number(stats['score'])}"
        )


class _Dashboard:
    """One line that is written over and over: population, latency, what went wrong, score so far."""

    def __init__(self, *, silent: bool) -> None:
        from rich.console import Console
        from rich.live import Live

        console = Console(stderr=True)
        self._live = None if silent or not console.is_terminal else Live(console=console, refresh_per_second=8)
        self._past: list[float] = []

    def __enter__(self) -> _Dashboard:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, frame: object, found: object, score: float, stats: dict[str, float]) -> None:
        """What there is after a frame."""
        if self._live is None:
            return
        import numpy as np

        self._past = [*self._past[-39:], float(np.nanmean(np.asarray(frame, dtype=np.float64)))]
        low, high = min(self._past), max(self._past)
        bars = "".join(_BARS[int(7.99 * (v - low) / ((high - low) or 1))] for v in self._past)
        status, marks = getattr(found, "status", ""), ", ".join(sorted(getattr(found, "marks", ())))
        self._live.update(
            f"{bars}  frame {stats['frames']:,} {status}  p50 {stats['p50_ms']:.2f} ms  p99 {stats['p99_ms']:.2f} ms  "
            f"late {stats['late']}  gaps {stats['gaps']}  score {number(score)}  {marks}"
        )
