"""The other network that may be added to the ground: POCO, with embeddings that are computed and not learnt."""

from __future__ import annotations

from torch import Tensor, nn

from poco.ground.networks import Residual
from poco.nn import POCO, POCOConfig


class PopulationResidual(nn.Module):
    """A :class:`Residual` and a POCO, exactly zero at the start.

    The whole population is read by ``latent_pool`` and every unit's term is written by ``film_forecast``, as in a POCO.
    What a POCO learns by heart in a short recording are its embeddings. Here an embedding is a linear function, one
    for all units, of the unit's correlations with the latents of the ground: it holds no offset, and a new session has
    it without a gradient step.

    Args:
        context: frames of the context ``C``.
        horizon: frames that are forecast ``H``.
        width: hidden units, of the residual and of the POCO's MLPs.
        clip: conditions are clipped at so many times their root mean square.
        latents: latents of the ground ``K``.
    """

    def __init__(self, context: int, horizon: int, width: int, clip: float, latents: int) -> None:
        super().__init__()
        self.own = Residual(context, horizon, width, clip)
        self.poco = POCO(
            POCOConfig(
                context=context,
                horizon=horizon,
                segment_length=next(n for n in (context // 3, context // 2, context) if n and context % n == 0),
                width=max(8, width // 4),
                heads=4,
                head_width=32,
                ffn_width=max(8, width // 2),
                film_width=width,
                ffn_dropout=0.1,
                latent_dropout=0.1,
            )
        )
        nn.init.zeros_(self.poco.film.output.bias)  # with a FiLM layer that starts at zero nothing is added
        self.embedding = nn.Linear(latents, self.poco.config.width)
        nn.init.normal_(self.embedding.weight)
        nn.init.zeros_(self.embedding.bias)

    def forward(
        self, x: Tensor, condition: Tensor, unit_index: Tensor, window_offsets: Tensor, correlations: Tensor
    ) -> Tensor:
        """Packed windows.

        Args:
            x: ``[R, C]`` contexts.
            condition: ``[R, 2 H]``, see :class:`Residual`.
            unit_index: ``[R]`` int32, unit of each row.
            window_offsets: ``[W + 1]`` int32; window ``w`` is rows ``window_offsets[w]:window_offsets[w + 1]``.
            correlations: ``[V, K]`` of all units with the latents.

        Returns:
            ``[R, H]``.
        """
        out: Tensor = self.own(x, condition) + self.poco.forward_rows(
            x, unit_index, window_offsets, self.embedding(correlations)
        )
        return out
