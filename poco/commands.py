"""What to type on the command line to make runs, adapted models and pages again."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poco.nn.files import reading_options
from poco.training.recipes import complete, recipe
from poco.wording import as_list

if TYPE_CHECKING:
    from poco.adapted import Adapted
    from poco.data.splits import Split
    from poco.run import Run

#: Options whose names are not those of the settings.
_NAMES = {"learning_rate": "lr", "rate_hz": "rate"}
#: Options of reading that the command line has; Python has more.
READING = (
    *("description", "key", "orientation", "rate_hz", "nan", "constant", "leave_out", "header", "time_column"),
    *("time_unit", "cut_trials", "published"),
)


def train(run: Run, cut: Split, out: str) -> str:
    """What trains the run again on a split, into a folder; settings that have no option are left out."""
    place, reading = run.source
    paths = [place] if isinstance(place, str) else list(place or ["DATA"])
    sizes, settings = recipe(run.config["recipe"])
    usual_sizes = dataclasses.asdict(sizes)
    usual = dataclasses.asdict(complete(run.config["recipe"], settings, cut))
    given = ["--recipe", run.config["recipe"], "--protocol", run.protocol, "--seed", str(run.config["seed"])]
    if run.config.get("seeds", 1) > 1:
        given += ["--seeds", str(run.config["seeds"])]
    used = dataclasses.asdict(run.train_config)
    names = ("steps", "val_every", "batch_size", "learning_rate", "precision", "warmup", "schedule", "ema", "patience")
    changed = {name: used[name] for name in names if used[name] != usual[name]}
    if used["clip"] != usual["clip"]:
        changed["clip"] = 0 if used["clip"] is None else used["clip"]
    used_sizes = dataclasses.asdict(run.model.config)
    for name in ("context", "horizon", "segment_length"):
        if name in used_sizes and used_sizes[name] != usual_sizes[name]:
            changed[name] = used_sizes[name]
    sessions = ["--sessions", as_list(entry["session"] for entry in run.config["sessions"])]
    if run.baselines == ("copy",):
        given.append("--no-baselines")
    return _typed("train", *paths, *sessions, *_reading(reading), *given, *_options(changed), "--out", out)


def adapt(adapted: Adapted, out: str) -> str:
    """What adapts the model again, into a folder."""
    given = [adapted.origin.get("run", "RUN"), adapted.origin.get("recording", "RECORDING")]
    given += ["--session", adapted.session, *_reading(reading_options(adapted.model))]
    given += ["--protocol", adapted.split.protocol]
    if adapted.unit_types is not None:
        given += ["--unit-types", adapted.unit_types]
    if adapted.frames is not None:
        given += ["--frames", str(adapted.frames)]
    names = ("steps", "batch_size", "learning_rate", "seed", "patience", "precision")
    settings = {name: adapted.settings.get(name) for name in names}
    if adapted.settings and settings["patience"] is None:
        settings["patience"] = 0
    return _typed("adapt", *given, "--mode", adapted.mode, *_options(settings), "--out", out)


def report(folders: Sequence[Path | None], label: str | None, out: str) -> str:
    """What writes the page again, into a folder."""
    named = ["--label", label] if label is not None else []
    return _typed("report", *(str(folder or "RUN") for folder in folders), *named, "--out", out)


def option(setting: str) -> str:
    """The option of the command line by the name of a setting."""
    return f"--{_NAMES.get(setting, setting).replace('_', '-')}"


def _typed(*arguments: str) -> str:
    return shlex.join(["poco", *arguments])


def _reading(options: Mapping[str, Any]) -> list[str]:
    """Options of reading, those that the command line has."""
    return _options({k: v for k, v in options.items() if k in READING and not isinstance(v, Mapping)})


def _options(settings: Mapping[str, Any]) -> list[str]:
    """Settings as options of the command line."""
    given = []
    for name, value in settings.items():
        if value is False:
            given.append(option(f"no_{name}"))
        elif value is True:
            given.append(option(name))
        elif value is not None:
            given += [option(name), as_list(value) if isinstance(value, list | tuple) else str(value)]
    return given
