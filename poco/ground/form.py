"""One form of the ground: on the level of the activity, or after the mean of each window is taken off."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from poco.ground.config import GroundConfig
from poco.nn.exact import ExactBuffers


class Form(ExactBuffers):
    """What all units share of one form: the linear map of the context, and how features are made.

    A unit's own features are means over its last frames, the population's are means of its latents; both are divided
    by their root mean square over the training windows and clipped. No feature is constant: a constant would be an
    intercept, which learns drift.

    Args:
        config: sizes.
        centred: whether the mean of the context is taken off before and added to the forecast after.
    """

    weight: Tensor
    own_map: Tensor
    own_scale: Tensor
    population_map: Tensor

    def __init__(self, config: GroundConfig, *, centred: bool) -> None:
        super().__init__()
        self.centred, self.clip = centred, config.clip
        self.register_buffer("weight", torch.zeros(config.horizon, config.context))
        self._lengths = [
            config.lengths(means, centred=centred) for means in (config.own_means, config.population_means)
        ]
        self.register_buffer("own_map", None, persistent=False)
        self.register_buffer("own_scale", torch.ones(len(self._lengths[0])))
        self.register_buffer("population_map", None, persistent=False)
        self.refill()

    def refill(self) -> None:
        """Makes what takes the means of a context."""
        self.own_map, self.population_map = (_means(self.weight, lengths) for lengths in self._lengths)

    @property
    def context(self) -> int:
        """Frames of the context."""
        return self.own_map.shape[0]

    @property
    def own_count(self) -> int:
        """Own features of a unit."""
        return self.own_map.shape[1]

    def feature_count(self, latents: int) -> int:
        """Features of a unit, those of the population included."""
        return self.own_count + latents * self.population_map.shape[1]

    def offset(self, x: Tensor) -> Tensor:
        """What is taken off before and added after, ``[..., 1]``: the mean of the context, or zero."""
        return x.mean(-1, keepdim=True) if self.centred else torch.zeros_like(x[..., :1])

    def base(self, x: Tensor) -> Tensor:
        """The shared part of the forecast, ``[..., C]`` (offset taken off) -> ``[..., H]``."""
        return x[..., -1:] + x @ self.weight.T.to(x.dtype)

    def own_features(self, x: Tensor) -> Tensor:
        """``[..., C]`` (offset taken off) -> ``[..., Fo]``."""
        return (x @ self.own_map.to(x.dtype) / self.own_scale.to(x.dtype)).clamp(-self.clip, self.clip)

    def raw_population(self, latents: Tensor) -> Tensor:
        """Latents in the windows' contexts ``[W, K, C]`` -> means of theirs ``[W, Fp]``, neither scaled nor clipped."""
        return ((latents - self.offset(latents)) @ self.population_map.to(latents.dtype)).flatten(1)

    def population_features(self, latents: Tensor, scale: Tensor) -> Tensor:
        """``[W, K, C]`` -> ``[W, Fp]``."""
        return (self.raw_population(latents) / scale.to(latents.dtype)).clamp(-self.clip, self.clip)


class UnitTerms(ExactBuffers):
    """What belongs to one session in one form: scales of its population's features and its units' coefficients.

    Args:
        units: number of units ``N``.
        features: ``F``, own and population's.
        population: ``Fp``, how many of them are the population's.
        horizon: ``H``.
    """

    scale: Tensor
    coefficients: Tensor

    def __init__(self, units: int, features: int, population: int, horizon: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(population))
        self.register_buffer("coefficients", torch.zeros(units, features, horizon))


class SessionTerms(ExactBuffers):
    """What belongs to one session: its latents' loadings ``[N, K]``, its normalisation, and its terms in each form."""

    loadings: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, config: GroundConfig, forms: Sequence[Form], units: int) -> None:
        super().__init__()
        latents = min(config.most_latents, units)
        self.register_buffer("loadings", torch.zeros(units, latents))
        self.register_buffer("mean", torch.zeros(units))
        self.register_buffer("std", torch.ones(units))
        terms = []
        for form in forms:
            features = form.feature_count(latents)
            terms.append(UnitTerms(units, features, features - form.own_count, config.horizon))
        self.forms = nn.ModuleList(terms)

    def form(self, index: int) -> UnitTerms:
        """The session's terms in one form."""
        return self.forms[index]  # type: ignore[return-value]


def _means(like: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """``[C, n]``: maps a context to its means over so many last frames; ``like [H, C]`` says where."""
    context = like.shape[1]
    means = like.new_zeros(context, len(lengths))
    for column, length in enumerate(lengths):
        means[context - length :, column] = 1.0 / length
    return means
