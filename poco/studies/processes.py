"""Several processes at a time, none of which outlives the one that started them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from poco.cells import at_least_one
from poco.errors import PocoError

#: Applies a function to each of several things and gives back what it returned, in order.
Each = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]


@contextmanager
def in_processes(processes: int, threads: int | None = None) -> Iterator[Each]:
    """A ``map`` that runs in so many processes at a time; in this one where that is 1.

    However the block is left, they are ended, with what they are at.

    Args:
        processes: how many.
        threads: of torch in each of several processes; default their share of the processors.

    Raises:
        ConfigError: if a number is below 1.
        PocoError: if one of several is killed.
    """
    at_least_one(processes=processes, threads=threads)
    if processes == 1:
        yield map
        return
    spawn = get_context("spawn")  # a fork of a process with threads may hang
    started: list[BaseProcess] = []
    ends: list[Connection] = []
    try:
        for _ in range(processes):
            mine, theirs = spawn.Pipe()
            worker = spawn.Process(target=_work, args=(theirs, processes, threads), daemon=True)
            worker.start()
            theirs.close()  # so that the end of the worker is that of the pipe
            started.append(worker)
            ends.append(mine)
        yield lambda function, things: _each(ends, function, things)
    finally:
        for process in started:
            process.kill()
            process.join()


def _each(ends: list[Connection], function: Callable[[Any], Any], things: Iterable[Any]) -> Iterator[Any]:
    """What the workers at these ends make of the things, in order; each has one at a time."""
    left = enumerate(things)
    idle, busy, made = list(ends), dict[Connection, int](), dict[int, Any]()
    given = 0  # how many results went out
    while True:
        while idle and (task := next(left, None)) is not None:
            number, thing = task
            end = idle.pop()
            with _killed_is_said():
                end.send((function, thing))
            busy[end] = number
        if not busy:
            return
        ready = wait(busy)
        for end in [end for end in busy if end in ready]:
            with _killed_is_said():
                value, error = end.recv()
            if error is not None:
                raise error
            made[busy.pop(end)] = value
            idle.append(end)
        while given in made:
            yield made.pop(given)
            given += 1


@contextmanager
def _killed_is_said() -> Iterator[None]:
    try:
        yield
    except (EOFError, ConnectionError):
        raise PocoError(
            "a process was killed, probably for want of memory: take fewer processes (--processes); what is done is "
            "kept, and the same command goes on"
        ) from None


def _work(end: Connection, processes: int, threads: int | None) -> None:
    """In a new process: answer until the one that started it ends, with no more than a share of the processors."""
    import torch

    from poco.installation import processors

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that started it, which ends this one
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    torch.set_num_threads(threads or max(1, min(torch.get_num_threads(), processors() // processes)))
    while True:
        function, thing = end.recv()
        try:
            end.send((function(thing), None))
        except Exception as error:  # noqa: BLE001 - raised where it was asked for
            end.send((None, error))


def _leave_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
