"""Options that several commands share, and how they become recordings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from poco.errors import ConfigError, DataError

if TYPE_CHECKING:
    from poco.data.recording import Recording

_READING = "Reading"

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document, alone, on standard output.")]
Description = Annotated[
    Path | None,
    typer.Option(
        help="dataset.toml that says what the files leave open (default: one beside the data, or a built-in one).",
        rich_help_panel=_READING,
    ),
]
Key = Annotated[str | None, typer.Option(help="Name of the activity array in the file.", rich_help_panel=_READING)]
Orientation = Annotated[
    str | None,
    typer.Option(help="'units x frames' or 'frames x units'.", rich_help_panel=_READING),
]
Rate = Annotated[float | None, typer.Option(help="Frames a second.", rich_help_panel=_READING)]
Nan = Annotated[
    str | None,
    typer.Option(
        help="Units with NaN or infinite values: 'keep', 'drop' or 'error'; 'cut' leaves out frames without any value.",
        rich_help_panel=_READING,
    ),
]
Constant = Annotated[
    str | None, typer.Option(help="Units that never change: 'keep', 'drop' or 'error'.", rich_help_panel=_READING)
]
LeaveOut = Annotated[
    str | None,
    typer.Option(help="Units to leave out: SESSION/UNIT or UNIT, separated by commas.", rich_help_panel=_READING),
]
Header = Annotated[
    bool | None,
    typer.Option("--header/--no-header", help="The first line of a table (CSV) holds names.", rich_help_panel=_READING),
]
TimeColumn = Annotated[
    int | None,
    typer.Option(
        help="Column of a table (from 0) that holds time stamps or counts frames, and is no unit.",
        min=0,
        rich_help_panel=_READING,
    ),
]
CutTrials = Annotated[
    bool | None,
    typer.Option(
        "--cut-trials/--no-cut-trials",
        help="End windows at trial borders (default: as the description says).",
        rich_help_panel=_READING,
    ),
]
Published = Annotated[
    str | None,
    typer.Option(
        help="The files are those of andalman2019, atanas2023, chen2018, harvey, kato2015 or zapbench, as published.",
        rich_help_panel=_READING,
    ),
]
Sessions = Annotated[
    str | None,
    typer.Option(help="Use these sessions only: names separated by commas.", rich_help_panel=_READING),
]
Without = Annotated[
    str | None,
    typer.Option(help="Leave these sessions out: names separated by commas.", rich_help_panel=_READING),
]
Session = Annotated[
    str | None, typer.Option(help="Which session, where RECORDING holds several.", rich_help_panel=_READING)
]


def examples(*lines: str) -> str:
    """Text that shows example commands below a command's help, one a line."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


#: Options of every command that reads recordings, by their names.
_READS = {
    "description": Description,
    "key": Key,
    "orientation": Orientation,
    "rate": Rate,
    "nan": Nan,
    "constant": Constant,
    "leave_out": LeaveOut,
    "header": Header,
    "time_column": TimeColumn,
    "cut_trials": CutTrials,
    "published": Published,
}


def reads(command: Callable[..., None]) -> Callable[..., None]:
    """A command with the options of reading; it gets those that were given as ``reading``, see ``reading_options``."""
    hints = get_type_hints(command, include_extras=True)
    parameters = [p.replace(annotation=hints[p.name]) for p in signature(command).parameters.values()]
    parameters = [p for p in parameters if p.name != "reading"]
    parameters += [Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=a) for name, a in _READS.items()]

    def reading_command(**given: Any) -> None:
        options = {name: given.pop(name) for name in _READS}
        command(**given, reading=reading_options(**options))

    reading_command.__name__, reading_command.__doc__ = command.__name__, command.__doc__
    reading_command.__annotations__ = {p.name: p.annotation for p in parameters}
    reading_command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    return reading_command


def reading_options(
    *,
    description: Path | None = None,
    key: str | None = None,
    orientation: str | None = None,
    rate: float | None = None,
    nan: str | None = None,
    constant: str | None = None,
    leave_out: str | None = None,
    header: bool | None = None,
    time_column: int | None = None,
    cut_trials: bool | None = None,
    published: str | None = None,
) -> dict[str, Any]:
    """The options of ``poco.data.read`` that were given, by its names."""
    values = {
        "description": None if description is None else str(description.resolve()),
        "key": key,
        "orientation": orientation,
        "rate_hz": rate,
        "nan": nan,
        "constant": constant,
        "leave_out": None if leave_out is None else listed(leave_out),
        "header": header,
        "time_column": time_column,
        "cut_trials": cut_trials,
        "published": published,
    }
    if rate is not None and not rate > 0:
        raise ConfigError(f"rate_hz (--rate) must be above 0, got {rate:g}")
    choices = {"nan": ("keep", "drop", "cut", "error"), "constant": ("keep", "drop", "error")}
    for name, known in choices.items():
        if values[name] is not None and values[name] not in known:
            choice = f"{', '.join(map(repr, known[:-1]))} or '{known[-1]}'"
            raise ConfigError(f"--{name} must be {choice}, got '{values[name]}'")
    return {name: value for name, value in values.items() if value is not None}


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

    Raises:
        DataError: if it is not clear which, or it is not there; the message names the sessions.
    """
    from poco.data.choice import Choice
    from poco.data.read import read_chosen

    choice = Choice(None if session is None else [session])
    found = read_chosen(path, choice, **options)
    if session is None and len(found) > 1:
        raise DataError(
            f"{path} holds {len(found)} sessions: choose one with --session: {', '.join(r.session for r in found)}"
        )
    if not found:
        raise DataError(f"{path}: there is no session '{session}'; it has {', '.join(choice.names)}")
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


def listed(text: str) -> list[str]:
    """What a text has between commas."""
    return [name.strip() for name in text.split(",") if name.strip()]
