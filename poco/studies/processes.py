"""Several processes at a time, none of which outlives the one that started them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from typing import Any

from poco.cells import at_least_one
from poco.errors import PocoError

#: Applies a function to each of several things and gives back what it returned, in order.
Each = Callable[..., Iterable[Any]]


@contextmanager
def in_processes(processes: int, threads: int | None = None) -> Iterator[Each]:
    """A ``map`` that runs in so many processes at a time; in this one where that is 1.

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
    try:
        with ProcessPoolExecutor(processes, spawn, _begin, (processes, threads)) as pool:
            yield pool.map
    except BrokenProcessPool:
        raise PocoError(
            "a process was killed, probably for want of memory: take fewer processes (--processes); what is done is "
            "kept, and the same command goes on"
        ) from None


def _begin(processes: int, threads: int | None) -> None:
    """In a new process: leave with the one that started it, and take no more than a share of the processors."""
    import torch

    from poco.installation import processors

    threading.Thread(target=_leave_with_parent, daemon=True).start()
    torch.set_num_threads(threads or max(1, min(torch.get_num_threads(), processors() // processes)))


def _leave_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
