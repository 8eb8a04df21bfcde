"""What happens between the two passes, in training, as a torch custom op: ``torch.ops.poco.latent_transformer``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from poco.errors import BackendError
from poco.ops import checks
from poco.ops.backends import between, between_of, forced, use_backend
from poco.ops.model_reference import latent_transformer as reference
from poco.ops.precision import as_given, autocasts, common_dtype
from poco.ops.second_derivatives import second_derivatives
from poco.ops.vmap import one_by_one

_INPUTS = (
    "Tensor pooled, Tensor initial, Tensor frequencies, Tensor[] parameters, int heads, int context, "
    "float ffn_dropout, float dropout, Tensor seed, float eps, bool low"
)
torch.library.define("poco::latent_transformer", f"({_INPUTS}) -> (Tensor keys, Tensor values, Tensor kept)")
torch.library.define(
    "poco::latent_transformer_backward",
    f"(Tensor grad_keys, Tensor grad_values, Tensor kept, {_INPUTS}, bool[] needs) -> Tensor[]",
)


def latent_transformer(
    pooled: Tensor,
    initial: Tensor,
    parameters: Sequence[Tensor],
    frequencies: Tensor,
    heads: int,
    context: int,
    ffn_dropout: float = 0.0,
    dropout: float = 0.0,
    seed: Tensor | None = None,
    eps: float = 1e-5,
    attention_dropout: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Keys and values of pass 2 from what pass 1 pooled: the latents read, attend to each other, and write.

    They read what was pooled, go through a gated feed-forward layer and through layers of rotary self-attention and
    feed-forward, each residual; :mod:`poco.ops.model_reference` writes it out. Where the CPU kernels run all of
    it, forward or backward, is one call; by those of a GPU it is a few launches.

    Args:
        pooled: ``[W, S, Q, d]`` what pass 1 pooled.
        initial: ``[1 or W, Q, d]`` the latents before they read.
        parameters: all tensors of :class:`poco.ops.parameters.LatentParameters` in order, layer after layer.
        frequencies: ``[dh / 4]`` float32 angular frequencies of the pairs that turn.
        heads: heads of the self-attention.
        context: ``C``, the frames that the segments and the latents are spread over.
        ffn_dropout: probability in ``[0, 1)`` of dropping an activation inside a feed-forward layer.
        dropout: probability in ``[0, 1)`` of dropping an element of either branch of a layer.
        seed: one int64; key of the Philox 4x32-10 generator whose counter is (window and latent, column); needed if
            anything is dropped.
        eps: added to the variance in all layer normalisations.
        attention_dropout: probability in ``[0, 1)`` of dropping a weight of the self-attention, drawn by torch; no
            kernel does this, the reference does.

    Returns:
        ``keys`` and ``values``, each ``[W, Q, d]`` in the dtype of ``initial``. Under autocast, to whichever type,
        ``initial`` is taken, and the results are given, in bfloat16; the kernels take the parameters so too.

    Raises:
        ShapeError: if shapes, dtypes or devices do not fit together, or a seed is missing.
        BackendError: if a forced backend cannot run on these tensors.
        NotImplementedError: where the kernels run, for derivatives in forward mode or by a transform of ``torch.func``,
            and for several gradients at once on the way back.
    """
    checks.only_tensors("latent_transformer", ("initial", "pooled", "frequencies"), (initial, pooled, frequencies))
    checks.only_tensors("latent_transformer", (), parameters)
    seed = checks.given_seed("latent_transformer", seed, max(ffn_dropout, dropout), pooled)
    drops = (ffn_dropout, dropout, attention_dropout)
    checks.latent_transformer(pooled, initial, parameters, frequencies, heads, context, drops, seed, eps)
    low = autocasts(initial)
    numbers = (heads, context, ffn_dropout, dropout, seed, eps)
    if latents_by_kernels(initial, parameters) and not attention_dropout:
        checks.autograd_alone("latent_transformer", (pooled, initial, *parameters))
        with as_given(initial.device):
            keys, values, _ = torch.ops.poco.latent_transformer(
                pooled, initial, frequencies, list(parameters), *numbers, low
            )
        return keys, values
    if low:
        initial = initial.bfloat16()  # the parameters stay: products are of float32, and casts of them take longer
    rest = (heads, context, eps, ffn_dropout, dropout, seed, attention_dropout)
    with as_given(initial.device):
        return reference(pooled, initial, parameters, frequencies, *rest)


def latents_by_kernels(initial: Tensor, parameters: Sequence[Tensor] = ()) -> bool:
    """Whether kernels would do all of it for these initial latents and parameters."""
    return _by(initial, parameters, autocasts(initial)) != ""


def _by(initial: Tensor, parameters: Sequence[Tensor], low: bool) -> str:
    """The backend whose kernels would do it, "" for the reference."""
    products = torch.bfloat16 if low else common_dtype([initial, *parameters])
    name, sizes = between(initial.device, initial.dtype, products)
    latents, width = initial.shape[1:]
    return name if any(width <= wide and latents <= most for wide, most in sizes) else ""


@torch.library.impl("poco::latent_transformer", "CompositeExplicitAutograd")
def _forward(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    name = _by(inputs[1], inputs[3], inputs[-1])
    if not name:
        raise BackendError(
            f"this code was compiled for kernels, and backend '{forced()}' is forced now: compile it under use_backend "
            "too (torch.compiler.reset() forgets what was compiled)"
        )
    return between_of(name).forward(*inputs)  # type: ignore[no-any-return]


@torch.library.impl("poco::latent_transformer_backward", "CompositeExplicitAutograd")
def _backward(*inputs: Any) -> list[Tensor]:
    forward = inputs[3:-1]
    return between_of(_by(forward[1], forward[3], forward[-1])).backward(*inputs)  # type: ignore[no-any-return]


@torch.library.register_fake("poco::latent_transformer")
def _fake(pooled: Tensor, initial: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    windows, segments = pooled.shape[:2]
    dtype = torch.bfloat16 if rest[-1] else initial.dtype
    keys = initial.new_empty((windows, *initial.shape[1:]), dtype=dtype)
    frequencies, parameters, heads = rest[:3]
    kernels = between_of(_by(initial, parameters, rest[-1]))
    size = kernels.kept_bytes(windows, segments, initial, frequencies, parameters, heads, rest[-1])
    return keys, torch.empty_like(keys), keys.new_empty(size, dtype=torch.uint8)


@torch.library.register_fake("poco::latent_transformer_backward")
def _fake_backward(*inputs: Any) -> list[Tensor]:
    pooled, initial, _, parameters = inputs[3:7]
    return [
        torch.empty_like(t, dtype=torch.float32, memory_format=torch.contiguous_format)
        if needed
        else t.new_empty(0, dtype=torch.float32)
        for t, needed in zip((pooled, initial, *parameters), _each(inputs[-1], len(parameters)), strict=True)
    ]


def _each(needs: Sequence[bool], parameters: int) -> list[bool]:
    """Whether each of pooled, initial and the parameters is wanted; the parameters all or none."""
    return [*needs[:2], *[needs[2]] * parameters]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    pooled, initial, frequencies, parameters, heads, context, ffn_dropout, dropout, seed, ctx.eps, ctx.low = inputs
    ctx.numbers = (heads, context, ffn_dropout, dropout)
    ctx.backend = _by(initial, parameters, ctx.low)
    ctx.save_for_backward(output[2], pooled, initial, frequencies, seed, *parameters)


def _differentiate(ctx: Any, grad_keys: Tensor, grad_values: Tensor, _: Tensor) -> tuple[Any, ...]:
    checks.not_batched("latent_transformer", grad_keys, grad_values)
    kept, pooled, initial, frequencies, seed, *parameters = ctx.saved_tensors
    needs = [*ctx.needs_input_grad[:2], any(ctx.needs_input_grad[3])]
    with use_backend(ctx.backend):  # as what it kept is read
        gradients = torch.ops.poco.latent_transformer_backward(
            grad_keys,
            grad_values,
            kept,
            pooled,
            initial,
            frequencies,
            parameters,
            *ctx.numbers,
            seed,
            ctx.eps,
            ctx.low,
            needs,
        )
    placed = [
        gradient.to(t.dtype) if needed else None
        for t, gradient, needed in zip(
            (pooled, initial, *parameters), gradients, _each(needs, len(parameters)), strict=True
        )
    ]
    return placed[0], placed[1], None, placed[2:], None, None, None, None, None, None, None


def _setup_second(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    grad_keys, grad_values, _, pooled, initial, frequencies, parameters, *numbers, ctx.low, ctx.needs = inputs
    heads, context, ffn_dropout, dropout, seed, eps = numbers
    ctx.numbers = {"heads": heads, "context": context, "eps": eps, "ffn_dropout": ffn_dropout, "dropout": dropout}
    ctx.save_for_backward(grad_keys, grad_values, pooled, initial, frequencies, seed, *parameters)


def _differentiate_again(ctx: Any, outer: list[Tensor]) -> tuple[Any, ...]:
    grad_keys, grad_values, pooled, initial, frequencies, seed, *parameters = ctx.saved_tensors

    def forward(pooled: Tensor, initial: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        if ctx.low:
            initial, parameters = initial.bfloat16(), tuple(p.bfloat16() for p in parameters)
        return reference(pooled, initial, parameters, frequencies, **ctx.numbers, seed=seed)

    inputs = (pooled, initial, *parameters)
    of_grads, of_inputs = second_derivatives(
        forward, inputs, range(len(inputs)), _each(ctx.needs, len(parameters)), (grad_keys, grad_values), outer
    )
    return (*of_grads, None, *of_inputs[:2], None, of_inputs[2:], *[None] * 8)


torch.library.register_autograd("poco::latent_transformer", _differentiate, setup_context=_setup_context)
torch.library.register_autograd("poco::latent_transformer_backward", _differentiate_again, setup_context=_setup_second)
one_by_one(torch.ops.poco.latent_transformer)
