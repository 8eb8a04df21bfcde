"""Independent streams of random numbers from one seed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

_STREAMS = ("weights", "dropout")  # the order of the windows has a stream of its own, see ShuffledWindows


@contextmanager
def drawing(seed: int, name: str, device: torch.device | None = None) -> Iterator[None]:
    """Inside, torch draws from one stream, on the CPU and on the device; outside, random states stay as they were.

    Args:
        seed: the seed.
        name: ``"weights"`` for what a model starts from, ``"dropout"`` for all that training draws.
        device: where else is drawn; other GPUs are left alone.
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(_STREAMS.index(name),))
    number = int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))
    gpus = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        torch.default_generator.manual_seed(number)  # torch.manual_seed would be of every GPU too
        for gpu in gpus:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(number)
        yield
