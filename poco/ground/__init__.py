"""The ground: a closed-form forecaster that a recording of minutes is enough for, and what stands on it.

``fit(split)`` solves for a :class:`Ground`: a linear map of the context shared by all units, and strongly shrunk
coefficients of each unit on a few features of its own past and of the population's latents. Training windows are
forecast with coefficients fitted on other folds of time, so that what is trained on top does not learn to trust
what was memorised.
"""

from __future__ import annotations

from poco.ground.config import GroundConfig
from poco.ground.estimator import CrossFit, Fitted, add_session, fit
from poco.ground.model import Ground
from poco.ground.penalties import Penalties

__all__ = ["CrossFit", "Fitted", "Ground", "GroundConfig", "Penalties", "add_session", "fit"]
