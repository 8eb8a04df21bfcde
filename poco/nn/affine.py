"""Parts and parameters of a module, quickly.

Looking up an attribute of a module that is a module or parameter costs half a microsecond or more, and a model has some
ninety of these to look up for a forecast that may take a few hundred. They are in the module's own tables, but for
parametrised weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from torch import Tensor, nn


def parts(module: nn.Module) -> Mapping[str, nn.Module]:
    """The modules that a module is made of, by name."""
    return cast("Mapping[str, nn.Module]", module._modules)


def weight(layer: nn.Module) -> Tensor:
    """``layer.weight``."""
    own = layer._parameters.get("weight")
    return layer.weight if own is None else own  # type: ignore[return-value]


def affine(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """``(layer.weight, layer.bias)``."""
    own = layer._parameters
    weight, bias = own.get("weight"), own.get("bias")
    if weight is None or bias is None:
        return layer.weight, layer.bias  # type: ignore[return-value]
    return weight, bias
