"""Independent streams of random numbers from one seed."""

from __future__ import annotations

import numpy as np

_STREAMS = ("weights", "dropout")  # the order of the windows has a stream of its own, see ShuffledWindows


def stream(seed: int, name: str) -> int:
    """Seed of one stream: ``"weights"`` for what a model starts from, ``"dropout"`` for all that training draws."""
    sequence = np.random.SeedSequence(seed, spawn_key=(_STREAMS.index(name),))
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))
