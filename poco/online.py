"""Adapting a model beside the stream that it forecasts: a process of its own learns from the frames seen so far."""

from __future__ import annotations

import atexit
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
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from poco.errors import ConfigError, DataError, PocoError
from poco.files import ADAPTATION, MODEL, read_json

if TYPE_CHECKING:
    from poco.data.recording import Recording
    from poco.models import Member

_CANCELLED = "the adaptation was cancelled"
_REQUEST, _FRAMES, _BASE = "request.json", "frames.npz", "base"


class AdaptationFailedError(PocoError):
    """An adaptation beside a stream came to nothing; the stream goes on with the model it had."""


class Seen:
    """The last frames of a stream.

    Args:
        keep: how many frames at most.
        units: number of units.
    """

    def __init__(self, keep: int, units: int) -> None:
        self._frames = np.empty((keep, units), np.float32)
        self._begins = np.zeros(keep, bool)
        self._count = 0

    def add(self, frame: npt.NDArray[np.float32], begins: bool) -> None:
        """Keep a frame ``[N]``, NaN where a unit was not seen; ``begins``: the one before it in time is not there."""
        place = self._count % len(self._frames)
        self._frames[place], self._begins[place] = frame, begins
        self._count += 1

    def __len__(self) -> int:
        return min(self._count, len(self._frames))

    def copy(self) -> Seen:
        """The frames as they are now."""
        same = Seen(0, 0)
        kept = len(self)
        same._frames, same._begins, same._count = self._frames[:kept].copy(), self._begins[:kept].copy(), self._count
        return same

    def save(self, path: Path) -> None:
        """Write the frames to an ``.npz`` file."""
        np.savez(path, frames=self._frames, begins=self._begins, count=self._count)

    @classmethod
    def load(cls, path: Path) -> Seen:
        """The frames that :meth:`save` wrote."""
        seen = cls(0, 0)
        with np.load(path) as stored:
            seen._frames, seen._begins, seen._count = stored["frames"], stored["begins"], int(stored["count"])
        return seen

    def recording(self, session: str, units: tuple[str, ...], rate_hz: float | None, dataset: str) -> Recording:
        """The frames as a recording; a value that is missing is the unit's last one, as the stream takes it.

        Raises:
            DataError: if a unit was never seen.
        """
        from poco.data.recording import Recording

        first = max(0, self._count - len(self._frames)) % len(self._frames)
        order = (first + np.arange(len(self))) % len(self._frames)
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
        self, model: Member | Path, session: str, seen: Seen, options: Mapping[str, Any], open_: Callable[[Path], Any]
    ) -> None:
        self.opened: Any = None
        self._open, self._error = open_, ""
        self._result: dict[str, Any] | None = None
        self._process: subprocess.Popen[str] | None = None
        self._cancelled = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(model, session, seen, options), name="poco-online", daemon=True
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

    def _run(self, model: Member | Path, session: str, seen: Seen, options: Mapping[str, Any]) -> None:
        """Write the request, wait for the process, open what it made: not in the thread that pushes frames."""
        try:
            with tempfile.TemporaryDirectory(prefix="poco-online-", ignore_cleanup_errors=True) as made:
                self._adapt(Path(made), model, session, seen, options)
        except Exception as error:  # noqa: BLE001 - whatever it is, result() says it
            self.fail(f"the adaptation failed: {str(error) or type(error).__name__}")

    def _adapt(self, folder: Path, model: Member | Path, session: str, seen: Seen, options: Mapping[str, Any]) -> None:
        base = model
        if not isinstance(base, Path):
            base = folder / _BASE
            cast("Member", model).save_pretrained(base)
        request = {"session": session, "model": str(base.resolve()), "options": dict(options), "parent": os.getpid()}
        (folder / _REQUEST).write_text(json.dumps(request))
        seen.save(folder / _FRAMES)
        path = os.pathsep.join(filter(None, (str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "poco.online", str(folder)],
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


def without(model: Member, session: str) -> Member:
    """A copy of a model that does not know one of its sessions.

    Raises:
        ConfigError: if the model is of a kind whose sessions cannot be taken away.
        VocabularyError: if it does not know the session.
    """
    from poco.ground.grounded import Grounded
    from poco.nn import POCO

    index = model.session_index(session)
    if isinstance(model, POCO):
        return model.subset([other for other in range(len(model.sessions)) if other != index])
    if isinstance(model, Grounded):
        smaller = copy.deepcopy(model)
        smaller.ground.remove_session(index)
        return smaller
    raise ConfigError(f"a model of kind {type(model).__name__} is not adapted beside a stream")


def _end_with(parent: int, folder: Path) -> None:
    """End this process when the one of the stream has ended, however that was, and leave nothing behind."""
    while os.getppid() == parent:
        time.sleep(0.2)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def main(folder: Path) -> int:
    """Adapt as the request in a folder says, at low priority and on one thread, so that the stream has the rest."""
    import torch

    from poco import models
    from poco.adaptation import adapt
    from poco.nn.files import learnt_rate

    os.nice(10)
    request = json.loads((folder / _REQUEST).read_text())
    threading.Thread(target=_end_with, args=(request["parent"], folder), daemon=True).start()
    torch.set_num_threads(1)
    session = request["session"]
    model = cast("Member", models.load(Path(request["model"])))
    spec = model.sessions[model.session_index(session)]
    rate = learnt_rate(model, session)
    try:
        recording = Seen.load(folder / _FRAMES).recording(session, spec.units, rate, spec.dataset)
        adapted = adapt(without(model, session), recording, **request["options"])
    except (PocoError, TypeError) as error:
        print(error, file=sys.stderr)
        return 1
    adapted.save(folder)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
