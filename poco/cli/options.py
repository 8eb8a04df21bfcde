"""Options that several commands share, and how they become recordings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from poco.cli.output import note
from poco.errors import ConfigError, DataError
from poco.wording import enumerated, listed

if TYPE_CHECKING:
    from poco.data.recording import Recording

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, alone, on standard output.")]
Threads = Annotated[int | None, typer.Option(help="Threads on the CPU.")]
Sessions = Annotated[
    str | None,
    typer.Option(help="Use these sessions only: names separated by commas, a name with a comma in double quotes."),
]
Without = Annotated[
    str | None,
    typer.Option(help="Leave these sessions out: names separated by commas."),
]
Session = Annotated[str | None, typer.Option(help="Which session, where RECORDING holds several.")]


def examples(*lines: str) -> str:
    """Text that shows example commands below a command's help, one a line."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


#: Options of every command that reads recordings, by the names that ``poco.read`` gives them.
_READS: dict[str, Any] = {
    "description": Annotated[
        Path | None,
        typer.Option(
            help="dataset.toml that says what the files leave open (default: one beside the data, or a built-in one)."
        ),
    ],
    "key": Annotated[str | None, typer.Option(help="Name of the activity array in the file.")],
    "orientation": Annotated[str | None, typer.Option(help="'units x frames' or 'frames x units'.")],
    "rate_hz": Annotated[float | None, typer.Option("--rate", help="Frames a second.")],
    "nan": Annotated[
        str | None,
        typer.Option(
            help="Units with NaN or infinite values: 'keep', 'drop' or 'error'; 'cut' leaves out frames that all "
            "units lack, 'cut-drop' also drops units that lack values of others."
        ),
    ],
    "constant": Annotated[str | None, typer.Option(help="Units that never change: 'keep', 'drop' or 'error'.")],
    "leave_out": Annotated[
        str | None, typer.Option(help="Units to leave out: SESSION/UNIT or UNIT, separated by commas.")
    ],
    "header": Annotated[
        bool | None, typer.Option("--header/--no-header", help="The first line of a table (CSV) holds names.")
    ],
    "time_column": Annotated[
        int | None,
        typer.Option(help="Column of a table (from 0) that holds time stamps or counts frames, and is no unit.", min=0),
    ],
    "time_unit": Annotated[str | None, typer.Option(help="What time stamps are in: 's' or 'ms'.")],
    "cut_trials": Annotated[
        bool | None,
        typer.Option(
            "--cut-trials/--no-cut-trials", help="End windows at trial borders (default: as the description says)."
        ),
    ],
    "published": Annotated[
        str | None,
        typer.Option(
            help="The files are those of andalman2019, atanas2023, chen2018, harvey, kato2015 or zapbench, as "
            "published."
        ),
    ],
}


def reads(command: Callable[..., None]) -> Callable[..., None]:
    """A command with the options of reading; it gets those that were given as ``reading``, see ``reading_options``."""
    hints = get_type_hints(command, include_extras=True)
    parameters = [p.replace(annotation=hints[p.name]) for p in signature(command).parameters.values()]
    parameters = [p for p in parameters if p.name != "reading"]
    parameters += [Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=a) for name, a in _READS.items()]

    def reading_command(**given: Any) -> None:
        options = {name: given.pop(name) for name in _READS}
        command(**given, reading=reading_options(options))

    reading_command.__name__, reading_command.__doc__ = command.__name__, command.__doc__
    reading_command.__annotations__ = {p.name: p.annotation for p in parameters}
    reading_command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    return reading_command


def reading_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of reading that are not None, as ``poco.read`` takes them.

    Raises:
        ConfigError: if one has a value that cannot be.
    """
    from poco.data.description import CHOICES

    found = {name: value for name, value in given.items() if value is not None}
    if "description" in found:
        found["description"] = str(found["description"].resolve())
    if "leave_out" in found:
        found["leave_out"] = listed(found["leave_out"])
    if not 0 < found.get("rate_hz", 1.0) < math.inf:
        raise ConfigError(f"rate_hz (--rate) must be above 0 and finite, got {found['rate_hz']:g}")
    for name in ("nan", "constant", "time_unit"):
        known = CHOICES[name]
        if found.get(name, known[0]) not in known:
            choice = f"{', '.join(map(repr, known[:-1]))} or '{known[-1]}'"
            raise ConfigError(f"--{name.replace('_', '-')} must be {choice}, got '{found[name]}'")
    return found


def set_threads(threads: int | None) -> None:
    """Let torch use so many threads on the CPU; None leaves its own choice."""
    if threads is None:
        return
    if threads < 1:
        raise ConfigError(f"--threads must be at least 1, got {threads}")
    import torch

    torch.set_num_threads(threads)


def must_be_empty(folder: Path, option: str) -> None:
    """A ConfigError if a folder to write to is there and holds something, so that nothing is replaced."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} exists and is not an empty folder: choose another one with {option}")


def chosen_sessions(sessions: str | None, without: str | None = None) -> dict[str, Any]:
    """The options ``sessions`` and ``without`` of ``poco.data.read`` that were given.

    Raises:
        ConfigError: if a list is empty.
    """
    return lists_of({"sessions": sessions, "without": without}, "no session")


def read_one(path: Path, session: str | None, options: dict[str, Any]) -> Recording:
    """The recording of the session in a file or folder, or the only one where no session is named.

    Its warnings are said.

    Raises:
        DataError: if it is not clear which, or it is not there; the message names the sessions.
    """
    from poco.data.choice import Choice
    from poco.data.read import read_chosen

    choice = Choice(session)
    found = read_chosen(path, choice, **options)
    if session is None and len(found) > 1:
        raise DataError(
            f"{path} holds {len(found)} sessions: choose one with --session: {', '.join(r.session for r in found)}"
        )
    if not found:
        raise DataError(f"{path}: there is no session '{session}'; it has {enumerated(choice.names)}")
    for warning in found[0].warnings:
        note(f"warning: session '{found[0].session}': {warning}")
    return found[0]


def lists_of(given: Mapping[str, str | None], none: str = "nothing") -> dict[str, list[str]]:
    """The lists that were given, by their options.

    Raises:
        ConfigError: if one is empty: it names ``none``.
    """
    lists = {name: listed(text) for name, text in given.items() if text is not None}
    empty = next((name for name, names in lists.items() if not names), None)
    if empty is not None:
        raise ConfigError(f"--{empty} names {none}")
    return lists
