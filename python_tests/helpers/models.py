"""Small random models for tests."""

from __future__ import annotations

import random

import torch

import poco


def randomise(model: poco.POCO, seed: int = 0) -> poco.POCO:
    """Every parameter drawn at random (FiLM starts at zero otherwise), layer norms around one; double, evaluating."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.2)
            if "norm.weight" in name:
                parameter.add_(1)
    return model


def random_model(seed: int) -> poco.POCO:
    """A model of a random small configuration with two or three sessions in one or two data sets."""
    rng = random.Random(seed)
    segment_length, segments = rng.choice([1, 3, 4, 8]), rng.choice([1, 2, 3, 5])
    seen = segment_length * segments
    cut = rng.choice([0, 0, 3])
    types = rng.choice([False, False, True])
    config = poco.POCOConfig(
        context=seen + cut,
        decoder_context=seen if cut else None,
        horizon=rng.choice([1, 3, 16]),
        segment_length=segment_length,
        latents=rng.choice([1, 2, 5, 8]),
        width=rng.choice([8, 12, 33]),
        layers=rng.choice([0, 1, 2]),
        heads=rng.choice([1, 3]),
        head_width=rng.choice([4, 8, 12]),
        ffn_width=rng.choice([None, 7]),
        film_width=rng.choice([0, 1, 13, 40]),
        film_depth=rng.choice([1, 1, 2, 3]),
        t_max=rng.choice([50.0, 100.0, 400.0]),
        session_embedding=rng.choice([True, True, False]),
        unit_type_embedding=types,
        latent_session_embedding=rng.choice([True, False]),
    )
    specs = []
    for index, units in enumerate(rng.sample([1, 2, 7, 37], rng.choice([2, 3]))):
        kinds = tuple(rng.choice(["a", "b", "c"]) for _ in range(units)) if types else ()
        specs.append(poco.SessionSpec(f"s{index}", tuple(map(str, range(units))), rng.choice(["x", "y"]), kinds))
    torch.manual_seed(seed)
    return randomise(poco.POCO(config, specs), seed)
