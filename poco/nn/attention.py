"""How the latents of a POCO attend to the units of a population."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from poco.nn.model import POCO


@torch.no_grad()
def unit_attention(model: POCO, x: Tensor, session: int | str | None = None) -> Tensor:
    """The share of each latent's attention in pass 1 that goes to each unit, summed over the tokens of the unit.

    The passes never form it (a window would take ``Q N S`` numbers); here it is formed, for looking at.

    Args:
        model: a POCO.
        x: ``[B, N, C]`` normalised activity: windows, units, frames (oldest first).
        session: name or index of the session; None: the only one.

    Returns:
        ``[B, Q, N]``; each latent's shares sum to 1.

    Raises:
        VocabularyError: if the model does not know the session, or several and none was chosen.
    """
    config = model.config
    index = model.session_index(session)
    seen = x[..., -config.seen :]
    tokens = model.token(seen.unflatten(-1, (config.segments, -1))) + model.unit_table([index])[:, None]
    initial = model.initial_latents(torch.tensor([index], device=x.device))
    queries = model.latent_queries(initial)
    scores = torch.einsum("sqd,bnsd->bqns", queries[0], model.encoder.context_norm(tokens))
    return scores.flatten(2).softmax(-1).view_as(scores).sum(-1)
