"""Training by the CPU kernels as one node of autograd: the whole model's forecasts, or their mean squared error.

At a few hundred units it costs more to call the ops one by one, and to have autograd take them apart again, than the
kernels take. So where no compiler looks on, all is called here in a row, and back; what is computed is that of
:func:`poco.ops.latent_pool`, :func:`poco.ops.latent_transformer` and :func:`poco.ops.film_forecast`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from poco.ops import checks, cpu
from poco.ops.backends import by_cpu_kernels
from poco.ops.latent_transformer import latents_by_kernels
from poco.ops.parameters import FilmParameters, ModelParameters
from poco.ops.precision import all_dense, autocasts, common_dtype, transforms_active

_FIXED = 4  # arguments of the node before the table: call, target, x, shift of the units


@dataclass(frozen=True)
class TrainingCall:
    """What a call of the model in training takes besides its differentiable inputs.

    Attributes:
        unit_index: ``[R]`` int32, row of the unit table for each row of ``x``.
        window_offsets: ``[W + 1]`` int32; window ``w`` is rows ``window_offsets[w]:window_offsets[w + 1]``.
        population: ``x``, ``unit_index`` and ``window_offsets`` of the rows that pass 1 sees.
        frequencies: ``[dh / 4]`` float32 angular frequencies of the pairs that turn.
        heads: heads of the latents' self-attention.
        ffn_dropout: probability of dropping an activation inside a feed-forward layer.
        dropout: probability of dropping an element of either branch of a layer over the latents.
        latent_seed: key of the random numbers between the passes, one int64.
        seed: key of those of pass 2.
        eps: added to the variance in all layer normalisations.
    """

    unit_index: Tensor
    window_offsets: Tensor
    population: tuple[Tensor, Tensor, Tensor]
    frequencies: Tensor
    heads: int
    ffn_dropout: float
    dropout: float
    latent_seed: Tensor
    seed: Tensor
    eps: float

    def tensors(self) -> tuple[Tensor, ...]:
        """All of them."""
        rows = (self.unit_index, self.window_offsets, *self.population)
        return (*rows, self.frequencies, self.latent_seed, self.seed)


def trains_at_once(x: Tensor, initial: Tensor) -> bool:
    """Whether :func:`train` is the way to go for these rows and initial latents, if a gradient is wanted.

    Args:
        x: ``[R, C]`` activity.
        initial: ``[1 or W, Q, d]`` the latents before they read.

    Raises:
        BackendError: if a forced backend does not run on their device or with their dtype.
    """
    if transforms_active() or x.requires_grad:
        return False
    # Latents too, as a float64 model may be given float32 rows.
    return by_cpu_kernels(x.device, x.dtype) and latents_by_kernels(initial)


def train(
    call: TrainingCall,
    x: Tensor,
    unit_table: Tensor,
    initial: Tensor,
    parameters: Sequence[Tensor],
    target: Tensor | None = None,
    unit_shift: Tensor | None = None,
) -> Tensor:
    """The forecasts of a model in training, or, with a target, the mean of their squared errors.

    Args:
        call: all that has no gradient.
        x: ``[R, C]`` activity, rows of all windows one after another.
        unit_table: ``[V, d]`` embedding of every unit.
        initial: ``[1 or W, Q, d]`` the latents before they read.
        parameters: as :func:`poco.ops.inference` takes them.
        target: ``[R, H]`` what should have been forecast; it has no gradient.
        unit_shift: ``[d]``, added to the embedding of every unit; None adds nothing.

    Returns:
        ``[R, H]`` forecasts in the dtype of ``x``, or a scalar in float32. Under autocast all is taken, and forecasts
        are given, in bfloat16. It can be differentiated once.

    Raises:
        ShapeError: if shapes, dtypes or devices do not fit together.
        NotImplementedError: in its backward, under ``create_graph=True`` or for several gradients at once.
    """
    rows = (x, call.unit_index, call.window_offsets)
    checks.inference(
        *rows, unit_table, initial, call.frequencies, parameters, call.heads, call.eps, "train", unit_shift
    )
    if target is not None:
        checks.expect_target("train", x, ModelParameters.of(parameters).out_bias.shape[0], target)
        target = target.detach()
    return _Training.apply(call, target, x, unit_shift, unit_table, initial, *parameters)  # type: ignore[no-any-return, no-untyped-call]


class _Training(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, call: TrainingCall, target: Tensor | None, x: Tensor, shift: Tensor | None, *given: Tensor
    ) -> Tensor:
        casts = autocasts(x)
        dtype = torch.bfloat16 if casts else common_dtype(given)
        x = x.to(torch.bfloat16) if casts else x
        shifted = given[0] if shift is None else _plus(given[0], shift)
        taken = all_dense((shifted, *given[1:]), dtype)
        needs = _Needs(ctx.needs_input_grad[_FIXED - 1 :])
        ctx.shift = None if shift is None else shift.dtype
        steps = _Steps(call, x, *taken)
        queries = cpu.latent_queries(*steps.asking())
        pooled, logsumexp = cpu.latent_pool(*steps.pool(queries))
        keys, values, kept = cpu.latent_transformer(*steps.latents(pooled))
        folded = steps.folded_shift()
        film = steps.film(keys, values, folded)
        ctx.call, ctx.needs, ctx.dtypes = call, needs, [t.dtype for t in given]
        between = (queries, pooled, logsumexp, keys, values, kept, *folded)
        gradients: list[Tensor | None] = []
        if target is None:
            output = cpu.film_forecast(*film)
        else:
            output, gradients = cpu.film_loss(target, *film, needs.of_film)
        ctx.with_loss, ctx.empty = target is not None, [g is None for g in gradients]
        made = (g for g in gradients if g is not None)
        # Those of the call are saved for torch to see that none has changed before the way back.
        ctx.save_for_backward(*between, x, *taken, *made, *call.tensors())
        return output

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        checks.not_again("a model in training (train)")
        checks.not_batched("a model in training (train)", grad)
        call, needs, inputs = ctx.call, ctx.needs, len(ctx.dtypes)
        queries, pooled, logsumexp, keys, values, kept, weight, bias, x, *rest = ctx.saved_tensors
        steps = _Steps(call, x, *rest[:inputs])
        if ctx.with_loss:
            made = iter(rest[inputs:])
            factor = float(grad)
            film = [None if empty else next(made) for empty in ctx.empty]
            if factor != 1:
                film = [None if g is None else g * factor for g in film]
        else:
            forward = steps.film(keys, values, (weight, bias))
            film = cpu.film_forecast_backward(grad, *forward, needs.of_film)
        table: Tensor | None
        _, table, grad_keys, grad_values, *film_parameters = film
        initial: Tensor | None = None
        latents: Sequence[Tensor | None] = [None] * len(steps.p.latents)
        pool: Sequence[Tensor | None] = [None] * len(steps.p.token)
        asking: Sequence[Tensor | None] = [None] * len(steps.p.asking)
        if needs.latents:
            assert grad_keys is not None
            assert grad_values is not None
            grad_pooled, of_initial, *latents = cpu.latent_transformer_backward(
                grad_keys,
                grad_values,
                kept,
                *steps.latents(pooled),
                (needs.pool, needs.initial, needs.latent_parameters),
            )
            initial = of_initial if needs.initial else None
        if needs.pool:
            zero = torch.zeros_like(logsumexp)
            _, pool_table, *pool, grad_queries = cpu.latent_pool_backward(
                grad_pooled, zero, pooled, logsumexp, *steps.pool(queries), needs.of_pool
            )
            table = pool_table if table is None or pool_table is None else _plus(table, pool_table)
        if needs.queries:
            assert grad_queries is not None
            of_queries, *asking = cpu.latent_queries_backward(grad_queries, *steps.asking())
            initial = of_queries if initial is None else initial + of_queries
        gradients = (table, initial, *pool, *asking, *latents, *_unfold(steps.p, film_parameters))
        placed = [
            g.to(dtype) if need and g is not None else None
            for g, need, dtype in zip(gradients, needs.each, ctx.dtypes, strict=True)
        ]
        shift = None
        if needs.shift and table is not None:
            shift = torch.from_numpy(table.numpy().sum(0, dtype=np.float64)).to(ctx.shift)  # it adds row after row
        return (*(None,) * (_FIXED - 1), shift, *placed)


def _plus(a: Tensor, b: Tensor) -> Tensor:
    """The sum; by numpy where it can, as torch would wake its threads, which then spin where the core wants to work."""
    if a.dtype == b.dtype == torch.float32:
        return torch.from_numpy(a.detach().numpy() + b.detach().numpy())
    return a + b


class _Needs:
    """Which gradients are wanted, and so which of the steps go back."""

    def __init__(self, needs: Sequence[bool]) -> None:
        self.shift, *self.each = needs
        table, self.initial, *parameters = self.each
        p = ModelParameters.of(parameters)
        self.table = self.shift or table
        self.queries = any(p.asking) or self.initial
        self.pool = self.table or any(p.token) or self.queries
        self.latent_parameters = any(p.latents)
        self.latents = self.latent_parameters or self.pool
        film = [any(p.second_pass)] * len(FilmParameters._fields)
        self.of_film = [False, self.table, self.latents, self.latents, *film]
        self.of_pool = [False, self.table, *[any(p.token)] * len(p.token), self.queries]


class _Steps:
    """The arguments of each step."""

    def __init__(self, call: TrainingCall, x: Tensor, unit_table: Tensor, initial: Tensor, *flat: Tensor) -> None:
        self.call, self.x, self.unit_table, self.initial = call, x, unit_table, initial
        self.p = ModelParameters.of(flat)
        self.context = x.shape[1]

    def asking(self) -> tuple[Any, ...]:
        segments = self.context // self.p.token_weight.shape[1]
        return self.initial, *self.p.asking, self.call.frequencies, segments, self.context, self.call.eps

    def pool(self, queries: Tensor) -> tuple[Any, ...]:
        return *self.call.population, self.unit_table, *self.p.token, queries, self.call.eps

    def latents(self, pooled: Tensor) -> tuple[Any, ...]:
        call = self.call
        drops = (call.ffn_dropout, call.dropout, call.latent_seed)
        numbers = (call.heads, self.context, *drops, call.eps, False)
        return pooled, self.initial, call.frequencies, self.p.latents, *numbers

    def folded_shift(self) -> tuple[Tensor, Tensor]:
        p = self.p
        return cpu.film_shift(p.out_weight, p.out_bias, p.shift_weight, p.shift_bias)

    def film(self, keys: Tensor, values: Tensor, folded: tuple[Tensor, Tensor]) -> tuple[Any, ...]:
        call = self.call
        rows = (self.x, call.unit_index, call.window_offsets, self.unit_table)
        return *rows, keys, values, self.p.film(*folded), call.ffn_dropout, call.seed, call.eps


def _unfold(p: ModelParameters, film: Sequence[Tensor | None]) -> list[Tensor | None]:
    """Gradients of the parameters of pass 2 as they are, from those with the shift folded through the output."""
    if any(g is None for g in film):
        return [None] * len(p.second_pass)
    g = FilmParameters._make(film)
    # Products by the core's own: those of torch depend on the number of threads.
    no_film, no_width = (g.shift_weight.new_zeros(size) for size in p.shift_weight.shape)
    of_shift = cpu.film_shift(p.out_weight.float().T, no_film, g.shift_weight, g.shift_bias)
    folded, _ = cpu.film_shift(p.shift_weight.float(), no_film, g.shift_weight.T, no_width)
    of_output = (g.out_weight + folded.T).addr_(g.shift_bias, p.shift_bias.float())
    return [*g[: len(p.unit)], *of_shift, g.in_weight, g.in_bias, of_output, g.shift_bias]
