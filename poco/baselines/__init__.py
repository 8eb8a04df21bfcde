"""The forecasters that POCO is compared with.

Each is an ``nn.Module`` whose ``forward_packed(batch)`` takes a packed batch and returns ``[R, H]`` in normalised
units, as POCO does. ``copy`` and ``mean`` have nothing to learn, ``ridge``, ``unit-ridge`` and ``ground`` are fitted in
closed form (``fit(split)``), the others are trained with the same loop, batches and checkpoints as POCO. Those of
:data:`OF_SESSIONS` know the sessions that they were fitted to, the others treat all units alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

from poco.baselines.ablations import POYO, TACO, UICO, UICOLarge
from poco.baselines.ar_transformer import ARTransformer
from poco.baselines.copy import Copy
from poco.baselines.dlinear import DLinear
from poco.baselines.filternet import PaiFilter, TexFilter
from poco.baselines.ground import GroundBaseline
from poco.baselines.mean import Mean
from poco.baselines.mlp import MLP
from poco.baselines.mlp_large import MLPLarge
from poco.baselines.modern_tcn import ModernTCN
from poco.baselines.netformer import NetFormer
from poco.baselines.nlinear import NLinear
from poco.baselines.patchtst import PatchTST
from poco.baselines.plrnn import PLRNN
from poco.baselines.ridge import Ridge
from poco.baselines.tsmixer import TSMixer
from poco.baselines.unit_ridge import UnitRidge
from poco.errors import ConfigError
from poco.nn import SessionSpec

_ALIKE: dict[str, Callable[[int, int], nn.Module]] = {
    "copy": Copy,
    "mean": Mean,
    "ridge": Ridge,
    "nlinear": NLinear,
    "mlp": MLP,
    "ground": GroundBaseline,
    "dlinear": DLinear,
    "mlp-large": MLPLarge,
    "pai-filter": PaiFilter,
    "tex-filter": TexFilter,
    "modern-tcn": ModernTCN,
    "patchtst": PatchTST,
    "taco": TACO,
}
_BY_SESSION: dict[str, Callable[[int, int, Sequence[SessionSpec]], nn.Module]] = {
    "unit-ridge": UnitRidge,
    "uico": UICO,
    "uico-large": UICOLarge,
    "tsmixer": TSMixer,
    "plrnn": PLRNN,
    "netformer": NetFormer,
    "poyo": POYO,
    "ar-transformer": ARTransformer,
}
#: Names of those that an evaluation scores where it is not told which, simplest first.
NAMES = ("copy", "mean", "ridge", "nlinear", "mlp", "ground")
#: Names of all.
ALL = (*_ALIKE, *_BY_SESSION)
#: Those that are fitted in closed form, by ``fit(split)``.
FITTED = ("ridge", "unit-ridge", "ground")
#: Those that are trained with gradient steps.
TRAINED = tuple(name for name in ALL if name not in ("copy", "mean", *FITTED))
#: Those that know the sessions they were fitted to, and no others.
OF_SESSIONS = ("ground", *_BY_SESSION)


def check_names(names: Sequence[str]) -> None:
    """Raises ConfigError if these are not names of baselines."""
    if isinstance(names, str):
        raise ConfigError(f"baselines must be a list of names, got '{names}'")
    for name in names:
        if name not in ALL:
            raise ConfigError(f"there is no baseline '{name}': choose from {', '.join(ALL)}")


def build(name: str, context: int, horizon: int, sessions: Sequence[SessionSpec] = ()) -> nn.Module:
    """A baseline by name, not yet fitted.

    Args:
        name: one of :data:`ALL`.
        context: frames a forecast is made from.
        horizon: frames that are forecast.
        sessions: what those of :data:`OF_SESSIONS` are to know; the ground learns of its sessions when it is fitted.

    Raises:
        ConfigError: if there is no baseline of that name.
    """
    if name in _ALIKE:
        return _ALIKE[name](context, horizon)
    check_names((name,))
    return _BY_SESSION[name](context, horizon, sessions)


__all__ = [
    "ALL",
    "FITTED",
    "MLP",
    "NAMES",
    "OF_SESSIONS",
    "PLRNN",
    "POYO",
    "TACO",
    "TRAINED",
    "UICO",
    "ARTransformer",
    "Copy",
    "DLinear",
    "GroundBaseline",
    "MLPLarge",
    "Mean",
    "ModernTCN",
    "NLinear",
    "NetFormer",
    "PaiFilter",
    "PatchTST",
    "Ridge",
    "TSMixer",
    "TexFilter",
    "UICOLarge",
    "UnitRidge",
    "build",
]
