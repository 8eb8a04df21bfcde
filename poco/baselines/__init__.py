"""The forecasters that POCO is compared with.

Each is an ``nn.Module`` whose ``forward_packed(batch)`` takes a packed batch and returns ``[R, H]`` in normalised
units, as POCO does. ``copy`` and ``mean`` have nothing to learn, ``ridge`` is fitted in closed form (``fit(split)``),
``nlinear`` and ``mlp`` are trained with the same loop as POCO.
"""

from __future__ import annotations

from torch import nn

from poco.baselines.copy import Copy
from poco.baselines.mean import Mean
from poco.baselines.mlp import MLP
from poco.baselines.nlinear import NLinear
from poco.baselines.ridge import Ridge
from poco.errors import ConfigError

#: Names of the baselines, simplest first.
NAMES = ("copy", "mean", "ridge", "nlinear", "mlp")
#: Those that are trained with gradient steps.
TRAINED = ("nlinear", "mlp")

_CLASSES = {"copy": Copy, "mean": Mean, "ridge": Ridge, "nlinear": NLinear, "mlp": MLP}


def build(name: str, context: int, horizon: int) -> nn.Module:
    """A baseline by name, not yet fitted.

    Args:
        name: one of :data:`NAMES`.
        context: frames a forecast is made from.
        horizon: frames that are forecast.

    Raises:
        ConfigError: if there is no baseline of that name.
    """
    if name not in _CLASSES:
        raise ConfigError(f"there is no baseline '{name}': choose from {', '.join(NAMES)}")
    baseline: nn.Module = _CLASSES[name](context, horizon)
    return baseline


__all__ = ["MLP", "NAMES", "TRAINED", "Copy", "Mean", "NLinear", "Ridge", "build"]
