"""poco.ground.config: sizes that cannot work are refused."""

from __future__ import annotations

import pytest

from poco.errors import ConfigError
from poco.ground import GroundConfig
from poco.ground.grounded import GroundedConfig


def test_lengths_of_means() -> None:
    config = GroundConfig(context=8)
    assert config.lengths(config.own_means, centred=False) == (1, 4, 8)
    assert config.lengths(config.own_means, centred=True) == (1, 4)
    assert config.lengths(config.population_means, centred=False) == (1, 8)


def test_round_trip() -> None:
    config = GroundedConfig(context=8, own_means=(1, 0), clip=2.5, width=3)
    assert GroundedConfig.from_dict(config.to_dict()) == config
    assert config.ground == GroundConfig(context=8, own_means=(1, 0), clip=2.5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"context": 0}, "context must be at least 1, got 0"),
        ({"latents": -1}, "latents must be at least 0, got -1"),
        ({"own_means": (-1,)}, "own_means must not be negative"),
        ({"clip": 0.0}, "clip must be positive, got 0.0"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"latents": 2.5}, "latents must be a whole number or none, got 2.5"),
        ({"own_means": 3}, "own_means must be a list, each a whole number, got 3"),
        ({"clip": None}, "clip must be a number, got None"),
        ({"population": "no"}, "population must be true or false or none, got 'no'"),
    ],
)
def test_sizes_that_cannot_work(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GroundedConfig(**values)  # type: ignore[arg-type]


def test_unknown_fields() -> None:
    with pytest.raises(ConfigError, match="not the sizes of a ground: unknown option 'depth': there are clip, context"):
        GroundConfig.from_dict({"depth": 3})
