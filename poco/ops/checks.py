"""Argument checks of the two ops, and the bookkeeping of their gradients."""

from __future__ import annotations

import functools
import itertools
import math
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from poco.errors import ShapeError
from poco.ops.parameters import (
    LATENT_TENSORS,
    LAYER_TENSORS,
    MODEL_TENSORS,
    FilmParameters,
    LatentParameters,
    ModelParameters,
    latent_names,
    model_names,
)
from poco.ops.precision import cast, transforms_active
from poco.ops.reference import accumulation_dtype


def _expect(op: str, name: str, tensor: Tensor, shape: tuple[int | str, ...]) -> None:
    """Raises if ``tensor`` is not of ``shape``; a letter in it stands for any size."""
    _expect_shape(op, name, tensor.shape, shape)


def _expect_shape(op: str, name: str, actual: tuple[int, ...], shape: tuple[int | str, ...]) -> None:
    if actual == shape:
        return
    fits = len(actual) == len(shape)
    if fits:
        for n, m in zip(shape, actual, strict=True):  # a loop, as a generator costs more than all the rest
            if n != m and isinstance(n, int):
                fits = False
    if not fits:
        expected = ", ".join(map(str, shape))
        raise ShapeError(f"{op}: {name} must be [{expected}], got {list(actual)}")


def _expect_packing(op: str, x: Tensor, unit_index: Tensor, window_offsets: Tensor) -> None:
    _expect(op, "x", x, ("R", "C"))
    _expect(op, "unit_index", unit_index, (x.shape[0],))
    _expect(op, "window_offsets", window_offsets, ("W + 1",))
    if window_offsets.shape[0] < 1:
        raise ShapeError(f"{op}: window_offsets must have at least one entry")
    for name, tensor in (("unit_index", unit_index), ("window_offsets", window_offsets)):
        if tensor.dtype != torch.int32:
            raise ShapeError(f"{op}: {name} must be int32, got {tensor.dtype}")


def _indices_are_checked(device: torch.device) -> bool:
    """On the CPU; on a GPU looking would wait for it, so there only where ``POCO_CHECK`` asks, but never in a graph."""
    if device.type == "cpu":
        return True
    if device.type != "cuda" or os.environ.get("POCO_CHECK", "") in ("", "0"):
        return False
    return not torch.cuda.is_current_stream_capturing()


def _expect_indices(op: str, rows: int, unit_index: Tensor, window_offsets: Tensor, units: int) -> None:
    """Raises if an index points outside its table, where indices are checked.

    Under a compiler or a transform of ``torch.func`` there are no numbers to look at; the op within looks at them.
    """
    if transforms_active() or not _indices_are_checked(window_offsets.device):
        return
    offsets = window_offsets.tolist()
    if offsets[0] != 0 or offsets[-1] != rows or any(a > b for a, b in itertools.pairwise(offsets)):
        ends = f"they go from {offsets[0]} to {offsets[-1]}"
        steps = enumerate(itertools.pairwise(offsets))
        where = next((f"window {w} goes from {a} to {b}" for w, (a, b) in steps if a > b), ends)
        raise ShapeError(f"{op}: window_offsets must rise from 0 to the {rows} rows of x, but {where}")
    if rows:
        if not units:
            raise ShapeError(f"{op}: unit_table has no unit, and x has {rows} rows")
        # By numpy: torch would wake its threads, which spin for a while where those of the core want to work.
        indices = unit_index.numpy() if unit_index.device.type == "cpu" else unit_index
        if isinstance(indices, np.ndarray) and int(indices.view(np.uint32).max()) < units:
            return  # so none is negative either
        least, most = int(indices.min()), int(indices.max())
        if least < 0 or most >= units:
            row = next(i for i, unit in enumerate(unit_index.tolist()) if not 0 <= unit < units)
            raise ShapeError(f"{op}: unit_index must be in 0..{units - 1}, got {least}..{most}, first in row {row}")


_ROWS = ("unit_index", "window_offsets")
_INTEGERS = frozenset((*_ROWS, "seed"))  # whose dtypes are looked at elsewhere
_PLAIN = frozenset((Tensor, torch.nn.Parameter))
POOL_NAMES = (
    "x",
    *_ROWS,
    "unit_table",
    "token_weight",
    "token_bias",
    "norm_weight",
    "norm_bias",
    "queries",
)
FILM_NAMES = ("x", *_ROWS, "unit_table", "keys", "values", *FilmParameters._fields)
_LATENT_NAMES = ("initial", "pooled", "frequencies", "seed")
INFERENCE_NAMES = ("x", *_ROWS, "unit_table", "initial", "frequencies")


def in_schema(names: Iterable[str]) -> str:
    """Tensors of these names as the schema of an op has them."""
    return ", ".join(f"Tensor {name}" for name in names)


def _name(names: Sequence[str], position: int) -> str:
    """What the tensor at a position is called: by its name, or, behind all that have one, by its place."""
    return names[position] if position < len(names) else f"parameters[{position - len(names)}]"


def only_tensors(op: str, names: Sequence[str], values: Sequence[Any]) -> None:
    """Raises ShapeError, by name, for what is no tensor; behind the names come parameters by number."""
    if _PLAIN.issuperset(map(type, values)):
        return
    for i, value in enumerate(values):
        if not isinstance(value, Tensor):
            raise ShapeError(f"{op}: {_name(names, i)} must be a tensor, got {type(value).__name__}")


def _expect_together(op: str, names: Sequence[str], tensors: Sequence[Tensor]) -> None:
    """Raises unless all are where the first is, and all but indices and seed floating point."""
    device = tensors[0].device  # asked for once, as every answer is an object of its own
    floating = sum(map(Tensor.is_floating_point, tensors))  # by far most calls end here: what is wrong is found below
    if floating == len(tensors) - len(_INTEGERS.intersection(names)) and {t.device for t in tensors} == {device}:
        return
    for i, tensor in enumerate(tensors):
        if tensor.device != device:
            raise ShapeError(f"{op}: all tensors must be on {device}, {_name(names, i)} is on {tensor.device}")
        if not tensor.is_floating_point() and _name(names, i) not in _INTEGERS:
            raise ShapeError(f"{op}: {_name(names, i)} must be floating point, got {tensor.dtype}")


def _expect_windows(op: str, name: str, tensor: Tensor, windows: int) -> None:
    if tensor.shape[0] not in (1, windows):
        raise ShapeError(f"{op}: {name} must be for 1 or {windows} windows, got {tensor.shape[0]}")


def _expect_latents(op: str, name: str, tensor: Tensor) -> None:
    """Raises if there are no latents in ``tensor [..., Q, d]``."""
    if tensor.shape[-2] < 1:
        raise ShapeError(f"{op}: there must be at least one latent, {name} is {list(tensor.shape)}")


def _expect_table(op: str, unit_table: Tensor) -> None:
    _expect(op, "unit_table", unit_table, ("V", "d"))
    if not unit_table.shape[1]:
        raise ShapeError(f"{op}: unit_table must have at least one feature, it is {list(unit_table.shape)}")


def _expect_segments(op: str, context: int, length: int) -> None:
    if length < 1 or context < 1 or context % length:
        raise ShapeError(f"{op}: the context {context} must be a multiple of the segment length {length}")


def _expect_dropout(op: str, dropouts: Sequence[float], seed: Tensor) -> None:
    for p in dropouts:
        if not 0 <= p < 1:
            raise ShapeError(f"{op}: dropout must be in [0, 1), got {p}")
    if seed.dtype != torch.int64 or seed.numel() != 1:
        raise ShapeError(f"{op}: seed must be one int64, got {list(seed.shape)} of {seed.dtype}")


def _expect_eps(op: str, eps: float) -> None:
    if not 0 < eps < math.inf:
        raise ShapeError(f"{op}: eps must be a number above 0, got {eps}")


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
    eps: float,
) -> None:
    """Raises ShapeError unless the arguments of pass 1 fit together."""
    op = "latent_pool"
    _expect_packing(op, x, unit_index, window_offsets)
    token = (token_weight, token_bias, norm_weight, norm_bias)
    _expect_together(op, POOL_NAMES, (x, unit_index, window_offsets, unit_table, *token, queries))
    _expect_table(op, unit_table)
    _expect_indices(op, x.shape[0], unit_index, window_offsets, unit_table.shape[0])
    width = unit_table.shape[1]
    _expect(op, "token_weight", token_weight, (width, "L"))
    context, length = x.shape[1], token_weight.shape[1]
    _expect_segments(op, context, length)
    for name, tensor in (("token_bias", token_bias), ("norm_weight", norm_weight), ("norm_bias", norm_bias)):
        _expect(op, name, tensor, (width,))
    _expect(op, "queries", queries, ("1 or W", context // length, "Q", width))
    _expect_windows(op, "queries", queries, window_offsets.shape[0] - 1)
    _expect_latents(op, "queries", queries)
    _expect_eps(op, eps)


@functools.cache
def _film_shapes(
    width: int, context: int, hidden: int, film: int, horizon: int
) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Names and shapes of the parameters of pass 2."""
    shapes = {
        "ffn_in_weight": (2 * hidden, width),
        "ffn_in_bias": (2 * hidden,),
        "ffn_out_weight": (width, hidden),
        "scale_weight": (film, width),
        "scale_bias": (film,),
        "shift_weight": (horizon, width),
        "shift_bias": (horizon,),
        "in_weight": (film, context),
        "in_bias": (film,),
        "out_weight": (horizon, film),
    }
    return tuple((name, shapes.get(name, (width,))) for name in FilmParameters._fields)


def film_forecast(
    x: Tensor,
    unit_index: Tensor,
    window_offsets: Tensor,
    unit_table: Tensor,
    keys: Tensor,
    values: Tensor,
    parameters: FilmParameters,
    dropout: float,
    seed: Tensor,
    eps: float,
    op: str = "film_forecast",
) -> None:
    """Raises ShapeError unless the arguments of pass 2 fit together."""
    p = parameters
    _expect_packing(op, x, unit_index, window_offsets)
    tensors = (x, unit_index, window_offsets, unit_table, keys, values, *parameters, seed)
    _expect_together(op, (*FILM_NAMES, "seed"), tensors)
    _expect_table(op, unit_table)
    _expect_indices(op, x.shape[0], unit_index, window_offsets, unit_table.shape[0])
    width, context, windows = unit_table.shape[1], x.shape[1], window_offsets.shape[0] - 1
    _expect(op, "keys", keys, (windows, "Q", width))
    _expect(op, "values", values, (windows, keys.shape[1], width))
    _expect_latents(op, "keys", keys)
    _expect(op, "ffn_out_weight", p.ffn_out_weight, (width, "F"))
    _expect(op, "scale_weight", p.scale_weight, ("K", width))
    _expect(op, "shift_weight", p.shift_weight, ("H", width))
    hidden, film, horizon = p.ffn_out_weight.shape[1], p.scale_weight.shape[0], p.shift_weight.shape[0]
    shapes = _film_shapes(width, context, hidden, film, horizon)
    for (name, shape), tensor in zip(shapes, p, strict=True):
        if tensor.shape != shape:
            _expect(op, name, tensor, shape)
    _expect_dropout(op, (dropout,), seed)
    _expect_eps(op, eps)


def film_loss(*inputs: Any) -> None:
    """Raises ShapeError unless the arguments of pass 2, and the target behind them, fit together."""
    *forward, target = inputs
    op, x, parameters = "film_loss", forward[0], forward[6]
    film_forecast(*(*forward, op))
    expect_target(op, x, parameters.shift_weight.shape[0], target)


def expect_target(op: str, x: Tensor, horizon: int, target: Tensor) -> None:
    """Raises ShapeError unless there is a target for every row."""
    _expect(op, "target", target, (x.shape[0], horizon))
    if not target.is_floating_point():
        raise ShapeError(f"{op}: target must be floating point, got {target.dtype}")
    if target.device != x.device:
        raise ShapeError(f"{op}: all tensors must be on {x.device}, target is on {target.device}")


def _expect_layers(op: str, parameters: Sequence[Tensor], others: int) -> int:
    """How many layers over the latents there are in a flat list of parameters with so many ``others``."""
    layers, over = divmod(len(parameters) - others, LAYER_TENSORS)
    if layers < 0 or over:
        raise ShapeError(
            f"{op}: parameters must be {others} tensors and {LAYER_TENSORS} for each layer, got {len(parameters)}"
        )
    return layers


def _expect_each(
    op: str,
    actual: Iterable[tuple[int, ...]],
    shapes: Iterable[tuple[int, ...]],
    names: Callable[[], Sequence[str]],
) -> None:
    """Raises unless all parameters, whose shapes these are, have those that they should have."""
    for i, (found, shape) in enumerate(zip(actual, shapes, strict=True)):
        if found != shape:
            _expect_shape(op, f"parameters[{i}] ({names()[i]})", found, shape)


def _expect_heads(op: str, heads: int) -> None:
    if heads < 1:
        raise ShapeError(f"{op}: heads must be at least 1, got {heads}")


def _latent_shapes(layers: int, width: int, head_width: int, heads: int, hidden: int) -> tuple[tuple[int, ...], ...]:
    """Shapes of the flat parameters of the latent transformer, see poco.ops.parameters.LatentParameters."""
    d, dh, inner = width, head_width, heads * head_width
    norm = ((d,), (d,))
    ffn = (*norm, (2 * hidden, d), (2 * hidden,), (d, hidden), (d,))
    layer = (*norm, (3 * inner, d), (d, inner), (d,), *ffn)
    return ((dh, d), (d, dh), (d,), *ffn, *layer * layers, *norm, (dh, d), (dh, d), (dh, d), (d, dh))


def latent_transformer(
    pooled: Tensor,
    initial: Tensor,
    parameters: Sequence[Tensor],
    frequencies: Tensor,
    heads: int,
    context: int,
    dropouts: Sequence[float],
    seed: Tensor,
    eps: float,
) -> None:
    """Raises ShapeError unless the arguments of the latent transformer fit together."""
    op = "latent_transformer"
    layers = _expect_layers(op, parameters, LATENT_TENSORS)
    _expect_together(op, _LATENT_NAMES, (initial, pooled, frequencies, seed, *parameters))
    _expect(op, "initial", initial, ("1 or W", "Q", "d"))
    latents, width = initial.shape[1:]
    _expect(op, "pooled", pooled, ("W", "S", latents, width))
    _expect_windows(op, "initial", initial, pooled.shape[0])
    _expect_latents(op, "initial", initial)
    _expect(op, "frequencies", frequencies, ("dh / 4",))
    if pooled.shape[1] < 1 or context < 1 or context % pooled.shape[1]:
        raise ShapeError(f"{op}: the context {context} must be a multiple of the {pooled.shape[1]} segments")
    into_hidden = LatentParameters.of(parameters).read_ffn.in_weight
    _expect(op, "read_ffn in_weight", into_hidden, ("2F", width))
    _expect_heads(op, heads)
    shapes = _latent_shapes(layers, width, 4 * frequencies.shape[0], heads, into_hidden.shape[0] // 2)
    _expect_each(op, [p.shape for p in parameters], shapes, lambda: latent_names(layers))
    _expect_dropout(op, dropouts, seed)
    _expect_eps(op, eps)


def _model_shapes(
    layers: int,
    width: int,
    head_width: int,
    heads: int,
    hidden: int,
    length: int,
    context: int,
    film: int,
    horizon: int,
) -> tuple[tuple[int, ...], ...]:
    """Shapes of the flat parameters of a model, see poco.ops.parameters.ModelParameters."""
    d, dh = width, head_width
    norm = ((d,), (d,))
    ffn = (*norm, (2 * hidden, d), (2 * hidden,), (d, hidden), (d,))
    before = ((d, length), (d,), *norm, *norm, (dh, d), (dh, d))
    after = ((d,), *norm, *ffn)
    modulation = ((film, d), (film,), (film, d), (film,), (film, context), (film,), (horizon, film), (horizon,))
    return (*before, *_latent_shapes(layers, width, head_width, heads, hidden), *after, *modulation)


@functools.lru_cache(maxsize=256)
def _expect_model(
    op: str, layers: int, width: int, head_width: int, heads: int, context: int, shapes: tuple[tuple[int, ...], ...]
) -> None:
    """Raises unless parameters of a model of these ``shapes`` fit together; what has fitted once is not looked at."""
    p: Any = ModelParameters.of(shapes)
    out_of_hidden: Any = LatentParameters.of(p.latents).read_ffn.out_weight
    for name, shape in (
        ("token_weight", p.token_weight),
        ("read_ffn_out_weight", out_of_hidden),
        ("in_weight", p.in_weight),
        ("out_weight", p.out_weight),
    ):
        _expect_shape(op, name, shape, ("rows", "columns"))
    length, film, horizon = p.token_weight[1], p.in_weight[0], p.out_weight[0]
    _expect_segments(op, context, length)
    expected = _model_shapes(layers, width, head_width, heads, out_of_hidden[1], length, context, film, horizon)
    _expect_each(op, shapes, expected, lambda: model_names(layers))


def inference(
    x: Tensor,
    unit_index: Tensor,
    window_offsets: Tensor,
    unit_table: Tensor,
    initial: Tensor,
    frequencies: Tensor,
    parameters: Sequence[Tensor],
    heads: int,
    eps: float,
    op: str = "inference",
    unit_shift: Tensor | None = None,
) -> None:
    """Raises ShapeError unless the arguments of inference fit together."""
    layers = _expect_layers(op, parameters, MODEL_TENSORS)
    _expect_packing(op, x, unit_index, window_offsets)
    rows = (x, unit_index, window_offsets, unit_table)
    _expect_together(op, INFERENCE_NAMES, (*rows, initial, frequencies, *parameters))
    _expect_table(op, unit_table)
    if unit_shift is not None:
        _expect_together(op, ("x", "unit_shift"), (x, unit_shift))
        _expect(op, "unit_shift", unit_shift, (unit_table.shape[1],))
    _expect_indices(op, x.shape[0], unit_index, window_offsets, unit_table.shape[0])
    width, windows, context = unit_table.shape[1], window_offsets.shape[0] - 1, x.shape[1]
    _expect(op, "initial", initial, ("1 or W", "Q", width))
    _expect_windows(op, "initial", initial, windows)
    _expect_latents(op, "initial", initial)
    _expect(op, "frequencies", frequencies, ("dh / 4",))
    _expect_heads(op, heads)
    _expect_eps(op, eps)
    _expect_model(op, layers, width, 4 * frequencies.shape[0], heads, context, tuple([p.shape for p in parameters]))


def film_parameters(op: str, parameters: Sequence[Tensor]) -> FilmParameters:
    """The parameters of pass 2, also of a plain list or tuple of them.

    Raises:
        ShapeError: unless there are as many as there should be.
    """
    if isinstance(parameters, FilmParameters):
        return parameters
    count = len(FilmParameters._fields)
    if len(parameters) != count:
        raise ShapeError(f"{op}: parameters must be the {count} tensors of FilmParameters, got {len(parameters)}")
    return FilmParameters(*parameters)


def given_seed(op: str, seed: Tensor | None, dropout: float, like: Tensor) -> Tensor:
    """The seed; 0, which nobody reads, if there is none and nothing is dropped, where ``like`` is."""
    if seed is not None:
        if not isinstance(seed, Tensor):
            raise ShapeError(f"{op}: seed must be a tensor of one int64, got {type(seed).__name__}")
        return seed
    if dropout > 0:
        raise ShapeError(f"{op}: dropout {dropout} needs a seed")
    return like.new_zeros((), dtype=torch.int64)


# --- derivatives ------------------------------------------------------------------------------------------------------


def _no_tangents(op: str, tensors: Iterable[Tensor]) -> None:
    """Raises NotImplementedError if a tensor carries a tangent, which the op would lose and give a derivative of 0."""
    if torch.compiler.is_compiling() or getattr(forward_ad, "_current_level", 0) < 0:
        return
    # Of transforms inside each other torch shows the tangents of the innermost alone.
    nested = len(torch._C._functorch.get_interpreter_stack() or ()) > 1
    for tensor in tensors:
        wrapped = nested and torch._C._functorch.is_functorch_wrapped_tensor(tensor)
        if wrapped or forward_ad.unpack_dual(tensor).tangent is not None:
            raise NotImplementedError(
                f"{op} has no derivatives in forward mode (jvp, jacfwd, dual numbers): take those of torch.autograd, "
                "or differentiate poco.ops.reference, which is plain torch"
            )


def autograd_alone(op: str, tensors: Iterable[Tensor]) -> None:
    """Raises NotImplementedError for derivatives that only plain torch has: forward mode, gradients by torch.func."""
    tensors = tuple(tensors)
    _no_tangents(op, tensors)
    _no_transforms(op, tensors)


def _no_transforms(op: str, tensors: Iterable[Tensor]) -> None:
    """Raises NotImplementedError if a transform of ``torch.func`` would take gradients of the op.

    Torch does not let such a transform through an op that has a backward, and does not say which op that was.
    """
    if torch.compiler.is_compiling() or not torch._C._are_functorch_transforms_active() or not torch.is_grad_enabled():
        return
    functorch = torch._C._functorch
    stack = functorch.get_interpreter_stack() or ()
    taking = {i.level() for i in stack if i.key() == functorch.TransformType.Grad}
    for tensor in tensors:
        while functorch.is_functorch_wrapped_tensor(tensor):
            if tensor.requires_grad and functorch.maybe_get_level(tensor) in taking:
                raise NotImplementedError(
                    f"{op} has no gradients by torch.func (grad, vjp, jacrev): take those of torch.autograd, or "
                    "differentiate poco.ops.reference, which is plain torch"
                )
            tensor = functorch.get_unwrapped(tensor)


def not_batched(op: str, *grads: Tensor) -> None:
    """In a backward, raises NotImplementedError if it is to be that of several gradients at once."""
    functorch = torch._C._functorch
    for grad in grads:
        if functorch.is_legacy_batchedtensor(grad) or functorch.is_batchedtensor(grad):
            raise NotImplementedError(
                f"{op} takes one gradient at a time on the way back (is_grads_batched, vectorize, vmap): go back once "
                "for each, or differentiate poco.ops.reference, which is plain torch"
            )


def not_again(op: str) -> None:
    """In a backward whose gradients have no derivatives, raises NotImplementedError if such are wanted.

    They would be, as those of a constant, 0. Autograd records what a backward does only under ``create_graph=True``.
    """
    if torch.is_grad_enabled():
        raise NotImplementedError(
            f"{op} by the CPU kernels can be differentiated once, and create_graph=True wants a derivative of its "
            "gradients: compute it under poco.ops.use_backend('reference')"
        )


# A backward op returns one tensor for every differentiable input, empty where none is wanted.


def all_tensors(gradients: Sequence[Tensor | None], x: Tensor, needs: Sequence[bool]) -> list[Tensor]:
    """The gradients with an empty tensor in place of those that are not wanted, as the op's schema says."""
    wide = accumulation_dtype(x)
    return [
        g if g is not None and needed else x.new_empty(0, dtype=wide)
        for g, needed in zip(gradients, needs, strict=True)
    ]


def fake_gradients(inputs: Sequence[Tensor], differentiable: Sequence[int], needs: Sequence[bool]) -> list[Tensor]:
    """Shapes and dtypes of the gradients that a backward op returns."""
    wide = accumulation_dtype(inputs[0])
    return [
        torch.empty_like(inputs[i], dtype=wide, memory_format=torch.contiguous_format)
        if needed
        else inputs[0].new_empty(0, dtype=wide)
        for i, needed in zip(differentiable, needs, strict=True)
    ]


def place_gradients(
    gradients: Sequence[Tensor],
    needs: Sequence[bool],
    differentiable: Sequence[int],
    inputs: Sequence[Tensor],
    arguments: int,
) -> tuple[Tensor | None, ...]:
    """The gradients at their arguments' positions, in their inputs' dtypes, None elsewhere."""
    wanted = {i: g for i, g, needed in zip(differentiable, gradients, needs, strict=True) if needed}
    placed = dict(zip(wanted, cast([*wanted.values()], [inputs[i].dtype for i in wanted]), strict=True))
    return tuple(placed.get(i) for i in range(arguments))
