"""What happens to the latents before and between the passes, for inference: two torch custom ops without a gradient.

``torch.ops.poco.latent_queries`` makes the queries of pass 1, ``torch.ops.poco.latent_transformer`` the keys and values
of pass 2 from what pass 1 pooled.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from poco.ops import checks
from poco.ops.backends import choose

torch.library.define(
    "poco::latent_queries",
    "(Tensor initial, Tensor norm_weight, Tensor norm_bias, Tensor query_weight, Tensor key_weight, "
    "Tensor frequencies, int segments, int context, float eps) -> Tensor",
)
torch.library.define(
    "poco::latent_transformer",
    "(Tensor pooled, Tensor initial, Tensor[] parameters, Tensor frequencies, int heads, int context, float eps) "
    "-> (Tensor keys, Tensor values)",
)


def latent_queries(
    initial: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    query_weight: Tensor,
    key_weight: Tensor,
    frequencies: Tensor,
    segments: int,
    context: int,
    eps: float = 1e-5,
) -> Tensor:
    """The queries of pass 1: those of the latents, absorbed into token space and scaled. It has no gradient.

    With segment ``s`` at time ``s * C / S``, latent ``m`` at ``m * C / Q`` and ``R`` the rotation by a time::

        queries[s, m] = key_weight^T R(time of m - time of s) query_weight LayerNorm(initial[m]) / sqrt(dh)

    Args:
        initial: ``[1 or W, Q, d]`` the latents before they read.
        norm_weight: ``[d]``.
        norm_bias: ``[d]``.
        query_weight: ``[dh, d]``; ``dh`` is a multiple of 4.
        key_weight: ``[dh, d]``.
        frequencies: ``[dh / 4]`` float32 angular frequencies of the pairs that turn.
        segments: ``S``, which divides the context.
        context: ``C`` in frames.
        eps: added to the variance in the layer normalisation.

    Returns:
        ``[1 or W, S, Q, d]`` in the dtype of ``initial``.

    Raises:
        ShapeError: if shapes or devices do not fit together.
        BackendError: if a forced backend cannot run on these tensors.
    """
    return torch.ops.poco.latent_queries(  # type: ignore[no-any-return]
        initial, norm_weight, norm_bias, query_weight, key_weight, frequencies, segments, context, eps
    )


def latent_transformer(
    pooled: Tensor,
    initial: Tensor,
    parameters: Sequence[Tensor],
    frequencies: Tensor,
    heads: int,
    context: int,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """The keys and values of pass 2 from what pass 1 pooled, without dropout. It has no gradient.

    The latents read what was pooled, go through a gated feed-forward layer and through layers of rotary self-attention
    and feed-forward, each residual; times and rotations as in :func:`latent_queries`, and the units ask at time ``C``.
    :mod:`poco.ops.latent_reference` writes it out.

    Args:
        pooled: ``[W, S, Q, d]`` float32 (float64 for float64 latents).
        initial: ``[1 or W, Q, d]`` the latents before they read.
        parameters: all tensors of :class:`poco.ops.latent_reference.LatentParameters` in order, layer after layer.
        frequencies: ``[dh / 4]`` float32 angular frequencies of the pairs that turn.
        heads: heads of the self-attention.
        context: ``C`` in frames.
        eps: added to the variance in all layer normalisations.

    Returns:
        ``keys [W, Q, d]`` and ``values [W, Q, d]`` in the dtype of ``initial``.

    Raises:
        ShapeError: if shapes or devices do not fit together.
        BackendError: if a forced backend cannot run on these tensors.
    """
    return torch.ops.poco.latent_transformer(  # type: ignore[no-any-return]
        pooled, initial, parameters, frequencies, heads, context, eps
    )


@torch.library.impl("poco::latent_queries", "CompositeExplicitAutograd")
def _queries(
    initial: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    query_weight: Tensor,
    key_weight: Tensor,
    frequencies: Tensor,
    segments: int,
    context: int,
    eps: float,
) -> Tensor:
    inputs = (initial, norm_weight, norm_bias, query_weight, key_weight, frequencies, segments, context, eps)
    checks.latent_queries(*inputs)
    return choose(initial.device, initial.dtype).latent_queries(*inputs)  # type: ignore[no-any-return]


@torch.library.impl("poco::latent_transformer", "CompositeExplicitAutograd")
def _transformer(
    pooled: Tensor,
    initial: Tensor,
    parameters: list[Tensor],
    frequencies: Tensor,
    heads: int,
    context: int,
    eps: float,
) -> tuple[Tensor, Tensor]:
    checks.latent_transformer(pooled, initial, parameters, frequencies, heads, context)
    backend = choose(initial.device, initial.dtype)
    return backend.latent_transformer(pooled, initial, parameters, frequencies, heads, context, eps)  # type: ignore[no-any-return]


@torch.library.register_fake("poco::latent_queries")
def _fake_queries(initial: Tensor, *rest: object) -> Tensor:
    windows, latents, width = initial.shape
    return initial.new_empty((windows, rest[5], latents, width))  # type: ignore[arg-type]


@torch.library.register_fake("poco::latent_transformer")
def _fake_transformer(pooled: Tensor, initial: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
    windows, _, latents, width = pooled.shape
    return initial.new_empty((windows, latents, width)), initial.new_empty((windows, latents, width))
