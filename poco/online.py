"""Adapting a model beside the stream that it forecasts: a process of its own learns from the frames seen so far."""

from __future__ import annotations

import atexit
import contextlib
import copy
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from poco.errors import ConfigError, DataError, PocoError
from poco.files import ADAPTATION, CONFIG, MODEL, TENSORS, read_json

if TYPE_CHECKING:
    from poco.data.recording import Recording
    from poco.models import Member

_CANCELLED = "the adaptation was cancelled"
_REQUEST, _FRAMES, _BEGINS, _BASE = "request.json", "frames.npy", "begins.npy", "base"
# The CPUs that this process had before a real-time set-up pinned the thread that pushes, which comes after this import.
_CPUS = os.sched_getaffinity(0) if sys.platform == "linux" else frozenset[int]()
# What the process begins with: it steps back before it imports anything large.
_START = """
import os, sys
if hasattr(os, "nice"):
    os.nice(10)
from pathlib import Path
from poco.online import main
raise SystemExit(main(Path(sys.argv[1])))
"""


class AdaptationFailedError(PocoError):
    """An adaptation beside a stream came to nothing; the stream goes on with the model it had."""


@dataclass(frozen=True)
class ModelFiles:
    """What the two files of a model held when a stream went on with it, whatever becomes of them later.

    Attributes:
        config: of ``config.json``.
        tensors: of ``model.safetensors``.
    """

    config: bytes
    tensors: bytes

    @classmethod
    def read(cls, folder: Path) -> ModelFiles:
        """Those in this very folder; an OSError if they cannot be read."""
        return cls((folder / CONFIG).read_bytes(), (folder / TENSORS).read_bytes())

    def write(self, folder: Path) -> None:
        """Make the folder with these files in it."""
        folder.mkdir()
        (folder / CONFIG).write_bytes(self.config)
        (folder / TENSORS).write_bytes(self.tensors)


class Seen:
    """The last frames of a stream, in a ring: a frame lies at its number, from 0, modulo the length.

    Args:
        keep: how many frames at most.
        units: number of units.

    Attributes:
        count: how many came.
    """

    def __init__(self, keep: int, units: int) -> None:
        self._frames = np.empty((keep, units), np.float32)
        self._begins = np.zeros(keep, bool)
        self._lost = 0  # how many of the first ones are not there, however long the ring
        self.count = 0

    def add(self, frame: npt.NDArray[np.float32], begins: bool) -> None:
        """Keep a frame ``[N]``, NaN where a unit was not seen; ``begins``: the one before it in time is not there."""
        place = self.count % len(self._frames)
        self._frames[place], self._begins[place] = frame, begins
        self.count += 1  # last: who reads meanwhile takes this frame for one that is on its way in

    def __len__(self) -> int:
        return self.count - self._first

    @property
    def _first(self) -> int:
        """The number of the oldest frame that is there."""
        return max(self._lost, self.count - len(self._frames))

    def save(self, folder: Path, count: int) -> dict[str, int]:
        """Write what is there of the first ``count`` frames into a folder, while another thread may add further ones.

        Those that the further ones overwrite meanwhile are left out. The other thread is not held up: the interpreter's
        lock is let go for as long as the frames take to write.

        Returns:
            What :meth:`load` needs to know beside the folder.

        Raises:
            DataError: if all of them were overwritten.
        """
        kept = min(count, len(self._frames))
        np.save(folder / _FRAMES, self._frames[:kept])
        np.save(folder / _BEGINS, self._begins[:kept])
        # a frame takes the place of that which came a whole ring before it, and one more may be half in
        first = max(self._first, self.count + 1 - len(self._frames))
        if first >= count:
            raise DataError("newer frames overwrote all that there were before these could be written: keep more")
        return {"count": count, "lost": first}

    @classmethod
    def load(cls, folder: Path, count: int, lost: int) -> Seen:
        """The frames that :meth:`save` wrote."""
        seen = cls(0, 0)
        seen._frames, seen._begins = np.load(folder / _FRAMES), np.load(folder / _BEGINS)
        seen.count, seen._lost = count, lost
        return seen

    def recording(self, session: str, units: tuple[str, ...], rate_hz: float | None, dataset: str) -> Recording:
        """The frames as a recording; a value that is missing is the unit's last one, as the stream takes it.

        Raises:
            DataError: if a unit was never seen.
        """
        from poco.data.recording import Recording

        order = np.arange(self._first, self.count) % len(self._frames)
        activity, begins = self._frames[order].T, self._begins[order]
        there = np.isfinite(activity)
        unseen = np.flatnonzero(~there.any(1))
        if unseen.size:
            raise DataError(f"unit '{units[unseen[0]]}' was not seen in any of the last {len(self)} frames")
        last = np.maximum.accumulate(np.where(there, np.arange(len(self)), -1), axis=1)
        last = np.where(last < 0, there.argmax(1)[:, None], last)
        starts = [0, *(int(place) for place in np.flatnonzero(begins) if place)]
        stretches = tuple(zip(starts, [*starts[1:], len(self)], strict=True))
        return Recording(
            np.take_along_axis(activity, last, 1),
            session,
            rate_hz=rate_hz,
            unit_ids=units,
            dataset=dataset,
            stretches=stretches,
        )


class OnlineAdaptation:
    """An adaptation that goes on in a process of its own; see :meth:`poco.Stream.adapt_online`.

    Attributes:
        opened: the adapted model, ready to be swapped in; None while there is none, and when the stream has taken it.
    """

    def __init__(
        self, model: ModelFiles, session: str, seen: Seen, options: Mapping[str, Any], open_: Callable[[Path], Any]
    ) -> None:
        self.opened: Any = None
        self._open, self._error = open_, ""
        self._result: dict[str, Any] | None = None
        self._process: subprocess.Popen[str] | None = None
        self._cancelled = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(model, session, seen, seen.count, options), name="poco-online", daemon=True
        )
        _RUNNING.add(self)
        self._thread.start()

    @property
    def done(self) -> bool:
        """Whether it is over, well or not."""
        return not self._thread.is_alive()

    def result(self, timeout: float | None = None) -> dict[str, Any]:
        """What it found, as :meth:`poco.adapted.Adapted.to_json` says it; waits for the end.

        The adapted model is swapped in at the next frame that is pushed after the end.

        Raises:
            AdaptationFailedError: if it failed or was cancelled, or the stream cannot go on with the adapted model; the
                message says why.
            TimeoutError: if it is not over after so many seconds.
        """
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise TimeoutError(f"the adaptation is not over after {timeout} s")
        if self._result is None:
            raise AdaptationFailedError(self._error)
        return self._result

    def cancel(self) -> None:
        """Stop it; the stream keeps the model it has. It is too late once the adapted model forecasts."""
        self._cancelled.set()
        if self._process is not None:
            self._process.kill()
        self._thread.join()
        if self.opened is not None:
            self.fail(_CANCELLED)

    def fail(self, why: str) -> None:
        """What it made is not used, and :meth:`result` says why."""
        self.opened, self._result, self._error = None, None, why

    def _run(self, model: ModelFiles, session: str, seen: Seen, count: int, options: Mapping[str, Any]) -> None:
        """Write the request, wait for the process, open what it made: not in the thread that pushes frames.

        Nothing here is to hold the interpreter's lock for long, which the thread that pushes needs too: no import, no
        model in Python.
        """
        try:
            _leave_real_time()
            with tempfile.TemporaryDirectory(prefix="poco-online-", ignore_cleanup_errors=True) as made:
                self._adapt(Path(made), model, session, seen, count, options)
        except Exception as error:  # noqa: BLE001 - whatever it is, result() says it
            self.fail(f"the adaptation failed: {str(error) or type(error).__name__}")

    def _adapt(
        self, folder: Path, model: ModelFiles, session: str, seen: Seen, count: int, options: Mapping[str, Any]
    ) -> None:
        kept = seen.save(folder, count)
        model.write(folder / _BASE)
        request = {"session": session, "kept": kept, "options": dict(options), "parent": os.getpid()}
        (folder / _REQUEST).write_text(json.dumps(request, default=np.generic.item))  # NumPy's numbers too
        path = os.pathsep.join(filter(None, (str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, str(folder)],
            env={**os.environ, "PYTHONPATH": path},
            cwd=folder,  # nothing else that is called poco stands before this one
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        if self._cancelled.is_set():
            self._process.kill()
        _, said = self._process.communicate()
        if self._cancelled.is_set():
            self._error = _CANCELLED
        elif self._process.returncode:
            last = (said.strip() or f"the process ended with {self._process.returncode}").splitlines()[-1]
            self._error = f"the adaptation failed: {last}"
        else:
            opened = self._open(folder / MODEL)
            self._result = read_json(folder / ADAPTATION, "results")
            self.opened = opened


_RUNNING: weakref.WeakSet[OnlineAdaptation] = weakref.WeakSet()
os.register_at_fork(after_in_child=_RUNNING.clear)  # they are the parent's


@atexit.register
def _cancel_all() -> None:
    """No process outlives the program; the threads of those that are over are no more."""
    for adaptation in list(_RUNNING):
        adaptation.cancel()


def _leave_real_time() -> None:
    """This thread is one as any other from now on, and so will be the process that it starts.

    A thread has priority and CPUs of the one that made it: that which pushes, which may have a real-time set-up.
    """
    if sys.platform != "linux":
        return
    with contextlib.suppress(OSError):  # where that may not be changed, it is as it is
        if os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR):
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, _CPUS)


def check_adaptable(model: ModelFiles, window: int, options: Mapping[str, Any]) -> None:
    """Raises ConfigError if a model is not adapted beside a stream, or not with these options of :func:`poco.adapt`.

    Args:
        model: what its files hold.
        window: its context and horizon together.
        options: by name.
    """
    from poco.adaptation import check_options

    kind = json.loads(model.config)["model"]
    if kind not in ("POCO", "Grounded"):
        raise ConfigError(f"a model of kind {kind} is not adapted beside a stream")
    check_options(kind.lower(), window, options)


def without(model: Member, session: str) -> Member:
    """A copy of a model that does not know one of its sessions.

    Raises:
        VocabularyError: if it does not know the session.
    """
    from poco.nn import POCO

    index = model.session_index(session)
    if isinstance(model, POCO):
        return model.subset([other for other in range(len(model.sessions)) if other != index])
    smaller = copy.deepcopy(model)
    smaller.ground.remove_session(index)
    return smaller


def _end_with(parent: int, folder: Path) -> None:
    """End this process when the one of the stream has ended, however that was, and leave nothing behind."""
    while os.getppid() == parent:
        time.sleep(0.2)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def main(folder: Path) -> int:
    """Adapt as the request in a folder says, on one thread, so that the stream has the rest."""
    request = json.loads((folder / _REQUEST).read_text())
    threading.Thread(target=_end_with, args=(request["parent"], folder), daemon=True).start()
    try:
        return _adapt(folder, request)
    finally:
        if os.getppid() != request["parent"]:  # the end would cut off the thread in the middle of it
            shutil.rmtree(folder, ignore_errors=True)


def _adapt(folder: Path, request: Mapping[str, Any]) -> int:
    """What is asked for, written into the folder; 1 where that cannot be, which is said."""
    import torch

    from poco import models
    from poco.adaptation import adapt
    from poco.nn.files import learnt_rate

    torch.set_num_threads(1)
    session = request["session"]
    model = cast("Member", models.load(folder / _BASE))
    spec = model.sessions[model.session_index(session)]
    rate = learnt_rate(model, session)
    try:
        recording = Seen.load(folder, **request["kept"]).recording(session, spec.units, rate, spec.dataset)
        adapted = adapt(without(model, session), recording, **request["options"])
    except (PocoError, TypeError) as error:
        print(error, file=sys.stderr)
        return 1
    adapted.save(folder)
    return 0
