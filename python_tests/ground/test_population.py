"""poco.ground.population: a residual that reads the whole population, with embeddings that are computed."""

from __future__ import annotations

import pytest
import torch

from poco.ground.population import PopulationResidual

CONTEXT, HORIZON, LATENTS = 12, 4, 3


def residual() -> PopulationResidual:
    torch.manual_seed(0)
    return PopulationResidual(CONTEXT, HORIZON, width=32, clip=3.0, latents=LATENTS).eval()


def rows(windows: int = 2, units: int = 5) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(windows * units, CONTEXT, generator=generator)
    condition = torch.randn(windows * units, 2 * HORIZON, generator=generator)
    unit_index = torch.arange(units, dtype=torch.int32).repeat(windows)
    offsets = torch.arange(windows + 1, dtype=torch.int32) * units
    return x, condition, unit_index, offsets, torch.randn(units, LATENTS, generator=generator)


def test_it_starts_at_exactly_zero_and_can_leave_it() -> None:
    model = residual()
    assert torch.equal(model(*rows()), torch.zeros(10, HORIZON))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (model(*rows()) - 1).square().mean().backward()
        optimizer.step()
    assert model.poco.film.scale.weight.abs().sum() > 0
    assert model.embedding.weight.grad is not None


def test_units_that_go_with_the_latents_alike_are_treated_alike() -> None:
    model = residual()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    x, condition, unit_index, offsets, correlations = rows()
    order = torch.tensor([3, 1, 4, 0, 2])
    there = torch.cat([order, order + 5])
    out = model(x, condition, unit_index, offsets, correlations)
    moved = model(x[there], condition[there], unit_index, offsets, correlations[order])
    torch.testing.assert_close(moved, out[there], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("context", [2, 5, 8, 48])
def test_any_context(context: int) -> None:
    model = PopulationResidual(context, HORIZON, width=32, clip=3.0, latents=1)
    assert context % model.poco.config.segment_length == 0
    out = model(torch.randn(6, context), torch.zeros(6, 8), torch.arange(6).int(), torch.tensor([0, 6]).int(),
                torch.ones(6, 1))  # fmt: skip
    assert out.shape == (6, HORIZON)
