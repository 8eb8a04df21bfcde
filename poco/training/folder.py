"""What a run folder holds, and reading and writing it."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from poco._version import __version__
from poco.data.recording import fingerprint
from poco.data.splits import Split
from poco.errors import CheckpointError, ConfigError, DataError
from poco.files import CONFIG, EVALUATION, FIGURE, LOCK, LOG, METRICS, read_json, write_atomically, write_json
from poco.training.callbacks import Callback
from poco.training.config import TrainConfig

if TYPE_CHECKING:
    from poco.training.loop import History

FORMAT = 1


def run_config(
    cut: Split,
    model_config: Mapping[str, Any],
    train_config: TrainConfig,
    recipe: str,
    source: Mapping[str, Any] | None,
    seeds: int = 1,
    baselines: Sequence[str] | None = None,
    unit_types: str | None = None,
) -> dict[str, Any]:
    """Content of ``config.json`` for a new run."""
    sessions = [
        {
            "session": recording.session,
            "dataset": recording.dataset,
            "subject": recording.subject,
            "units": recording.units,
            "frames": recording.frames,
            "rate_hz": recording.rate_hz,
            "fingerprint": fingerprint(recording),
        }
        for recording in cut.recordings
    ]
    versions = {
        "poco": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    return {
        "format": FORMAT,
        "recipe": recipe,
        "protocol": cut.protocol,
        "seed": train_config.seed,
        **({"seeds": seeds} if seeds > 1 else {}),
        **({"baselines": list(baselines)} if baselines is not None else {}),
        **({"unit_types": unit_types} if unit_types is not None else {}),
        "model": dict(model_config),
        "training": train_config.to_json(),
        "sessions": sessions,
        "source": dict(source) if source is not None else None,
        "versions": versions,
    }


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Make a run folder and keep it from other processes, for as long as this one lives at most.

    Where the file system has no locks nobody is kept out.

    Raises:
        ConfigError: if there can be no such folder, or another process has it.
        CheckpointError: if nothing can be written there.
    """
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make the run folder {folder}: {error.strerror or error}") from error
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ConfigError(f"a run is being trained in {folder}: wait until it ends, or choose another folder") from None
    except NotImplementedError:
        pass
    except OSError as error:
        raise CheckpointError(f"cannot write {folder / LOCK}: {error.strerror or error}") from error
    try:
        yield
    finally:
        lock.release()


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a run folder; a CheckpointError if it is missing, damaged or of another version."""
    config = read_json(folder / CONFIG, "run settings")
    if config.get("format") != FORMAT:
        raise CheckpointError(
            f"{folder / CONFIG} has format {config.get('format')}, this poco reads format {FORMAT}: "
            "use the poco that wrote it"
        )
    missing = [key for key in ("recipe", "protocol", "seed", "model", "training", "sessions") if key not in config]
    if missing:
        raise CheckpointError(f"{folder / CONFIG} is not the settings of a run: '{missing[0]}' is missing")
    wrong = [key for key in ("model", "training") if not isinstance(config[key], dict)]
    if not isinstance(config["sessions"], list) or not all(map(_is_session, config["sessions"])):
        wrong.append("sessions")
    if wrong:
        raise CheckpointError(f"{folder / CONFIG} is not the settings of a run: '{wrong[0]}' is not as it was written")
    return config


def _is_session(entry: Any) -> bool:
    """Whether this is what :func:`run_config` writes of a session."""
    return isinstance(entry, dict) and {"session", "dataset", "units", "rate_hz", "fingerprint"} <= set(entry)


def expect_recordings(place: str | Sequence[str], give: str) -> None:
    """Raise a DataError, which says what to give, where recordings that a run was trained on are no longer there."""
    for path in [place] if isinstance(place, str) else place:
        if not Path(path).exists():
            raise DataError(f"{path}, which the run was trained on, is not there: give {give} if it has moved")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of ``metrics.jsonl``; lines that hold none, as where a crash cut one short, are left out."""
    records = []
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return []
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get("step"), int):
            records.append(record)
    return records


def log(folder: Path, text: str) -> None:
    """Add a line with the time to ``log.txt``."""
    try:
        with open(folder / LOG, "a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
    except OSError as error:
        raise CheckpointError(f"cannot write {folder / LOG}: {error.strerror or error}") from error


def remove_scores(folder: Path) -> None:
    """Remove the scores of a run and their figure: its model is about to be another one."""
    for name in (EVALUATION, FIGURE):
        (folder / name).unlink(missing_ok=True)


class RunFiles(Callback):
    """Writes ``metrics.jsonl`` and ``log.txt`` while a run is trained; on resume, later metrics are cut off."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self._folder, self._config = folder, config
        self._seed: int | None = None

    def member(self, seed: int, number: int, of: int) -> None:
        """Say which seed it is; metrics of the others stay as they are."""
        self._seed = seed
        log(self._folder, f"seed {seed} ({number} of {of})")

    def start(self, step: int, steps: int) -> None:
        """Cut the metrics back to ``step``, all where it is 0; what was accepted on resume is kept from here on."""
        write_json(self._folder / CONFIG, self._config)
        before = read_metrics(self._folder / METRICS)
        kept = [record for record in before if record.get("seed") != self._seed or record["step"] <= step > 0]
        text = "".join(json.dumps(record) + "\n" for record in kept)
        write_atomically(self._folder / METRICS, text.encode())
        log(self._folder, f"training from step {step} to {steps}")

    def log(self, record: Mapping[str, Any]) -> None:
        """Write the record."""
        self._write(record)

    def validated(self, record: Mapping[str, Any]) -> None:
        """Write the record; of a better model, scores of the one before are no longer those of the run."""
        self._write(record)
        if record["best"]:
            remove_scores(self._folder)

    def message(self, text: str) -> None:
        """Write the line to the log."""
        log(self._folder, text)

    def end(self, history: History) -> None:
        """Write how it ended to the log."""
        why = {"steps": "done", "patience": "stopped early"}.get(history.stopped, "stopped")
        criterion = self._config["training"]["criterion"]
        found = [
            f"{part} {history.best_errors[part]:.5f} at step {step}".strip()
            for part, step in history.best_steps.items()
        ]
        best = f", best validation ({criterion}): {', '.join(found)}" if history.best_step else ""
        log(self._folder, f"{why} at step {history.step}{best}")

    def _write(self, record: Mapping[str, Any]) -> None:
        path = self._folder / METRICS
        try:
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(dict(record)) + "\n")
        except OSError as error:
            raise CheckpointError(
                f"cannot write {path}: {error.strerror or error}; the last checkpoint is intact"
            ) from error
