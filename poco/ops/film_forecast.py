"""Pass 2 as a torch custom op: ``torch.ops.poco.film_forecast``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from poco.ops import checks, reference
from poco.ops.backends import choose, forced, use_backend
from poco.ops.parameters import FilmParameters
from poco.ops.precision import as_given, low
from poco.ops.second_derivatives import second_derivatives
from poco.ops.vmap import one_by_one

_INPUTS = checks.in_schema(checks.FILM_NAMES) + ", float dropout, Tensor seed, float eps"
TENSORS = len(checks.FILM_NAMES)  # the inputs before dropout, seed and eps
DIFFERENTIABLE = (0, *range(3, TENSORS))  # positions of the inputs that get a gradient

torch.library.define("poco::film_forecast", f"({_INPUTS}) -> Tensor")
torch.library.define("poco::film_forecast_backward", f"(Tensor grad, {_INPUTS}, bool[] needs) -> Tensor[]")


def film_forecast(
    x: Tensor,
    unit_index: Tensor,
    window_offsets: Tensor,
    unit_table: Tensor,
    keys: Tensor,
    values: Tensor,
    parameters: FilmParameters,
    dropout: float = 0.0,
    seed: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Forecasts every row from its own activity, modulated (FiLM) by what its unit reads from the latents.

    With ``u = unit_table[unit]``::

        e = u + softmax_m(<LayerNorm(u), keys[w, m]>) @ values[w] + attention_bias
        e = e + FFN(e)            LayerNorm, Linear(d, 2F), value * gelu(gate), dropout, Linear(F, d)
        y = out_weight @ (relu(in_weight @ x + in_bias) * (scale_weight @ e + scale_bias))
            + shift_weight @ e + shift_bias

    All tensors are on one device, of any strides; all but the indices and the seed are floating point, each of its own
    precision if need be, and sums are added up in float32 (float64 for float64 ``x``). Windows, rows and units may be
    none.

    Args:
        x: ``[R, C]`` activity, rows of all windows one after another.
        unit_index: ``[R]`` int32, row of ``unit_table`` for each row.
        window_offsets: ``[W + 1]`` int32; window ``w`` is rows ``window_offsets[w]:window_offsets[w + 1]``.
        unit_table: ``[V, d]`` embedding of every unit.
        keys: ``[W, Q, d]`` keys of the latents, absorbed into unit space and scaled.
        values: ``[W, Q, d]`` values of the latents, absorbed likewise.
        parameters: the parameters of the pass, see :class:`poco.ops.parameters.FilmParameters`; ``K`` may be 0.
        dropout: probability in ``[0, 1)`` of dropping a feed-forward activation.
        seed: one int64; key of the Philox 4x32-10 generator whose counter is (row, column). Needed if ``dropout > 0``.
        eps: added to the variance in both layer normalisations.

    Returns:
        ``[R, H]`` forecasts in the dtype of ``x``, which the kernels round to bfloat16 where all else is that. Under
        autocast, to whichever type, the inputs are taken in bfloat16.

    Raises:
        ShapeError: if shapes, dtypes or devices do not fit together, or a seed is missing.
        BackendError: if a forced backend cannot run on these tensors.
        NotImplementedError: for derivatives in forward mode or by a transform of ``torch.func``, and for several
            gradients at once on the way back.
    """
    parameters = checks.film_parameters("film_forecast", parameters)
    tensors = (x, unit_index, window_offsets, unit_table, keys, values, *parameters)
    checks.only_tensors("film_forecast", checks.FILM_NAMES, tensors)
    seed = checks.given_seed("film_forecast", seed, dropout, x)
    checks.autograd_alone("film_forecast", tensors)
    return torch.ops.poco.film_forecast(*low(tensors), dropout, seed, eps)  # type: ignore[no-any-return]


def _bundle(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """The flat arguments of the op with the parameters as one ``FilmParameters``."""
    return (*inputs[:6], FilmParameters(*inputs[6:TENSORS]), *inputs[TENSORS:])


@torch.library.impl("poco::film_forecast", "CompositeExplicitAutograd")
def _forward(*inputs: Any) -> Tensor:
    bundled = _bundle(inputs)
    checks.film_forecast(*bundled)
    return choose(inputs[0].device, inputs[0].dtype).film_forecast(*bundled)  # type: ignore[no-any-return]


@torch.library.impl("poco::film_forecast_backward", "CompositeExplicitAutograd")
def _backward(grad: Tensor, *inputs: Any) -> list[Tensor]:
    x = inputs[0]
    with as_given(x.device):
        gradients = choose(x.device, x.dtype).film_forecast_backward(grad, *_bundle(inputs))
    return checks.all_tensors(gradients, x, inputs[-1])


@torch.library.register_fake("poco::film_forecast")
def _fake(x: Tensor, *rest: Any) -> Tensor:
    return x.new_empty((x.shape[0], _bundle((x, *rest))[6].shift_weight.shape[0]))


@torch.library.register_fake("poco::film_forecast_backward")
def _fake_backward(grad: Tensor, *inputs: Any) -> list[Tensor]:
    return checks.fake_gradients(inputs, DIFFERENTIABLE, inputs[-1])


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.dropout, seed, ctx.eps = inputs[TENSORS:]
    ctx.backend = forced()
    ctx.save_for_backward(*inputs[:TENSORS], seed)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    checks.not_batched("film_forecast", grad)
    *tensors, seed = ctx.saved_tensors
    needs = [ctx.needs_input_grad[i] for i in DIFFERENTIABLE]
    with use_backend(ctx.backend or forced()):
        gradients = torch.ops.poco.film_forecast_backward(grad, *tensors, ctx.dropout, seed, ctx.eps, needs)
    return checks.place_gradients(gradients, needs, DIFFERENTIABLE, tensors, TENSORS + 3)


def _setup_second(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    grad, *tensors = inputs[: TENSORS + 1]
    ctx.dropout, seed, ctx.eps, ctx.needs = inputs[TENSORS + 1 :]
    ctx.save_for_backward(grad, *tensors, seed)


def _differentiate_again(ctx: Any, outer: list[Tensor]) -> tuple[Any, ...]:
    grad, *tensors, seed = ctx.saved_tensors
    (of_grad,), of_inputs = second_derivatives(
        lambda *inputs: reference.film_forecast(*_bundle(inputs)),
        (*tensors, ctx.dropout, seed, ctx.eps),
        DIFFERENTIABLE,
        ctx.needs,
        (grad,),
        outer,
    )
    placed = dict(zip(DIFFERENTIABLE, of_inputs, strict=True))
    return (of_grad, *(placed.get(i) for i in range(TENSORS)), None, None, None, None)


torch.library.register_autograd("poco::film_forecast", _differentiate, setup_context=_setup_context)
torch.library.register_autograd("poco::film_forecast_backward", _differentiate_again, setup_context=_setup_second)
torch.library.register_autocast("poco::film_forecast", "cpu", torch.bfloat16)
torch.library.register_autocast("poco::film_forecast", "cuda", torch.bfloat16)
one_by_one(torch.ops.poco.film_forecast)
