"""What may watch a training run: a progress bar, TensorBoard, or anything of your own."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from poco.errors import ConfigError, optional

if TYPE_CHECKING:
    from poco.training.loop import History


class Callback:
    """Base of callbacks: every method does nothing."""

    def member(self, seed: int, number: int, of: int) -> None:
        """What follows is of one seed, the ``number``-th (from 1) of several; records of training carry ``seed``."""

    def start(self, step: int, steps: int) -> None:
        """Training begins after ``step`` steps (0, or where it is resumed) and will end after ``steps``."""

    def log(self, record: Mapping[str, Any]) -> None:
        """Training loss: ``step``, ``loss`` (mean since the last record), ``learning_rate``, ``seconds``."""

    def validated(self, record: Mapping[str, Any]) -> None:
        """A validation: ``step``, ``val_mse``, ``best`` (whether any part was never better), ``seconds``."""

    def scored(self, step: int, seconds: float, score: float) -> None:
        """Test score of a model that is being adapted, and the seconds it took, scoring not counted."""

    def message(self, text: str) -> None:
        """Something a person should read."""

    def end(self, history: History) -> None:
        """Training is over, by its last step, by early stopping or by a signal."""


def check_callbacks(given: Any) -> None:
    """Raises ConfigError if these are not callbacks, one after another."""
    if not isinstance(given, (list, tuple)):
        raise ConfigError(f"callbacks must be a list of poco.training.Callback, got {type(given).__name__}")
    for one in given:
        if not isinstance(one, Callback):
            name = one.__name__ if isinstance(one, type) else type(one).__name__
            raise ConfigError(f"callbacks must be objects of classes made of poco.training.Callback, got {name}")


class Progress(Callback):
    """A progress bar with the time left, or plain lines where ``rich`` or a terminal is missing.

    Args:
        title: what is being trained.
        stream: where to write; default standard error.
        seconds_between: least time between two plain lines.
    """

    def __init__(self, title: str = "training", stream: TextIO | None = None, seconds_between: float = 5.0) -> None:
        self.title = self._what = title
        self._stream = stream if stream is not None else sys.stderr
        self._seconds_between = seconds_between
        self._bar: Any = None
        self._task: Any = None
        self._first_step = self._steps = 0
        self._began = self._printed = 0.0
        self._loss = self._val = self._best = ""

    def member(self, seed: int, number: int, of: int) -> None:
        """Name the seed."""
        self.title = f"{self._what}, seed {seed} ({number} of {of})"

    def start(self, step: int, steps: int) -> None:
        """Show the bar, without the errors of what was trained before."""
        self._first_step, self._steps = step, steps
        self._loss = self._val = self._best = ""
        self._began = self._printed = time.monotonic()
        if not self._stream.isatty():
            return
        try:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar
        except ImportError:
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
        )
        self._bar = Bar(*columns, console=Console(file=self._stream), transient=False)
        self._task = self._bar.add_task(self.title, total=steps, completed=step, text="")
        self._bar.start()

    def log(self, record: Mapping[str, Any]) -> None:
        """Move the bar, or print a line if the last one is old enough; after the last step a validation follows."""
        step = int(record["step"])
        self._loss = f", loss {record['loss']:.4f}"
        old = time.monotonic() - self._printed >= self._seconds_between
        if self._bar is not None or (old and step < self._steps):
            self._show(step)

    def validated(self, record: Mapping[str, Any]) -> None:
        """Remember the validation error, and the best one so far, for the next lines; after the last step print one."""
        step = int(record["step"])
        if record["best"]:
            self._best = f", best {record['val_mse']:.4f} at step {step}"
        self._val = f", validation {record['val_mse']:.4f}{self._best}"
        if self._bar is not None or step == self._steps:
            self._show(step)

    def _show(self, step: int) -> None:
        text, now = f"{self._loss}{self._val}", time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=step, text=text.removeprefix(", "))
            return
        left = (now - self._began) / max(1, step - self._first_step) * (self._steps - step)
        self._printed = now
        print(f"{self.title}: step {step}/{self._steps}{text}, {_clock(left)} left", file=self._stream, flush=True)

    def scored(self, step: int, seconds: float, score: float) -> None:
        """Print a line of the curve."""
        self.message(f"{self.title}: step {step}, {seconds:.1f} s, test score {score:.3f}")

    def message(self, text: str) -> None:
        """Print the line."""
        if self._bar is not None:
            self._bar.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=self._stream, flush=True)

    def end(self, history: History) -> None:
        """Take the bar down; say so where training stopped early."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if history.stopped == "patience":
            why = f"{history.since_best} validations without a new best"
            self.message(f"{self.title}: stopped early at step {history.step} of {self._steps}, after {why}")


class TensorBoard(Callback):
    """Writes losses, validation errors and the learning rate for TensorBoard; of several seeds, each in a folder.

    Args:
        folder: where to write the event files.

    Raises:
        MissingExtraError: if the package ``tensorboard`` is missing.
    """

    def __init__(self, folder: str | Path) -> None:
        with optional("tensorboard", "tensorboard", "writing logs for TensorBoard"):
            from torch.utils.tensorboard import SummaryWriter
        self._make = lambda place, step: SummaryWriter(str(place), purge_step=step)
        self._folder = self._place = Path(folder)
        self._writer: Any = None

    def member(self, seed: int, number: int, of: int) -> None:
        """Write into a folder of its own."""
        self._place = self._folder / f"seed-{seed}"

    def start(self, step: int, steps: int) -> None:
        """Open the event file; on resume, later points of the interrupted run are purged."""
        self._writer = self._make(self._place, step + 1)

    def log(self, record: Mapping[str, Any]) -> None:
        """Write loss and learning rate."""
        self._writer.add_scalar("train/loss", record["loss"], record["step"])
        self._writer.add_scalar("train/learning_rate", record["learning_rate"], record["step"])

    def validated(self, record: Mapping[str, Any]) -> None:
        """Write the validation error."""
        self._writer.add_scalar("validation/mse", record["val_mse"], record["step"])

    def end(self, history: History) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
