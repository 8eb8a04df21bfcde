"""How the C library of a command's process keeps memory."""

from __future__ import annotations

import ctypes

#: Parameters of glibc's mallopt(3) and their values: blocks of up to 1 GiB come from the heap, which keeps 1 GiB.
_SETTINGS = {"M_MMAP_THRESHOLD": (-3, 1 << 30), "M_TRIM_THRESHOLD": (-1, 1 << 30)}


def keep_memory() -> bool:
    """Have large tensors reuse memory; returns whether the C library can be told so.

    glibc maps every block of more than 32 MB anew and gives it back when it is freed, so that large tensors are made of
    fresh pages at every training step, which takes longer than what is computed with some. It concerns the whole
    process, so only commands do it; other programs may set ``MALLOC_MMAP_THRESHOLD_`` and ``MALLOC_TRIM_THRESHOLD_`` in
    their environment.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # not glibc
        return False
    return all(mallopt(parameter, value) == 1 for parameter, value in _SETTINGS.values())
