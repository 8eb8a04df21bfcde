"""poco.nn.attention: the shares are those by which pass 1 pools."""

from __future__ import annotations

import pytest
import torch

from poco.errors import VocabularyError
from poco.nn import POCO, POCOConfig, SessionSpec
from poco.nn.attention import unit_attention
from poco.ops import latent_pool

SIZES = {"context": 12, "horizon": 4, "segment_length": 4, "latents": 3, "width": 8, "heads": 2, "head_width": 8}


@pytest.mark.parametrize("of_session", [False, True])
def test_shares_are_those_of_pass_1(of_session: bool) -> None:
    torch.manual_seed(0)
    config = POCOConfig(**SIZES, film_width=16, embedding_std=0.5, latent_session_embedding=of_session)
    model = POCO(config, [SessionSpec("a", tuple("uvwxy")), SessionSpec("b", tuple("uvw"))]).double()
    x = torch.randn(2, 3, 12, dtype=torch.float64)
    shares = unit_attention(model, x, "b")
    assert shares.shape == (2, 3, 3)
    torch.testing.assert_close(shares.sum(-1), torch.ones(2, 3, dtype=torch.float64))
    # pooled tokens of a single unit and the whole population differ in their logsumexp by the unit's share
    table = model.unit_table([1])
    initial = model.initial_latents(torch.tensor([1]))
    queries = model.latent_queries(initial)
    norm = model.encoder.context_norm

    def logsumexp(units: list[int]) -> torch.Tensor:
        rows = x[:, units].flatten(0, 1)
        index = torch.tensor(units, dtype=torch.int32).repeat(2)
        offsets = torch.arange(3, dtype=torch.int32) * len(units)
        token = (model.token.weight, model.token.bias, norm.weight, norm.bias)
        return latent_pool(rows, index, offsets, table, *token, queries, norm.eps)[1]

    for unit in range(3):
        expected = (logsumexp([unit]) - logsumexp([0, 1, 2])).exp()
        torch.testing.assert_close(shares[..., unit], expected)


def test_unknown_session() -> None:
    model = POCO(POCOConfig(**SIZES), [SessionSpec("a", ("u",))])
    with pytest.raises(VocabularyError, match="'c'"):
        unit_attention(model, torch.zeros(1, 1, 12), "c")
