"""Pass 1 as a torch custom op: ``torch.ops.poco.latent_pool``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from poco.ops import checks, reference
from poco.ops.backends import choose, forced, use_backend
from poco.ops.precision import as_given, low
from poco.ops.reference import accumulation_dtype
from poco.ops.second_derivatives import second_derivatives
from poco.ops.vmap import one_by_one

_INPUTS = checks.in_schema(checks.POOL_NAMES) + ", float eps"
_DIFFERENTIABLE = (0, 3, 4, 5, 6, 7, 8)  # positions of the inputs that get a gradient

torch.library.define("poco::latent_pool", f"({_INPUTS}) -> (Tensor pooled, Tensor logsumexp)")
torch.library.define(
    "poco::latent_pool_backward",
    "(Tensor grad_pooled, Tensor grad_logsumexp, Tensor pooled, Tensor logsumexp, "
    f"{_INPUTS}, bool[] needs) -> Tensor[]",
)


def latent_pool(
    x: Tensor,
    unit_index: Tensor,
    window_offsets: Tensor,
    unit_table: Tensor,
    token_weight: Tensor,
    token_bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    queries: Tensor,
    eps: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    """Pools the tokens of a population into a few latents by attention, without forming keys or values.

    For row ``r`` and segment ``s`` the token is ``token_weight @ x[r, sL:(s+1)L] + token_bias + unit_table[unit]`` and
    ``y`` its layer normalisation. Latent ``m`` of window ``w`` attends to all tokens of the window with scores
    ``<queries[w, s, m], y[r, s]>``; ``pooled[w, s, m]`` is what segment ``s`` adds to the weighted sum of ``y``.
    Parts of one population pooled apart combine exactly through ``logsumexp``.

    All tensors are on one device, of any strides; all but the indices are floating point, each of its own precision if
    need be, and sums are added up in that of the results. Widths are 1 or more; windows, rows and units may be none.

    Args:
        x: ``[R, C]`` activity, rows of all windows one after another.
        unit_index: ``[R]`` int32, row of ``unit_table`` for each row.
        window_offsets: ``[W + 1]`` int32; window ``w`` is rows ``window_offsets[w]:window_offsets[w + 1]``.
        unit_table: ``[V, d]`` embedding of every unit.
        token_weight: ``[d, L]``; ``L`` divides ``C`` into ``S`` segments.
        token_bias: ``[d]``.
        norm_weight: ``[d]``.
        norm_bias: ``[d]``.
        queries: ``[1 or W, S, Q, d]`` latent queries, absorbed into token space and scaled.
        eps: added to the variance in the layer normalisation.

    Returns:
        ``pooled [W, S, Q, d]`` and ``logsumexp [W, Q]`` of the scores, float32 (float64 for float64 ``x``). A window
        without rows has zeros and minus infinity. Under autocast, to whichever type, the inputs are taken in bfloat16.
        Where all but ``x`` is bfloat16 the kernels round ``x`` to it too.

    Raises:
        ShapeError: if shapes, dtypes or devices do not fit together.
        BackendError: if a forced backend cannot run on these tensors.
        NotImplementedError: for derivatives in forward mode or by a transform of ``torch.func``, and for several
            gradients at once on the way back.
    """
    inputs = (x, unit_index, window_offsets, unit_table, token_weight, token_bias, norm_weight, norm_bias, queries)
    checks.only_tensors("latent_pool", checks.POOL_NAMES, inputs)
    checks.autograd_alone("latent_pool", inputs)
    return torch.ops.poco.latent_pool(*low(inputs), eps)  # type: ignore[no-any-return]


@torch.library.impl("poco::latent_pool", "CompositeExplicitAutograd")
def _forward(*inputs: Any) -> tuple[Tensor, Tensor]:
    checks.latent_pool(*inputs)
    return choose(inputs[0].device, inputs[0].dtype).latent_pool(*inputs)  # type: ignore[no-any-return]


@torch.library.impl("poco::latent_pool_backward", "CompositeExplicitAutograd")
def _backward(*inputs: Any) -> list[Tensor]:
    x = inputs[4]
    with as_given(x.device):
        gradients = choose(x.device, x.dtype).latent_pool_backward(*inputs)
    return checks.all_tensors(gradients, x, inputs[-1])


@torch.library.register_fake("poco::latent_pool")
def _fake(x: Tensor, unit_index: Tensor, window_offsets: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    queries, windows = rest[5], window_offsets.shape[0] - 1
    dtype = accumulation_dtype(x)
    return (
        x.new_empty((windows, *queries.shape[1:]), dtype=dtype),
        x.new_empty((windows, queries.shape[2]), dtype=dtype),
    )


@torch.library.register_fake("poco::latent_pool_backward")
def _fake_backward(*inputs: Any) -> list[Tensor]:
    return checks.fake_gradients(inputs[4:], _DIFFERENTIABLE, inputs[-1])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.eps = inputs
    ctx.backend = forced()
    ctx.save_for_backward(*output, *tensors)


def _differentiate(ctx: Any, grad_pooled: Tensor, grad_logsumexp: Tensor) -> tuple[Tensor | None, ...]:
    checks.not_batched("latent_pool", grad_pooled, grad_logsumexp)
    pooled, logsumexp, *tensors = ctx.saved_tensors
    needs = [ctx.needs_input_grad[i] for i in _DIFFERENTIABLE]
    with use_backend(ctx.backend or forced()):
        gradients = torch.ops.poco.latent_pool_backward(
            grad_pooled, grad_logsumexp, pooled, logsumexp, *tensors, ctx.eps, needs
        )
    return checks.place_gradients(gradients, needs, _DIFFERENTIABLE, tensors, len(tensors) + 1)


def _setup_second(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    *tensors, ctx.eps, ctx.needs = inputs
    ctx.save_for_backward(*tensors[:2], *tensors[4:])


def _differentiate_again(ctx: Any, outer: list[Tensor]) -> tuple[Any, ...]:
    """What was pooled is computed anew, so its share of the gradient is in that of the inputs."""
    grad_pooled, grad_logsumexp, *inputs = ctx.saved_tensors
    of_grads, of_inputs = second_derivatives(
        reference.latent_pool, (*inputs, ctx.eps), _DIFFERENTIABLE, ctx.needs, (grad_pooled, grad_logsumexp), outer
    )
    placed = dict(zip(_DIFFERENTIABLE, of_inputs, strict=True))
    return (*of_grads, None, None, *(placed.get(i) for i in range(len(inputs))), None, None)


torch.library.register_autograd("poco::latent_pool", _differentiate, setup_context=_setup_context)
torch.library.register_autograd("poco::latent_pool_backward", _differentiate_again, setup_context=_setup_second)
torch.library.register_autocast("poco::latent_pool", "cpu", torch.bfloat16)
torch.library.register_autocast("poco::latent_pool", "cuda", torch.bfloat16)
one_by_one(torch.ops.poco.latent_pool)
