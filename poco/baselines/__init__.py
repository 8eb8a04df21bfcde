"""The forecasters that POCO is compared with.

Each is an ``nn.Module`` whose ``forward_packed(batch)`` takes a packed batch and returns ``[R, H]`` in normalised
units, as POCO does. ``copy`` and ``mean`` have nothing to learn, ``ridge`` and ``ground`` are fitted in closed form
(``fit(split)``), ``nlinear`` and ``mlp`` are trained with the same loop as POCO. ``ground`` knows the sessions that it
was fitted to, the others treat all units alike.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from poco.baselines.copy import Copy
from poco.baselines.ground import GroundBaseline
from poco.baselines.mean import Mean
from poco.baselines.mlp import MLP
from poco.baselines.nlinear import NLinear
from poco.baselines.ridge import Ridge
from poco.errors import ConfigError

#: Names of the baselines, simplest first.
NAMES = ("copy", "mean", "ridge", "nlinear", "mlp", "ground")
#: Those that are trained with gradient steps.
TRAINED = ("nlinear", "mlp")
#: Those that are fitted in closed form, by ``fit(split)``.
FITTED = ("ridge", "ground")
#: Those that know the sessions they were fitted to, and no others.
OF_SESSIONS = ("ground",)

_CLASSES: dict[str, Callable[[int, int], nn.Module]] = {
    "copy": Copy,
    "mean": Mean,
    "ridge": Ridge,
    "nlinear": NLinear,
    "mlp": MLP,
    "ground": GroundBaseline,
}


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
    return _CLASSES[name](context, horizon)


__all__ = [
    "FITTED",
    "MLP",
    "NAMES",
    "OF_SESSIONS",
    "TRAINED",
    "Copy",
    "GroundBaseline",
    "Mean",
    "NLinear",
    "Ridge",
    "build",
]
