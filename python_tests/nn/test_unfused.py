"""The two-pass model equals the published way of writing it, outputs and gradients, on random configurations."""

from __future__ import annotations

import pytest
import torch
from helpers import relative_error, unfused
from helpers.models import random_model

from poco.data.packed import PackedBatch


@pytest.mark.parametrize("seed", range(50))
def test_equals_unfused(seed: int) -> None:
    model = random_model(seed)
    generator = torch.Generator().manual_seed(seed)
    counts = [3, 0, 1][: len(model.sessions)]  # windows of each session, one with none
    xs = [
        torch.randn(count, len(spec.units), model.config.context, generator=generator, dtype=torch.float64)
        for count, spec in zip(counts, model.sessions, strict=True)
    ]
    expected = [unfused.forecast(model, x, i) for i, x in enumerate(xs)]
    for i, x in enumerate(xs):
        assert model(x, i).shape == expected[i].shape
        if x.numel():
            assert relative_error(model(x, model.sessions[i].name), expected[i]) < 1e-12

    batch = pack(xs)
    together = torch.cat([e.flatten(0, 1) for e in expected])
    packed = model.forward_packed(batch)
    assert relative_error(packed, together) < 1e-12

    weights = torch.randn(together.shape, generator=generator, dtype=torch.float64)
    parameters = dict(model.named_parameters())
    ours = torch.autograd.grad((packed * weights).sum(), list(parameters.values()), allow_unused=True)
    theirs = torch.autograd.grad((together * weights).sum(), list(parameters.values()), allow_unused=True)
    for name, mine, reference in zip(parameters, ours, theirs, strict=True):
        if reference is None or not reference.any():
            assert mine is None or mine.abs().max() < 1e-12, name
        else:
            assert relative_error(mine, reference) < 1e-9, name


def pack(xs: list[torch.Tensor]) -> PackedBatch:
    """Windows of every session, one session after another, as one packed batch."""
    first, unit_index, counts, sessions = 0, [], [], []
    for session, x in enumerate(xs):
        windows, units = x.shape[:2]
        unit_index.append((first + torch.arange(units)).repeat(windows))
        counts += [units] * windows
        sessions += [session] * windows
        first += units
    return PackedBatch(
        torch.cat([x.flatten(0, 1) for x in xs]),
        torch.cat(unit_index).int(),
        torch.tensor([0, *counts]).cumsum(0).int(),
        torch.tensor(sessions),
    )
