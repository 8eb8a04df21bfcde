"""Small recordings for tests."""

from __future__ import annotations

from typing import Any

import numpy as np

from poco.data.recording import Recording


def waves(session: str = "a", units: int = 5, frames: int = 400, seed: int = 0, **more: Any) -> Recording:
    """Slow waves with noise: every unit a mixture of three, in units of its own."""
    rng = np.random.default_rng((seed, *session.encode()))
    time = np.arange(frames)
    sources = np.sin(2 * np.pi * (time / rng.uniform(20, 60, (3, 1)) + rng.uniform(size=(3, 1))))
    activity = rng.normal(size=(units, 3)) @ sources + 0.3 * rng.normal(size=(units, frames))
    return Recording(activity * rng.uniform(1, 20, (units, 1)) + rng.normal(size=(units, 1)) * 5, session, **more)


def counted(session: str = "a", units: int = 2, frames: int = 400, **more: Any) -> Recording:
    """Unit ``u`` at frame ``t`` is ``1000 u + t``: a value says where it came from."""
    return Recording(np.arange(frames) + 1000.0 * np.arange(units)[:, None], session, **more)
