"""Training a POCO from recordings to a run folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from poco.data.recording import Recording
from poco.data.splits import Split, split
from poco.errors import CheckpointError, ConfigError, DataError
from poco.training.callbacks import Callback, Progress
from poco.training.config import TrainConfig
from poco.training.files import write_json
from poco.training.folder import (
    CONFIG,
    EVALUATION,
    FIGURE,
    LOG,
    METRICS,
    MODEL,
    RESUME,
    RunFiles,
    log,
    read_config,
    run_config,
)
from poco.training.loop import config_changes, fit
from poco.training.seeds import stream

if TYPE_CHECKING:
    from poco.nn import POCO, POCOConfig
    from poco.run import Run


def _published() -> tuple[POCOConfig, TrainConfig]:
    from poco.nn import POCOConfig

    return POCOConfig(), TrainConfig()


_RECIPES: Mapping[str, Callable[[], tuple[POCOConfig, TrainConfig]]] = {"published": _published}
RECIPES: tuple[str, ...] = tuple(_RECIPES)


def recipe(name: str) -> tuple[POCOConfig, TrainConfig]:
    """Settings of model and training by name.

    Args:
        name: ``"published"``, the published sizes, optimiser and dropout.

    Raises:
        ConfigError: if there is no recipe of that name.
    """
    if name not in _RECIPES:
        raise ConfigError(f"there is no recipe '{name}': the recipes are {', '.join(RECIPES)}")
    return _RECIPES[name]()


def train(
    recordings: Sequence[Recording],
    *,
    model_config: POCOConfig | None = None,
    train_config: TrainConfig | None = None,
    protocol: str = "leak-free",
    recipe: str = "published",
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool | None = None,
    callbacks: Sequence[Callback] = (),
    source: Mapping[str, Any] | None = None,
    unit_types: str | None = None,
) -> Run:
    """Train a POCO on recordings.

    A run with a folder can be stopped by SIGINT or SIGTERM, or killed at any moment, and continued with ``resume``.

    Args:
        recordings: the sessions.
        model_config: sizes and options of the model; default the recipe's.
        train_config: settings of the loop; default the recipe's.
        protocol: ``"leak-free"`` or ``"published"``, see :mod:`poco.data.splits`.
        recipe: where settings that are not given come from.
        out: run folder to make; None keeps the run in memory.
        resume: continue the run in ``out``, or start it if there is none yet.
        overwrite: replace a run that is in ``out``.
        progress: whether to show progress on standard error; default yes.
        callbacks: what else may watch.
        source: how the recordings were read (``path``, ``options``), kept so that they can be read again.
        unit_types: label of the units that ``unit_type_embedding`` embeds; default the only one there is.

    Returns:
        The run, with the best model.

    Raises:
        ConfigError: for settings that cannot work, or an existing run without ``resume`` or ``overwrite``.
        CheckpointError: if a run cannot be continued, and why, or a file cannot be written.
        DataError: if the recordings cannot be used as they stand.
        Interrupted: after SIGINT or SIGTERM, when the state has been saved.
    """
    from poco.run import Run

    sizes, settings = _recipe_by_name(recipe)
    sizes = model_config if model_config is not None else sizes
    settings = (train_config if train_config is not None else settings).for_sessions(len(recordings))
    settings.torch_device()
    cut = split(recordings, protocol=protocol, context=sizes.context, horizon=sizes.horizon)
    config = run_config(cut, sizes.to_dict(), settings, recipe, _with_full_path(source))
    folder = Path(out) if out is not None else None
    going_on = folder is not None and _prepare_folder(folder, config, resume=resume, overwrite=overwrite)
    watching = [*callbacks]
    if progress is None or progress:
        watching.append(Progress())
    model = _build(cut, sizes, settings.seed, unit_types)
    if folder is not None:
        watching.insert(0, RunFiles(folder))
        watching.append(_ModelFiles(folder, model, config))
        for warning in cut.warnings:
            log(folder, f"warning: {warning}")
    for callback in watching:
        for warning in cut.warnings if isinstance(callback, Progress) else ():
            callback.message(f"warning: {warning}")
    history = fit(
        model,
        cut,
        settings,
        callbacks=watching,
        checkpoint=folder / RESUME if folder is not None else None,
        resume=going_on,
    )
    if folder is not None:
        model.save_pretrained(folder / MODEL, _metadata(config, history.best_step))
    return Run(folder, config, model, history.records, cut.recordings)


_recipe_by_name = recipe


class _ModelFiles(Callback):
    """Keeps the best model so far in the run folder."""

    def __init__(self, folder: Path, model: POCO, config: Mapping[str, Any]) -> None:
        self._folder, self._model, self._config = folder, model, config

    def validated(self, record: Mapping[str, Any]) -> None:
        if record["best"]:
            self._model.save_pretrained(self._folder / MODEL, _metadata(self._config, int(record["step"])))


def _metadata(config: Mapping[str, Any], step: int) -> dict[str, Any]:
    kept = {key: config[key] for key in ("recipe", "protocol", "seed", "versions")}
    rates = {entry["session"]: entry["rate_hz"] for entry in config["sessions"]}
    return {"training": {**kept, "step": step, "rate_hz": rates}}


def _build(cut: Split, sizes: POCOConfig, seed: int, unit_types: str | None) -> POCO:
    from poco.nn import POCO, SessionSpec

    types = [_unit_types(r, unit_types) if sizes.unit_type_embedding else () for r in cut.recordings]
    specs = [
        SessionSpec(name=r.session, units=r.unit_ids, dataset=r.dataset, unit_types=t)
        for r, t in zip(cut.recordings, types, strict=True)
    ]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(seed, "weights"))
        model = POCO(sizes, specs)
    for index, recording in enumerate(cut.recordings):
        mean, std = (torch.from_numpy(values.copy()) for values in (cut.mean[index], cut.std[index]))
        model.set_normalisation(recording.session, mean, std)
    return model


def _unit_types(recording: Recording, label: str | None) -> tuple[str, ...]:
    where, labels = f"session '{recording.session}'", ", ".join(recording.labels) or "none"
    if label is None:
        if len(recording.labels) != 1:
            raise ConfigError(f"unit_type_embedding needs to know which label to embed; {where} has: {labels}")
        label = next(iter(recording.labels))
    if label not in recording.labels:
        raise DataError(f"{where} has no label '{label}' of its units; it has: {labels}")
    return tuple(recording.labels[label])


def _with_full_path(source: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if source is None or "path" not in source:
        return dict(source) if source is not None else None
    path = source["path"]
    full = str(Path(path).resolve()) if isinstance(path, (str, Path)) else [str(Path(p).resolve()) for p in path]
    return {**source, "path": full}


def _prepare_folder(folder: Path, config: dict[str, Any], *, resume: bool, overwrite: bool) -> bool:
    """Make the folder ready; returns whether the run in it goes on."""
    exists = (folder / CONFIG).exists()
    for leftover in folder.glob(".*.part*") if exists else ():
        leftover.unlink(missing_ok=True)  # of a process killed while it was writing
    if exists and resume:
        before = read_config(folder)
        changes = _changes(before, config)
        if changes:
            raise CheckpointError(f"cannot resume the run in {folder}: {'; '.join(changes)}")
        write_json(folder / CONFIG, {**config, "source": config["source"] or before.get("source")})
        return True
    if exists and not overwrite:
        raise ConfigError(f"there is a run in {folder} already: resume it, overwrite it, or choose another folder")
    if not exists and folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty and not a run: choose another folder")
    if exists:
        _clear(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the run folder {folder}: {error.strerror or error}") from error
    write_json(folder / CONFIG, config)
    return False


def _clear(folder: Path) -> None:
    """Remove what a run wrote; whatever else is in the folder stays."""
    for name in (RESUME, METRICS, LOG, EVALUATION, FIGURE, CONFIG):
        (folder / name).unlink(missing_ok=True)
    for name in (MODEL, "baselines"):
        shutil.rmtree(folder / name, ignore_errors=True)


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What keeps a run from going on, one text per difference."""
    changes = [f"{key} was {before[key]}, now {now[key]}" for key in ("recipe", "protocol") if before[key] != now[key]]
    model = {**before["model"], **now["model"]}
    changes += [
        f"{key} of the model was {before['model'].get(key)}, now {now['model'].get(key)}"
        for key in model
        if before["model"].get(key) != now["model"].get(key)
    ]
    changes += config_changes(TrainConfig.from_json(before["training"]), TrainConfig.from_json(now["training"]))
    old = {entry["session"]: entry for entry in before["sessions"]}
    new = {entry["session"]: entry for entry in now["sessions"]}
    if list(old) != list(new):
        changes.append(f"the sessions were {', '.join(old)}, now {', '.join(new)}")
    for name in old.keys() & new.keys():
        if old[name]["fingerprint"] != new[name]["fingerprint"]:
            changes.append(f"the recording of session '{name}' has changed")
    return changes
