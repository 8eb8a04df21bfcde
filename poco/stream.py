"""Streaming: a frame in, a forecast out, by the engine of the compiled core (the same that the C header offers)."""

from __future__ import annotations

import importlib
import math
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from time import perf_counter
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from poco import core
from poco.errors import BackendError, CheckpointError, ConfigError, DataError, PocoError
from poco.files import existing, model_folder
from poco.nn import files, vocabulary
from poco.online import ModelFiles, OnlineAdaptation, Seen, check_adaptable

if TYPE_CHECKING:
    from poco.models import Forecaster
    from poco.run import Run

MISSING, GAPS = ("hold", "drop"), ("fill", "restart", "refuse")
MARKS = {1: "held", 2: "filled", 4: "restarted", 8: "late", 16: "overflowed", 32: "rate", 128: "scale"}


class GapError(DataError):
    """Frames are missing, and the stream is one that refuses gaps."""


@dataclass(frozen=True, eq=False)
class StreamForecast:
    """What came of a frame.

    Attributes:
        status: ``"ok"``, or ``"warming"`` while there are fewer frames than the context.
        values: ``[N, H]`` float32 forecast of the next frames in the recording's own units; None while warming.
        valid: ``[N]`` bool: whether the unit was in each of the last ``C`` frames that came and has a finite forecast.
            Frames that were filled in, or came before a restart, do not count.
        marks: ``"held"``: of some units a value was missing in this context; ``"filled"``: whole frames were;
            ``"restarted"``: the context begins anew with this frame; ``"late"``: it took longer than the deadline;
            ``"overflowed"``: of some units the forecast is not finite; ``"rate"``: the frames of this context took
            less than 0.75 or more than 1.33 of the time that so many should have taken, by their time stamps;
            ``"scale"``: most units lie 5 standard deviations and more from their means in this context, on average, so
            it is hardly the kind of activity (dF/F, raw F) that the model was trained on;
            ``"adapted"``: it is the first one by an adapted model (:meth:`Stream.adapt_online`).
        frame: number of the frame, from 0; frames that were filled in count.
        time: seconds, as they were given; None if they were not.
        latency_ms: milliseconds from the call into the engine to the forecast, the time that it took to go on with an
            adapted model included; 0 while warming.
        missing: frames until the first forecast.
    """

    status: str
    values: npt.NDArray[np.float32] | None
    valid: npt.NDArray[np.bool_]
    marks: frozenset[str]
    frame: int
    time: float | None
    latency_ms: float
    missing: int


class Stream:
    """Forecasts a session while it is recorded: push a frame, get the forecast of the next ones.

    The engine keeps the last frames, normalises them as the model learnt to, and computes what the model computes on
    the window that they are: the same to 1e-5 in float32. A value that is NaN, infinite, or more than a million of the
    unit's deviations from its mean counts as missing, and never goes unmarked. It is for one thread at a time; streams
    of one model may run side by side.

    Args:
        model: a model, a run, a folder of either (:func:`poco.load`), or what :func:`open_model` made of it.
        session: name or index of the session; None: the only one.
        precision: ``"float32"`` or ``"bf16"`` (of a POCO's weights and products).
        threads: of the engine; None: as many as torch has.
        device: ``"cpu"``, or ``"cuda"`` or ``"cuda:1"``: the GPU that forecasts. It has to forecast a window as the
            processor does before it is used. Of a forecaster on the ground it computes what the residual over the
            population adds; the ground is the processor's.
        spin: ask the GPU without a pause whether it is done, which keeps a core busy, in place of the driver's waiting.
        missing: ``"hold"``: the last value of a missing unit stands in for it, and its forecast is made and marked
            as not valid; ``"drop"``: it is also left out of what the population tells, and its forecast is NaN.
        gap: where time stamps show that frames are missing: ``"fill"`` takes the last frame for them if they are fewer
            than the context, ``"restart"`` collects the context anew, ``"refuse"`` is an error.
        interval: seconds from frame to frame; None: by the rate of the recording that the session was learnt from, and
            without one no gap is seen.
        tolerance: a gap begins where an interval is longer by more than this share, and by half at least.
        deadline_ms: for a forecast; later ones are marked and counted. None: there is none.
        keep: how many of the last frames to keep for :meth:`adapt_online`; 0: none. With them, what the files of the
            model hold is kept in memory: that model is adapted, whatever becomes of the folder or the one given.

    Attributes:
        interval: as it was given; None if it was not.

    Raises:
        CheckpointError: if there is no model, it is damaged, or of a kind that cannot be streamed.
        VocabularyError: if the model does not know the session, or several and none was chosen.
        ConfigError: if an option has a value that cannot work.
        BackendError: if the compiled core is not in use, or the GPU cannot be.
    """

    def __init__(
        self,
        model: Forecaster | Run | str | Path,
        session: int | str | None = None,
        *,
        precision: str = "float32",
        threads: int | None = None,
        device: str = "cpu",
        spin: bool = False,
        missing: str = "hold",
        gap: str = "fill",
        interval: float | None = None,
        tolerance: float = 0.5,
        deadline_ms: float | None = None,
        keep: int = 0,
    ) -> None:
        for name, choice, known in (
            ("precision", precision, ("float32", "bf16")),
            ("missing", missing, MISSING),
            ("gap", gap, GAPS),
        ):
            if choice not in known:
                raise ConfigError(f"{name} must be one of {', '.join(known)}, got {choice!r}")
        for name, number in (("keep", keep), ("threads", 1 if threads is None else threads)):
            if not isinstance(number, Integral) or not 0 <= number < 2**31:
                raise ConfigError(f"{name} must be a whole number from 0 to {2**31 - 1:,}, got {number!r}")
        for name, value in (("interval", interval), ("tolerance", tolerance), ("deadline_ms", deadline_ms)):
            if not isinstance(value, Real) and (value is not None or name == "tolerance"):
                raise ConfigError(f"{name} must be a number, got {value!r}")
        if keep:
            importlib.import_module("poco.adaptation")  # takes long, so not at the call of adapt_online
        opened, kept = _open(_of_run(model), keep=keep > 0)
        options = {
            "bfloat16": precision == "bf16",
            "threads": torch.get_num_threads() if threads is None else threads,
            "gpu": _gpu(device),
            "spin": bool(spin),
            "missing": missing,
            "gap": gap,
            "interval": interval or 0.0,
            "tolerance": tolerance,
            "deadline_ms": deadline_ms or 0.0,
        }
        index = vocabulary.find([name for name, _ in opened.sessions], session)
        self.session, self.units = opened.sessions[index]
        _warn_unless_normalised(opened, index)
        self.context, self.horizon = opened.context, opened.horizon
        self.interval, self.deadline_ms = interval or None, deadline_ms
        self._files, self._seen = kept, Seen(keep, self.units) if keep else None
        self._online: OnlineAdaptation | None = None
        self._adapted = False  # whether a model was swapped in that no forecast is of yet
        self._swaps_late, self._longest_swap_ms = 0, 0.0  # what the engine does not know of
        self._next = 0
        with _errors(ConfigError) as engine:
            self._stream = engine.Stream(opened, index, options)

    def push(self, frame: npt.ArrayLike, time: float | None = None) -> StreamForecast:
        """Takes a frame and forecasts what follows it.

        Args:
            frame: ``[N]`` activity in the recording's own units; NaN, or masked, where a unit was not seen.
            time: seconds at which it was taken; None: not known, one interval after the frame before it.

        Raises:
            DataError: if the frame has not one number for each unit, or its time is no number or does not come after
                the last one's, or frames are missing and gaps are refused (GapError); the stream is as it was, but that
                it may have gone on with an adapted model.
            BackendError: if the GPU failed: the frame was taken and has no forecast.
        """
        values = float32_of(frame)
        seconds = seconds_of(time)
        swap_ms = self._take_adapted()
        with _errors(DataError):
            found = self._stream.push(values, seconds)
        marks, number, missing, latency, forecast, valid = found
        named = {name for bit, name in MARKS.items() if marks & bit}
        if forecast is not None:
            if swap_ms:
                latency += swap_ms
                self._longest_swap_ms = max(self._longest_swap_ms, latency)
                if self.deadline_ms and latency > self.deadline_ms and "late" not in named:
                    named.add("late")
                    self._swaps_late += 1
            if self._adapted:
                named.add("adapted")
                self._adapted = False
        if self._seen is not None:
            values = np.where(self.seen, values, np.float32("nan"))  # without what was held as missing
            self._seen.add(values, number != self._next or "restarted" in named)
            self._next = number + 1
        status = "warming" if forecast is None else "ok"
        return StreamForecast(status, forecast, valid, frozenset(named), number, time, latency, missing)

    @property
    def seen(self) -> npt.NDArray[np.bool_]:
        """``[N]``: which units had a value in the last frame that was taken: of the others it counted as missing."""
        return self._stream.seen()

    def over(self, source: Iterable[Any], rate_hz: float | None = None) -> Iterator[StreamForecast]:
        """Pushes frame after frame of a source.

        Args:
            source: frames ``[N]``, for example the columns of a recording: ``recording.activity.T``.
            rate_hz: gives frames their times; None: they have none.

        Raises:
            ConfigError: if the rate is not a positive number.
        """
        if rate_hz is not None and not (isinstance(rate_hz, Real) and 0 < rate_hz < math.inf):
            raise ConfigError(f"rate_hz must be a positive number, got {rate_hz!r}")
        for number, frame in enumerate(source):
            yield self.push(frame, None if rate_hz is None else number / rate_hz)

    def reset(self) -> None:
        """Forgets all frames, those that are kept excepted; counters stay."""
        with _errors(ConfigError):
            self._stream.reset()
        self._next = -1

    def swap(self, model: Forecaster | Run | str | Path) -> None:
        """Goes on with another model between two frames, an adapted one for example.

        An adaptation that is going on, or whose model no frame was forecast by yet, is of the model before: it is
        cancelled.

        Raises:
            CheckpointError: as for the first one.
            ConfigError: if it does not know the session, with the same units in their order, or has another context or
                horizon; the stream is as it was.
        """
        opened, kept = _open(_of_run(model), keep=self._seen is not None)
        with _errors(ConfigError):
            self._stream.swap(opened)
        self._files, self._adapted = kept, False
        self._forget_adaptation()
        _warn_unless_normalised(opened, [name for name, _ in opened.sessions].index(self.session))

    def adapt_online(self, **options: Any) -> OnlineAdaptation:
        """Adapt the model to the frames seen so far while the stream goes on, and then go on with what came of it.

        A process of its own, at low priority and on one thread, fits the session anew from the frames that were kept,
        as :func:`poco.adapt` does, so the other sessions' parameters are what they were. When it is over, the next
        frame that is pushed is forecast by the adapted model, and the first forecast by it is marked ``"adapted"``;
        going on with it takes that frame longer, which is in its latency. If it fails, the stream goes on as it is,
        and :meth:`OnlineAdaptation.result` says why. The process ends with the stream (``with``), and with the program.

        Args:
            **options: those of :func:`poco.adapt` that are plain values: ``mode``, ``steps``, ``frames``, ...

        Returns:
            The adaptation: ``.done``, ``.result()``, ``.cancel()``.

        Raises:
            ConfigError: if the stream keeps no frames (``keep=``) or has seen none yet, an adaptation is going on or no
                frame was pushed since it was over, the model is an ensemble, or an option is none or has a value that
                cannot work.
        """
        if self._seen is None:
            raise ConfigError("the stream keeps no frames to learn from: open it with keep=, for example keep=10_000")
        if len(self._seen) == 0:
            raise ConfigError("no frame was pushed yet: there is nothing to learn from")
        if self._online is not None and not self._online.done:
            raise ConfigError("an adaptation is going on: wait for its result, or cancel it")
        if self._online is not None and self._online.opened is not None:
            raise ConfigError("an adapted model waits for the next frame, which goes on with it: push that first")
        if self._files is None:
            raise ConfigError("a model that was opened for streaming is not adapted: give the stream its folder")
        check_adaptable(self._files, self.context + self.horizon, options)
        self._online = OnlineAdaptation(self._files, self.session, self._seen, options, self._load)
        return self._online

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the model that forecasts, an adapted one too, as it would itself: for :func:`poco.load`, or a stream.

        Raises:
            ConfigError: if the stream keeps no frames (``keep=``), as then it keeps no model either, or the model was
                opened for streaming.
            CheckpointError: if it cannot be written; files that were there before are kept.
        """
        if self._files is None:
            raise ConfigError("the stream keeps no files of its model: open it with keep=, on a model or its folder")
        files.put(Path(folder), self._files.config, self._files.tensors)

    def _load(self, folder: Path) -> Any:
        """The adapted model in the engine, and what its files hold; not as Python has models, which takes long."""
        return _open(folder, keep=True)

    def _take_adapted(self) -> float:
        """Go on with the adapted model if there is one that is new; milliseconds that it took, 0: there is none."""
        if self._online is None or self._online.opened is None:
            return 0.0
        began = perf_counter()
        online, self._online = self._online, None
        (opened, kept), online.opened = online.opened, None
        try:
            with _errors(ConfigError):
                self._stream.swap(opened)
        except PocoError as error:
            online.fail(f"the stream cannot go on with the adapted model: {error}")
        else:
            self._files, self._adapted = kept, True
        return 1e3 * (perf_counter() - began)

    def _forget_adaptation(self) -> None:
        if self._online is not None:
            self._online.cancel()
            self._online = None

    def stats(self) -> dict[str, Any]:
        """Counters since the stream began, and quantiles of the latency of forecasts in milliseconds (to 9%).

        ``off_rate`` counts forecasts with the mark ``"rate"``, ``off_scale`` those with ``"scale"``, ``refused`` frames
        that the engine did not take, by their length or time.
        """
        with _errors(ConfigError):
            found = dict(self._stream.stats())
        found["late"] += self._swaps_late
        found["longest_ms"] = max(found["longest_ms"], self._longest_swap_ms)
        return found

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._forget_adaptation()
        try:
            self.reset()
        except PocoError:  # another thread uses it, for example
            if error is None:  # what ends the block is said first
                raise


def float32_of(frame: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """A frame as float32: NaN where it is masked, infinite where float32 cannot hold it; both count as missing.

    Raises:
        DataError: if it is not of numbers.
    """
    try:
        given = np.asanyarray(frame)
    except (TypeError, ValueError, RuntimeError) as error:  # lists in a list, a tensor that NumPy cannot take
        raise DataError(f"a frame is one number for each unit: {error}") from None
    if given.dtype.kind not in "fiub":
        raise DataError(f"a frame is one number for each unit, got values of type {given.dtype}")
    with np.errstate(over="ignore"):
        found = given.astype(np.float32, copy=False)
    return np.ascontiguousarray(np.ma.filled(found, np.nan))


def seconds_of(time: Any) -> float:
    """The time of a frame; NaN if it is None.

    Raises:
        DataError: if it is no number. NumPy's dates and durations count in units of their own, and not in seconds.
    """
    try:
        if isinstance(time, str | bytes | np.datetime64 | np.timedelta64):
            raise TypeError
        return math.nan if time is None else float(time)
    except (TypeError, ValueError, OverflowError):
        raise DataError(f"the time of a frame is a number of seconds, or None, got {time!r}") from None


def set_realtime(cpus: Sequence[int] = (), priority: int = 0, lock_memory: bool = False) -> None:
    """Ask the operating system for a real-time set-up; call it before the stream is opened, in the thread that pushes.

    It is of the calling thread and of those that it makes later, those of a stream among them, but for that of
    :meth:`Stream.adapt_online` and its process; locked memory is of the whole process. Linux alone.

    Args:
        cpus: numbers of those that the thread may run on; none: as it is.
        priority: of SCHED_FIFO, 1 to 99; 0: as it is. It comes before everything that is not real-time: leave a CPU to
            the rest of the machine.
        lock_memory: whether nothing of the process, now or later, may be paged out.

    Raises:
        ConfigError: for what is not permitted or not there, and how to get it; then everything is as it was.
    """
    for what, number in (*(("CPU", cpu) for cpu in cpus), ("real-time priority", priority)):
        if not isinstance(number, Integral) or abs(number) >= 2**31:
            raise ConfigError(f"there is no {what} {number!r}")
    engine = _engine()
    try:
        engine.set_realtime(list(cpus), priority, lock_memory)
    except engine.Error as error:
        raise ConfigError(str(error)) from None


def _engine() -> Any:
    module = core.module()
    if module is None:
        raise BackendError(f"streaming needs the compiled core, which is not in use: {core.available()[1]}")
    return module


@contextmanager
def _errors(kind: type[PocoError]) -> Iterator[Any]:
    """The engine; its errors are of this kind, but for a GPU's (BackendError) and of gaps (GapError)."""
    engine = _engine()
    try:
        yield engine
    except engine.GpuError as error:
        raise BackendError(str(error)) from None
    except engine.GapError as error:
        raise GapError(str(error)) from None
    except engine.Error as error:
        raise kind(str(error)) from None


def _gpu(device: str) -> int:
    """The number of a GPU by the name of a device; -1: the processor."""
    if device == "cpu":
        return -1
    kind, _, number = device.partition(":") if isinstance(device, str) else ("", "", "")
    if kind != "cuda" or not ((number.isascii() and number.isdigit()) or device == "cuda"):
        raise ConfigError(f"device must be 'cpu', 'cuda' or 'cuda:NUMBER', got {device!r}")
    return min(int(number or 0), 2**31 - 1)


def open_model(model: Forecaster | Run | str | Path | Any) -> Any:
    """The model as the engine has it, for any number of streams.

    A model in memory goes through a folder, as its files are what is streamed.

    Args:
        model: a model, a run, a folder of either (:func:`poco.load`), or what this function gave before.

    Returns:
        An object with ``context``, ``horizon`` and ``sessions``, a list of names and units.

    Raises:
        CheckpointError: if there is no model, it is damaged, or of a kind that cannot be streamed.
        ConfigError: if it is something else.
        BackendError: if the compiled core is not in use.
    """
    return _open(_of_run(model), keep=False)[0]


def _open(model: Any, *, keep: bool) -> tuple[Any, ModelFiles | None]:
    """The model as the engine has it, and if asked for what its files held, which is what was opened.

    There are no files of what :func:`open_model` gave.
    """
    engine = _engine()
    if isinstance(model, engine.StreamModel):
        return model, None
    if not isinstance(model, str | Path):
        if not hasattr(model, "save_pretrained"):
            raise ConfigError(f"what is streamed is a model, a run or a folder of either, got {type(model).__name__}")
        with tempfile.TemporaryDirectory() as made:
            model.save_pretrained(made)
            return _open(made, keep=keep)
    existing(model)
    try:
        if not keep:
            return engine.StreamModel.open(str(model)), None
        folder = model_folder(model)
        found = ModelFiles.read(folder)
        return engine.StreamModel.read(found.config, found.tensors, str(folder)), found
    except OSError as error:
        raise CheckpointError(f"cannot read {error.filename}: {error.strerror}") from None
    except engine.Error as error:
        raise CheckpointError(str(error)) from None


def _of_run(given: Any) -> Any:
    """The model of a run; anything else as it is."""
    from poco.run import Run

    return given.model if isinstance(given, Run) else given


def _warn_unless_normalised(opened: Any, session: int) -> None:
    """Warns if the normalisation of a session (its index) of a model in the engine was never set."""
    if not opened.is_normalised(session):
        warnings.warn(vocabulary.not_normalised(opened.sessions[session][0]), RuntimeWarning, stacklevel=3)
