"""Options that several commands share, and how they become recordings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    typer.Option(help="Units with NaN or infinite values: 'keep', 'drop' or 'error'.", rich_help_panel=_READING),
]
Constant = Annotated[
    str | None, typer.Option(help="Units that never change: 'keep', 'drop' or 'error'.", rich_help_panel=_READING)
]
CutTrials = Annotated[
    bool | None,
    typer.Option(
        "--cut-trials/--no-cut-trials",
        help="End windows at trial borders (default: as the description says).",
        rich_help_panel=_READING,
    ),
]
Sessions = Annotated[
    str | None,
    typer.Option(help="Use these sessions only: names separated by commas.", rich_help_panel=_READING),
]


def examples(*lines: str) -> str:
    """Text that shows example commands below a command's help, one a line."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def reading_options(
    *,
    key: str | None = None,
    orientation: str | None = None,
    rate: float | None = None,
    nan: str | None = None,
    constant: str | None = None,
    cut_trials: bool | None = None,
) -> dict[str, Any]:
    """The options of ``poco.data.read`` that were given, by its names."""
    values = {
        "key": key,
        "orientation": orientation,
        "rate_hz": rate,
        "nan": nan,
        "constant": constant,
        "cut_trials": cut_trials,
    }
    for name in ("nan", "constant"):
        if values[name] not in (None, "keep", "drop", "error"):
            raise ConfigError(f"--{name} must be 'keep', 'drop' or 'error', got '{values[name]}'")
    return {name: value for name, value in values.items() if value is not None}


def pick_sessions(recordings: list[Recording], sessions: str | None) -> list[Recording]:
    """The recordings whose names are listed, in the order of the recordings.

    Raises:
        DataError: if a listed session is not there; the message names those that are.
    """
    if sessions is None:
        return recordings
    wanted = [name.strip() for name in sessions.split(",") if name.strip()]
    names = [recording.session for recording in recordings]
    for name in wanted:
        if name not in names:
            raise DataError(f"there is no session '{name}' here: the sessions are {', '.join(names)}")
    if not wanted:
        raise ConfigError("--sessions names no session")
    return [recording for recording in recordings if recording.session in wanted]
