"""Training a forecaster from recordings to a run folder."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poco.data.checks import as_recordings
from poco.data.origin import source as source_of
from poco.data.recording import Recording
from poco.data.splits import split
from poco.errors import CheckpointError, ConfigError
from poco.fields import check_kind
from poco.files import (
    BASELINES,
    CONFIG,
    EVALUATION,
    FIGURE,
    LOCK,
    LOG,
    MEMBERS,
    METRICS,
    MODEL,
    RESUME,
    is_leftover,
    write_json,
)
from poco.nn.files import read_config as read_model_config
from poco.training import recipes
from poco.training.callbacks import Callback, Progress, check_callbacks
from poco.training.config import TrainConfig
from poco.training.folder import RunFiles, held, log, read_config, remove_scores, run_config
from poco.training.loop import config_changes
from poco.training.members import train_members
from poco.training.trainer import Trainer, embedded_label
from poco.wording import choices

if TYPE_CHECKING:
    from poco.models import Forecaster, Member, Sizes
    from poco.run import Run


def train(
    recordings: Recording | Sequence[Recording],
    *,
    model_config: Sizes | Mapping[str, Any] | None = None,
    train_config: TrainConfig | Mapping[str, Any] | None = None,
    steps: int | None = None,
    protocol: str | None = None,
    recipe: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool | None = None,
    callbacks: Sequence[Callback] = (),
    source: Mapping[str, Any] | None = None,
    unit_types: str | None = None,
    seeds: int | None = None,
    baselines: Sequence[str] | None = None,
) -> Run:
    """Train a forecaster on recordings: one on the ground, a POCO, or an ensemble of several seeds of either.

    A run with a folder can be stopped by SIGINT or SIGTERM, or killed at any moment, and continued with ``resume``.
    What is not given then is as in the run; what is given must be as in the run, but for more steps, more seeds of
    several, and what changes no weight. One process at a time trains in a folder.

    Args:
        recordings: the sessions, or one.
        model_config: sizes and options of the model: all of them, or some by name, the others being the recipe's.
        train_config: settings of the loop: all of them, or some by name, the others being the recipe's. What a
            ``TrainConfig`` is not given is as published; :func:`poco.training.recipe` has those of a recipe.
        steps: optimiser steps, in place of those of the settings.
        protocol: ``"leak-free"`` (the default) or ``"published"``, see :mod:`poco.data.splits`.
        recipe: where settings that are not given come from: ``"grounded"`` or ``"published"``; default that of the
            kind of ``model_config``, else ``"grounded"``.
        out: run folder to make; None keeps the run in memory.
        resume: continue the run in ``out``, or start it if there is none yet.
        overwrite: replace a run that is in ``out``.
        progress: whether to show progress on standard error; default yes.
        callbacks: what else may watch.
        source: how the recordings were read (``path``, ``options``), kept so that they can be read again; default as
            :func:`poco.read` read them, where it did, with the same options and all as they were read.
        unit_types: label of the units that ``unit_type_embedding`` embeds; default the only one there is.
        seeds: how many seeds to train from (1), that of the settings and those after it. With several the model is a
            :class:`poco.Ensemble`, which averages their forecasts. A run of several may be resumed with more.
        baselines: what the run is to be compared with, kept in its settings for who evaluates it; not computed here.

    Returns:
        The run, with the best model.

    Raises:
        ConfigError: for settings that cannot work, an existing run without ``resume`` or ``overwrite``, or a folder
            that another process trains in.
        CheckpointError: if a run cannot be continued, and why, or a file cannot be written.
        DataError: if the recordings cannot be used as they stand.
        Interrupted: after SIGINT or SIGTERM, when the state has been saved.
    """
    from poco.baselines import check_names
    from poco.run import Run

    check_kind("seeds", seeds, int | None)
    if seeds is not None and seeds < 1:
        raise ConfigError(f"seeds must be at least 1, got {seeds}")
    check_callbacks(callbacks)
    if baselines is not None:
        check_names(baselines)
    recordings = as_recordings(recordings)
    folder = Path(out) if out is not None else None
    before = read_config(folder) if resume and folder is not None and (folder / CONFIG).exists() else None
    known: Mapping[str, Any] = before or {}
    protocol = protocol or known.get("protocol", "leak-free")
    seeds = seeds or known.get("seeds", 1)
    baselines = baselines if baselines is not None else known.get("baselines")
    whole = None if isinstance(model_config, Mapping) else model_config
    recipe = recipes.of(whole, known.get("recipe") if recipe is None and whole is None else recipe)
    if recipe != known.get("recipe", recipe):
        raise _changed(folder, [f"recipe was {known['recipe']}, now {recipe}"])
    sizes, settings = _settings(before, recipe, model_config, train_config)
    settings = settings if steps is None else dataclasses.replace(settings, steps=steps)
    settings.torch_device()
    cut = split(recordings, protocol=protocol, context=sizes.context, horizon=sizes.horizon)
    settings = recipes.complete(recipe, settings, cut)
    unit_types = embedded_label(sizes, cut.recordings, unit_types, known.get("unit_types"))
    source = _with_full_path(source) if source is not None else source_of(recordings) or known.get("source")
    config = run_config(cut, sizes.to_dict(), settings, recipe, source, seeds, baselines, unit_types)
    watching = [*callbacks]
    if progress is None or progress:
        watching.append(Progress())
    if folder is not None:
        watching.insert(0, RunFiles(folder, config))
        _check_folder(folder, config, before, overwrite=overwrite)
    with held(folder) if folder is not None else contextlib.nullcontext():
        if folder is not None:
            _prepare_folder(folder, config, before)
            for warning in cut.warnings:
                log(folder, f"warning: {warning}")
        for callback in watching:
            for warning in cut.warnings if isinstance(callback, Progress) else ():
                callback.message(f"warning: {warning}")
        trainer = Trainer(cut, sizes, watching, unit_types=unit_types, config=config)
        model: Forecaster
        if seeds > 1:
            again = before is not None
            model, records = train_members(trainer, settings, seeds, folder, resume=again, callbacks=watching)
            if folder is not None:
                write_json(folder / CONFIG, config)  # where nothing was left to train, what was accepted is kept here
        elif folder is None:
            model, history = trainer.train(settings)
            records = history.records
        else:
            place = folder / MODEL
            keep = functools.partial(_save, folder=place, finished=False)
            model, history = trainer.train(settings, keep, checkpoint=folder / RESUME, resume=before is not None)
            if not _has_finished(place, settings.steps):
                remove_scores(folder)  # of the model that was unfinished: its networks were not weighed yet
            _save(model, history.best_step, folder=place, finished=True)
            records = history.records
    return Run(folder, config, model, records, cut.recordings)


def _save(model: Member, step: int, *, folder: Path, finished: bool) -> None:
    model.save_pretrained(folder, {"training": {**model.metadata["training"], "step": step, "finished": finished}})


def _settings(
    before: Mapping[str, Any] | None,
    recipe: str,
    model_config: Sizes | Mapping[str, Any] | None,
    train_config: TrainConfig | Mapping[str, Any] | None,
) -> tuple[Sizes, TrainConfig]:
    """Model and loop as they were given, the rest as in the run that goes on, else as the recipe says."""
    sizes, settings = recipes.recipe(recipe)
    if before is not None:
        sizes, settings = type(sizes).from_dict(before["model"]), TrainConfig.from_json(before["training"])
    if isinstance(model_config, Mapping):
        known = [field.name for field in dataclasses.fields(sizes)]
        for name in model_config:
            if name not in known:
                option = f" or --{name.replace('_', '-')}" if name in recipes.options() else ""
                raise ConfigError(f"{name}{option} is no option of the recipe '{recipe}': {choices(name, known)}")
        sizes = dataclasses.replace(sizes, **model_config)
    elif model_config is not None:
        sizes = model_config
    if isinstance(train_config, Mapping):
        settings = TrainConfig.from_json({**settings.to_json(), **train_config})
    elif isinstance(train_config, TrainConfig):
        settings = train_config
    elif train_config is not None:
        kind = type(train_config).__name__
        raise ConfigError(f"train_config must be a TrainConfig, or settings by name, got {kind}")
    return sizes, settings


def _with_full_path(source: Mapping[str, Any]) -> dict[str, Any]:
    if "path" not in source:
        return dict(source)
    path = source["path"]
    full = str(Path(path).resolve()) if isinstance(path, (str, Path)) else [str(Path(p).resolve()) for p in path]
    return {**source, "path": full}


def _changed(folder: Path | None, changes: Sequence[str]) -> CheckpointError:
    """What is wrong where a run is to go on with other settings."""
    way = "go on with what it began with, or train anew (another --out, or --overwrite)"
    return CheckpointError(f"cannot resume the run in {folder}: {'; '.join(changes)}; {way}")


def _check_folder(
    folder: Path, config: Mapping[str, Any], before: Mapping[str, Any] | None, *, overwrite: bool
) -> None:
    """Whether the folder can take a new run, or the one in it, whose settings are ``before``, can go on."""
    if before is not None:
        now = TrainConfig.from_json(config["training"])
        changes = _changes(before, config) + config_changes(TrainConfig.from_json(before["training"]), now)
        if changes:
            raise _changed(folder, changes)
        if config.get("seeds", 1) == 1 and not (folder / RESUME).exists() and _has_finished(folder / MODEL):
            raise CheckpointError(
                f"the run in {folder} is finished, and {RESUME}, which it would go on from, is missing: "
                "restore it from a copy, or train anew (--overwrite)"
            )
    elif (folder / CONFIG).exists():
        if not overwrite:
            raise ConfigError(
                f"there is a run in {folder} already: resume it (--resume), overwrite it (--overwrite), "
                "or choose another folder"
            )
    elif folder.is_dir() and any(path.name != LOCK and not is_leftover(path) for path in folder.iterdir()):
        raise ConfigError(f"{folder} is not empty and not a run: choose another folder")


def _prepare_folder(folder: Path, config: Mapping[str, Any], before: Mapping[str, Any] | None) -> None:
    """Make a folder that was checked ready for its run."""
    if before is None and (folder / CONFIG).exists():
        _clear(folder)
    _remove_leftovers(folder)
    if before is None:
        write_json(folder / CONFIG, config)


def _has_finished(model: Path, steps: int | None = None) -> bool:
    """Whether a model was saved at the end of its training, of so many steps at most if that is asked."""
    known = read_model_config(model).get("training", {}) if (model / CONFIG).exists() else {}
    return bool(known.get("finished")) and steps in (None, known.get("steps"))


def _remove_leftovers(folder: Path) -> None:
    """Remove what a process left that was killed while it was writing."""
    for path in [*folder.glob(".*"), *folder.glob("*/.*"), *folder.glob(f"{MEMBERS}/*/.*")]:
        if is_leftover(path):
            path.unlink(missing_ok=True)


def _clear(folder: Path) -> None:
    """Remove what a run wrote but its settings, which make the folder a run; whatever else is in the folder stays."""
    for name in (MODEL, MEMBERS, BASELINES):  # before the state: a finished model without it is not trained anew
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in (RESUME, METRICS, LOG, EVALUATION, FIGURE):
        (folder / name).unlink(missing_ok=True)


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What keeps a run from going on but for settings of the loop; one text per difference."""
    changes = [
        f"{key} was {before[key]}, now {now.get(key)}"
        for key in ("protocol", "unit_types")
        if before.get(key, now.get(key)) != now.get(key)
    ]
    seeds, wanted = before.get("seeds", 1), now.get("seeds", 1)
    if seeds != wanted and not 1 < seeds < wanted:
        changes.append(f"seeds was {seeds}, now {wanted}")
    model = {**before["model"], **now["model"]}
    changes += [
        f"{key} of the model was {before['model'].get(key)}, now {now['model'].get(key)}"
        for key in model
        if before["model"].get(key) != now["model"].get(key)
    ]
    old = {entry["session"]: entry for entry in before["sessions"]}
    new = {entry["session"]: entry for entry in now["sessions"]}
    if list(old) != list(new):
        changes.append(f"the sessions were {', '.join(old)}, now {', '.join(new)}")
    for name, was in old.items():
        found = new.get(name, was)
        if was["fingerprint"] != found["fingerprint"]:
            changes.append(f"the recording of session '{name}' has changed")
        changes += [
            f"{key} of session '{name}' was {was[key]}, now {found[key]}"
            for key in ("dataset", "rate_hz")
            if was[key] != found[key] and None not in (was[key], found[key])
        ]
    return changes
