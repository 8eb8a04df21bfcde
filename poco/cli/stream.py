"""``poco stream``: frames of a wire, or of a recorded session played as if it were live, and their forecasts."""

from __future__ import annotations

import functools
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from poco.cli.options import Json, Session, examples, read_one, reads
from poco.cli.output import note, number, print_json, say
from poco.errors import ConfigError
from poco.wording import counted, listed

if TYPE_CHECKING:
    from poco.stream import Stream

# Of poco.wires, which takes long to import.
_FORMS = "zmq:PORT (this machine), zmq:tcp://HOST:PORT, lsl:NAME or shm:NAME"


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command(
        short_help="Forecast frames as they come, over a wire or from a recording played as if live.",
        epilog=examples(
            "poco stream runs/first --replay recordings/fish1.h5",
            "poco stream runs/first --replay recordings/ --session fish1 --speed 0 --json",
            "poco stream runs/first --as fish1 --in zmq:tcp://rig:5555 --out zmq:5556 --deadline-ms 20",
            "poco stream runs/first --as fish1 --serve zmq:5555",
        ),
    )
    @reads
    def stream(
        run: Annotated[Path, typer.Argument(help="A run folder, or a model folder.")],
        replay: Annotated[Path | None, typer.Option("--replay", help="A recording to play.")] = None,
        source: Annotated[str | None, typer.Option("--in", help=f"Where frames come from: {_FORMS}.")] = None,
        sink: Annotated[str | None, typer.Option("--out", help=f"Where forecasts go: {_FORMS}.")] = None,
        serve: Annotated[
            str | None,
            typer.Option(
                help="Answer each frame that a client sends with its forecast: zmq:PORT or 'zmq:tcp://*:PORT'."
            ),
        ] = None,
        as_session: Annotated[
            str | None,
            typer.Option("--as", help="Session of the model to use (default: the recording's, or the only one)."),
        ] = None,
        speed: Annotated[float, typer.Option(help="Times the recording's rate; 0: as fast as possible.", min=0)] = 1.0,
        frames: Annotated[int | None, typer.Option(help="Stop after so many frames.", min=1)] = None,
        precision: Annotated[str, typer.Option(help="'float32' or 'bf16'.")] = "float32",
        threads: Annotated[int | None, typer.Option(help="Threads of the engine.", min=1)] = None,
        device: Annotated[str, typer.Option(help="'cpu', or 'cuda' or 'cuda:1': a GPU forecasts.")] = "cpu",
        spin: Annotated[bool, typer.Option("--spin", help="Ask the GPU without a pause whether it is done.")] = False,
        missing: Annotated[str, typer.Option(help="Units without a value: 'hold' or 'drop'.")] = "hold",
        gap: Annotated[str, typer.Option(help="Missing frames: 'fill', 'restart' or 'refuse'.")] = "fill",
        deadline_ms: Annotated[float | None, typer.Option(help="Mark and count later forecasts.", min=0)] = None,
        silence: Annotated[float, typer.Option(help="Seconds without a frame after which it is said.", min=0.1)] = 5.0,
        cpus: Annotated[str | None, typer.Option(help="CPUs to run on, separated by commas.")] = None,
        priority: Annotated[int, typer.Option(help="Real-time priority (SCHED_FIFO), 1 to 99; 0: none.", min=0)] = 0,
        lock_memory: Annotated[bool, typer.Option("--lock-memory", help="Have no memory paged out.")] = False,
        session: Session = None,
        json: Json = False,
        *,
        reading: dict[str, Any],
    ) -> None:
        """Take frames one by one, forecast after each, and score what then comes.

        They come from a recording, played at its rate (--replay), from a wire until Ctrl-C ends it (--in), or each from
        a client that gets the forecast as its answer (--serve). Ctrl-C or SIGTERM ends any of them with all counters.
        Options of reading that are not given are those the run was trained with; of another recording, those that it
        leaves open itself.
        """
        if sum(given is not None for given in (replay, source, serve)) != 1:
            raise ConfigError("give one of --replay RECORDING, --in WIRE and --serve WIRE")
        if serve is not None and sink is not None:
            raise ConfigError("--serve answers who asked: --out has no place beside it")
        if source is not None and source == sink:
            raise ConfigError(f"--in and --out are both {source}: the stream would hear itself")
        if cpus is not None or priority or lock_memory:
            from poco.stream import set_realtime

            set_realtime(_numbers(cpus or ""), priority, lock_memory)
        options = {
            "precision": precision,
            "threads": threads,
            "device": device,
            "spin": spin,
            "missing": missing,
            "gap": gap,
            "deadline_ms": deadline_ms,
        }
        with _sigterm_as_ctrl_c():
            if replay is not None:
                _replay(run, replay, sink, as_session, session, options, reading, speed, frames, silent=json)
            elif source is not None:
                _listen(run, source, sink, as_session, options, reading.get("rate_hz"), frames, silence, silent=json)
            elif serve is not None:
                _serve(run, serve, as_session, options, reading.get("rate_hz"), frames, silent=json)


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """SIGTERM ends what is done inside as Ctrl-C does: wires are closed, and counters are said."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _numbers(text: str) -> list[int]:
    """``"2,3"`` as numbers; a ConfigError if they are none."""
    words = listed(text)
    if not all(word.isascii() and word.isdigit() for word in words):
        raise ConfigError(f"--cpus takes numbers separated by commas, such as 2,3; got '{text}'")
    return [int(word) for word in words]


def _replay(
    run: Path,
    recorded: Path,
    sink: str | None,
    as_session: str | None,
    session: str | None,
    options: dict[str, Any],
    reading: dict[str, Any],
    speed: float,
    frames: int | None,
    *,
    silent: bool,
) -> None:
    """Plays a recording."""
    import numpy as np

    from poco.cli.dashboard import dashboard
    from poco.cli.runs import open_forecaster, reading_of
    from poco.models import model_of
    from poco.replay import replay as play
    from poco.stream import Stream
    from poco.wires import open_sink

    forecaster = open_forecaster(run)
    recording = read_one(recorded, session, reading_of(run, forecaster, recorded) | reading)
    interval = 1 / recording.rate_hz if recording.rate_hz else None
    opened = Stream(run, as_session or recording.session, interval=interval, **options)
    model = model_of(forecaster, "what is streamed")
    played = play(opened, model, recording, speed=speed, frames=frames)
    with ExitStack() as ends:
        out = None if sink is None else ends.enter_context(closing(open_sink(sink, opened.units, opened.horizon)))
        show = ends.enter_context(dashboard(silent=silent))
        score, resets = None, 0
        with suppress(KeyboardInterrupt):
            if not silent:
                note(f"session '{opened.session}', {counted(opened.units, 'unit')}, at {recording.rate_hz or 0:g} Hz")
            for number, found, score in played:
                resets += "restarted" in found.marks
                if out is not None:
                    out.send(number, found)
                seen = np.where(opened.seen, recording.activity[:, number], np.nan)
                show(seen, found, score.score, opened.stats())
    more = {"resets": resets} | ({} if out is None else {"dropped_forecasts": out.dropped})
    _report(opened, None if score is None else score.score, more, silent=silent)
    if not silent:
        note("The score is of every frame played, those of training too: 'poco eval' scores the test part alone.")


def _listen(
    run: Path,
    source: str,
    sink: str | None,
    as_session: str | None,
    options: dict[str, Any],
    rate: float | None,
    frames: int | None,
    silence: float,
    *,
    silent: bool,
) -> None:
    """Takes frames from a wire until there were enough, or somebody ends it."""
    import numpy as np

    from poco.cli.dashboard import dashboard
    from poco.replay import ScoreSoFar
    from poco.stream import Stream
    from poco.wires import open_sink, open_source
    from poco.wires.live import Live

    model, chosen, interval, std = _session_of(run, as_session, rate)
    opened = Stream(model, chosen, interval=interval, **options)
    score = ScoreSoFar(std)
    with ExitStack() as ends:
        out = None
        if sink is not None:
            made = open_sink(sink, opened.units, opened.horizon, lsl_times=source.startswith("lsl:"))
            out = ends.enter_context(closing(made))
        came = ends.enter_context(closing(open_source(source, opened.units)))
        show = ends.enter_context(dashboard(silent=silent))
        live = Live(opened, came, out, silence=silence, log=note)
        where = "" if sink is None else f", to {sink}"
        with suppress(KeyboardInterrupt):
            note(f"session '{opened.session}', {counted(opened.units, 'unit')}, from {source}{where}: Ctrl-C ends it")
            last = -1
            for taken, (frame, found) in enumerate(live, start=1):
                if found.frame != last + 1 or "restarted" in found.marks:
                    score.lost()
                last = found.frame
                seen = np.where(opened.seen, frame.values, np.float32("nan"))
                score.come(seen, found)
                show(seen, found, score.score, {**opened.stats(), "late": live.feed.late})
                if taken == frames:
                    break
    waiting = live.feed.waiting
    waited = {"waited_p50_ms": waiting.p50_ms, "waited_longest_ms": waiting.longest_ms, "late": live.feed.late}
    more = {"resets": live.feed.resets, "silences": live.silences, "repeated_frames": live.feed.repeated}
    more |= {"dropped_frames": came.dropped, "damaged_messages": came.damaged}
    more |= {} if out is None else {"dropped_forecasts": out.dropped}
    _report(opened, score.score, more, waited, silent=silent)


def _serve(
    run: Path,
    address: str,
    as_session: str | None,
    options: dict[str, Any],
    rate: float | None,
    frames: int | None,
    *,
    silent: bool,
) -> None:
    """Answers frames until there were enough, or somebody ends it."""
    from poco.stream import Stream
    from poco.wires import open_service

    model, chosen, interval, _ = _session_of(run, as_session, rate)
    opened, taken = functools.partial(Stream, model, chosen, interval=interval, **options), 0
    with closing(open_service(address, opened, log=note)) as service, suppress(KeyboardInterrupt):
        note(f"session '{chosen}', {counted(service.units, 'unit')}, answers at {service.endpoint}: Ctrl-C ends it")
        while taken != frames:
            taken += service.answer(0.5) is not None
    found = {"frames": taken, "clients": service.clients + service.forgotten, "refused": service.refused}
    found |= {"dropped_answers": service.dropped}
    if silent:
        print_json({"session": chosen, "units": service.units, **found})
        return
    say(", ".join(f"{value} {name.replace('_', ' ')}" for name, value in found.items()))


def _session_of(run: Path, as_session: str | None, rate: float | None) -> tuple[Any, str, float | None, Any]:
    """The model for streams, the session of it, seconds from frame to frame if known, deviations of the units."""
    from poco.cli.runs import open_forecaster
    from poco.data.checks import rates_differ
    from poco.models import model_of
    from poco.nn.files import learnt_rate
    from poco.stream import open_model

    model = model_of(open_forecaster(run), "what is streamed")
    chosen = model.sessions[model.session_index(as_session)].name
    learnt = learnt_rate(model, chosen)
    if rates_differ(rate, learnt):
        raise ConfigError(
            f"the model learnt session '{chosen}' at {learnt:.4g} frames a second, and --rate says {rate:.4g}: have "
            "frames sent at the rate that it was learnt at, and leave --rate out"
        )
    rate = rate or learnt
    return open_model(run), chosen, 1 / rate if rate else None, model.normalisation(chosen)[1].numpy()


def _report(
    stream: Stream,
    score: float | None,
    more: dict[str, int],
    waited: dict[str, float] | None = None,
    *,
    silent: bool,
) -> None:
    """Prints what came of it all."""
    stats = {**stream.stats(), "score": score, **(waited or {}), **more}
    if silent:
        print_json({"session": stream.session, "units": stream.units, **stats})
        return
    rest = "" if waited is None else f", frames waited at most {waited['waited_longest_ms']:.3g} ms"
    more = {name: stats[name] for name in ("filled", "held_values", "refused", "off_rate", "off_scale")} | more
    rest += "".join(f", {value} {name.replace('_', ' ')}" for name, value in more.items() if value)
    say(
        f"{counted(stats['frames'], 'frame')}, {counted(stats['forecasts'], 'forecast')}: median "
        f"{stats['p50_ms']:.3g} ms, 99% within {stats['p99_ms']:.3g} ms, longest {stats['longest_ms']:.3g} ms, "
        f"{stats['late']} late, {stats['gaps']} gaps{rest}; score {number(stats['score'])}"
    )
