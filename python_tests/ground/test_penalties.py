"""poco.ground.penalties: the solve, its error out of fold, and the number of latents that is chosen by it."""

from __future__ import annotations

import numpy as np
import torch

from poco.data.simulate import simulate
from poco.data.splits import split
from poco.ground import GroundConfig, fit
from poco.ground.penalties import LATENTS, MANY_UNITS, UNIT_PENALTIES, USUAL, Held, Search, coefficients, error
from poco.ground.sums import UnitSums

OWN, SHARED, TARGETS, UNITS = 3, 6, 2, 4


def data(seed: int, windows: int = 200) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A unit's own features ``[n, W, Fo]``, the population's ``[W, Fp]``, and targets ``[n, W, t]`` made of both."""
    generator = torch.Generator().manual_seed(seed)
    own = torch.randn(UNITS, windows, OWN, generator=generator, dtype=torch.float64)
    shared = torch.randn(windows, SHARED, generator=generator, dtype=torch.float64)
    fixed = torch.Generator().manual_seed(99)
    of_own = torch.randn(UNITS, OWN, TARGETS, generator=fixed, dtype=torch.float64)
    of_shared = 0.3 * torch.randn(UNITS, SHARED, TARGETS, generator=fixed, dtype=torch.float64)
    noise = 3 * torch.randn(UNITS, windows, TARGETS, generator=generator, dtype=torch.float64)
    return own, shared, own @ of_own + shared @ of_shared + noise


def sums(own: torch.Tensor, shared: torch.Tensor, target: torch.Tensor) -> UnitSums:
    rows = target.reshape(-1, TARGETS)
    return UnitSums(
        (own.mT @ own)[None],
        (own.mT @ shared)[None],
        (shared.mT @ shared)[None],
        (own.mT @ target)[None],
        (shared.mT @ target)[None],
        (rows.T @ rows)[None],
        torch.tensor([float(len(shared))]).double(),
    )


def test_the_solve_is_ridge_regression_of_each_unit() -> None:
    own, shared, target = data(0)
    scale = torch.tensor([2.0, 1.0, 0.5, 4.0, 0.1, 1.0])
    mine, population = coefficients(sums(own, shared, target), 0.5, 0.25, scale)
    ridge = 200 * torch.diag(torch.cat([torch.full((OWN,), 0.5), 0.25 * 4.0 / scale]).double())
    for unit in range(UNITS):
        features = torch.cat([own[unit], shared], 1)
        expected = torch.linalg.solve(features.T @ features + ridge, features.T @ target[unit])
        torch.testing.assert_close(torch.cat([mine[0, unit], population[0, unit]]), expected)
        left = target[unit] - features @ expected
        only = sums(own[unit : unit + 1], shared, target[unit : unit + 1])
        found = error(only, mine[:, unit : unit + 1], population[:, unit : unit + 1])
        np.testing.assert_allclose(found, float(left.square().sum()))


def test_the_search_ends_where_the_error_out_of_fold_is_lowest() -> None:
    scale = torch.ones(SHARED)
    held = Held(sums(*data(1, windows=40)), sums(*data(2, windows=2000)), scale)
    search = Search([held], means=3)
    relative = search.error(2)
    found = search.penalties(2, USUAL)
    errors = {}
    for own in UNIT_PENALTIES:
        for population in UNIT_PENALTIES:
            errors[own, population] = error(held.held, *coefficients(held.seen, own, population, scale))
    assert (found.own, found.population) == min(errors, key=errors.__getitem__)
    np.testing.assert_allclose(relative, min(errors.values()) / float(held.held.target[0].diagonal().sum()))
    one_latent = search.error(1)  # half of what the targets are made of is left out
    assert relative < one_latent


def test_more_latents_where_they_forecast_and_no_more_elsewhere() -> None:
    coupled = split(simulate(1, 64, 1200, individuality=0.0), context=12, horizon=4)
    assert fit(coupled, cross=False).ground.config.latents == LATENTS[-1]
    rng = np.random.default_rng(0)
    noise = simulate(1, 64, 1200)[0]
    noise.activity[:] = rng.normal(size=noise.activity.shape)
    fitted = fit(split([noise], context=12, horizon=4), cross=False)
    assert fitted.ground.config.latents == LATENTS[0]
    assert MANY_UNITS > 64


def test_latents_that_are_asked_for_are_taken() -> None:
    cut = split(simulate(1, 40, 600), context=12, horizon=4)
    assert fit(cut, GroundConfig(12, 4, latents=5)).ground.terms(0).loadings.shape == (40, 5)
    assert fit(cut, GroundConfig(12, 4, latents=0)).ground.terms(0).loadings.shape == (40, 0)
