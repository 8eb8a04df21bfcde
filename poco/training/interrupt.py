"""Stopping a training run from outside without losing work."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from poco.errors import PocoError


class Interrupted(PocoError):  # noqa: N818 - it is no fault
    """Training was stopped by a signal after its state was saved.

    Attributes:
        signal_number: the signal.
        exit_code: what a command should exit with: 128 + signal, as shells expect (130 SIGINT, 143 SIGTERM).
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number
        self.exit_code = 128 + signal_number


class SignalWatch:
    """Context manager: SIGINT and SIGTERM are noted in ``.received`` instead of ending the process at once.

    A second signal of the same kind acts at once. Outside the main thread, or if not ``enabled``, nothing is watched.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.received: int | None = None
        self._enabled = enabled and threading.current_thread() is threading.main_thread()
        self._before: dict[int, Any] = {}

    def __enter__(self) -> SignalWatch:
        if self._enabled:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        signal.signal(number, self._before.get(number) or signal.SIG_DFL)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
