"""Both passes, forward and backward, and inference by the whole model, by the fused kernels of the compiled core.

Same functions as :mod:`poco.ops.reference` and :mod:`poco.ops.model_reference`. The kernels take float32 or
bfloat16 and add up in float32, on as many threads as torch has. They take bfloat16 where all but the activity is that,
which is then rounded to it too; else all is widened to float32 first. Results do not depend on the number of threads.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from poco import core
from poco.ops.parameters import FilmParameters, LatentParameters, ModelParameters
from poco.ops.precision import all_dense, common_dtype, dense

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_empty = functools.partial(torch.empty, device=torch.device("cpu"))  # whatever torch.set_default_device says
_POOL_INPUTS = ("x", "unit_table", "token_weight", "token_bias", "norm_weight", "norm_bias", "queries")
_QUERY_INPUTS = ("initial", "norm_weight", "norm_bias", "query_weight", "key_weight")
_FILM_INPUTS = ("x", "unit_table", "keys", "values", *FilmParameters._fields)


def _kind(dtype: torch.dtype) -> str:
    """What the core calls kernels that take this dtype by."""
    return "bfloat16" if dtype is torch.bfloat16 else "float32"


def _key(seed: Tensor, dropout: float) -> int:
    """The seed as the core takes it, without a sign; not looked at where nothing is dropped."""
    return int(seed) & 0xFFFFFFFFFFFFFFFF if dropout > 0 else 0


def _call(op: str, dtype: torch.dtype, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
    addresses = {name: tensor.data_ptr() for name, tensor in tensors.items()}
    core.run_kernel(f"{op}_{_kind(dtype)}", {**addresses, **numbers, "threads": torch.get_num_threads()})


def _gradients(inputs: Mapping[str, Tensor], names: Sequence[str], needs: Sequence[bool]) -> dict[str, Tensor]:
    """Uninitialised gradients, float32, of those inputs that need one."""
    return {
        f"grad_{name}": torch.empty_like(inputs[name], dtype=torch.float32)
        for name, needed in zip(names, needs, strict=True)
        if needed
    }


# --- pass 1 -----------------------------------------------------------------------------------------------------------


def _pool_arguments(*inputs: Any) -> tuple[dict[str, Tensor], dict[str, int | float]]:
    x, unit_index, window_offsets, unit_table, token_weight, token_bias, norm_weight, norm_bias, queries, eps = inputs
    values = (x, unit_table, token_weight, token_bias, norm_weight, norm_bias, queries)
    dtype = common_dtype(values[1:])
    tensors = {name: dense(t, dtype) for name, t in zip(_POOL_INPUTS, values, strict=True)}
    tensors |= {"unit_index": unit_index.contiguous(), "window_offsets": window_offsets.contiguous()}
    query_windows, segments, latents, width = queries.shape
    return tensors, {
        "rows": x.shape[0],
        "windows": window_offsets.shape[0] - 1,
        "units": unit_table.shape[0],
        "segments": segments,
        "segment_length": token_weight.shape[1],
        "width": width,
        "latents": latents,
        "query_windows": query_windows,
        "eps": eps,
    }


def latent_pool(*inputs: Any) -> tuple[Tensor, Tensor]:
    """Pass 1 forward; see :func:`poco.ops.latent_pool`."""
    tensors, sizes = _pool_arguments(*inputs)
    windows, (_, segments, latents, width) = int(sizes["windows"]), inputs[8].shape
    pooled = _empty(windows, segments, latents, width, dtype=torch.float32)
    logsumexp = pooled.new_empty(windows, latents)
    _call("latent_pool", tensors["x"].dtype, {**tensors, "pooled": pooled, "logsumexp": logsumexp}, sizes)
    return pooled, logsumexp


def latent_pool_backward(
    grad_pooled: Tensor, grad_logsumexp: Tensor, pooled: Tensor, logsumexp: Tensor, *inputs: Any
) -> list[Tensor | None]:
    """Pass 1 backward; see :func:`poco.ops.reference.latent_pool_backward`."""
    *forward, needs = inputs
    tensors, sizes = _pool_arguments(*forward)
    gradients = _gradients(tensors, _POOL_INPUTS, needs)
    outputs = (grad_pooled, grad_logsumexp, pooled, logsumexp)
    names = ("grad_pooled", "grad_logsumexp", "pooled", "logsumexp")
    tensors |= {name: dense(t) for name, t in zip(names, outputs, strict=True)}
    _call("latent_pool_backward", tensors["x"].dtype, {**tensors, **gradients}, sizes)
    return [gradients.get(f"grad_{name}") for name in _POOL_INPUTS]


# --- pass 2 -----------------------------------------------------------------------------------------------------------


def _film_arguments(*inputs: Any) -> tuple[dict[str, Tensor], dict[str, int | float]]:
    x, unit_index, window_offsets, unit_table, keys, values, parameters, dropout, seed, eps = inputs
    floating = (x, unit_table, keys, values, *parameters)
    dtype = common_dtype(floating[1:])
    tensors = {name: dense(t, dtype) for name, t in zip(_FILM_INPUTS, floating, strict=True)}
    tensors |= {"unit_index": unit_index.contiguous(), "window_offsets": window_offsets.contiguous()}
    windows, latents, width = keys.shape
    return tensors, {
        "rows": x.shape[0],
        "windows": windows,
        "units": unit_table.shape[0],
        "context": x.shape[1],
        "horizon": parameters.shift_weight.shape[0],
        "width": width,
        "latents": latents,
        "ffn_width": parameters.ffn_out_weight.shape[1],
        "film_width": parameters.scale_weight.shape[0],
        "eps": eps,
        "dropout": dropout,
        "seed": _key(seed, dropout),
    }


def film_forecast(*inputs: Any) -> Tensor:
    """Pass 2 forward; see :func:`poco.ops.film_forecast`."""
    tensors, sizes = _film_arguments(*inputs)
    forecast = tensors["x"].new_empty(int(sizes["rows"]), int(sizes["horizon"]))
    _call("film_forecast", tensors["x"].dtype, {**tensors, "forecast": forecast}, sizes)
    return forecast.to(inputs[0].dtype)


def film_forecast_backward(grad: Tensor, *inputs: Any) -> list[Tensor | None]:
    """Pass 2 backward; see :func:`poco.ops.reference.film_forecast_backward`."""
    *forward, needs = inputs
    tensors, sizes = _film_arguments(*forward)
    gradients = _gradients(tensors, _FILM_INPUTS, needs)
    dtype = tensors["x"].dtype
    _call("film_forecast_backward", dtype, {**tensors, "grad": dense(grad, dtype), **gradients}, sizes)
    return [gradients.get(f"grad_{name}") for name in _FILM_INPUTS]


def film_loss(target: Tensor, *inputs: Any) -> tuple[Tensor, list[Tensor | None]]:
    """The mean squared error of pass 2 and its gradients; see :func:`poco.ops.film_loss`."""
    *forward, needs = inputs
    tensors, sizes = _film_arguments(*forward)
    gradients = _gradients(tensors, _FILM_INPUTS, needs)
    elements = max(1, target.numel())
    loss = _empty((), dtype=torch.float64)
    tensors |= {"target": dense(target), "loss": loss}
    _call("film_forecast_backward", tensors["x"].dtype, {**tensors, **gradients}, {**sizes, "grad_scale": 2 / elements})
    return (loss / elements).float(), [gradients.get(f"grad_{name}") for name in _FILM_INPUTS]


# --- between the passes, in training ----------------------------------------------------------------------------------


def most_latents() -> int:
    """How many latents the kernels take in training: a tile holds as many of one window as windows of one latent."""
    least = {"segments": 1, "width": 1, "head_width": 4, "heads": 1, "ffn_width": 1, "layers": 0}
    return core.latent_tiles("float32", latents=1, **least)[0]


def _latent_sizes(
    segments: int, initial: Tensor, frequencies: Tensor, parameters: Sequence[Tensor], heads: int
) -> dict[str, int]:
    p = LatentParameters.of(parameters)
    return {
        "segments": int(segments),  # int: while tracing, these sizes are fixed
        "latents": int(initial.shape[1]),
        "width": int(initial.shape[2]),
        "head_width": int(frequencies.shape[0]) * 4,
        "heads": heads,
        "ffn_width": int(p.read_ffn.out_weight.shape[1]),
        "layers": len(p.layers),
    }


def _latent_dtype(initial: Tensor, parameters: Sequence[Tensor], low: bool) -> torch.dtype:
    return torch.bfloat16 if low else common_dtype([initial, *parameters])


def latent_kept_bytes(
    windows: Any,
    segments: int,
    initial: Tensor,
    frequencies: Tensor,
    parameters: Sequence[Tensor],
    heads: int,
    low: bool,
) -> Any:
    """How many bytes the backward needs to be kept: enough for all tiles, and linear in the windows for tracing."""
    sizes = _latent_sizes(segments, initial, frequencies, parameters, heads)
    most, size = core.latent_tiles(_kind(_latent_dtype(initial, parameters, low)), **sizes)
    return (windows + most - 1) * -(-size // most)


def _latent_arguments(
    pooled: Tensor,
    initial: Tensor,
    frequencies: Tensor,
    parameters: Sequence[Tensor],
    heads: int,
    context: int,
    ffn_dropout: float,
    dropout: float,
    seed: Tensor,
    eps: float,
    low: bool,
) -> tuple[torch.dtype, dict[str, Tensor], dict[str, Any], list[Tensor]]:
    dtype = _latent_dtype(initial, parameters, low)
    alive = all_dense(parameters, dtype)
    tensors = {"pooled": dense(pooled), "initial": dense(initial, dtype), "frequencies": dense(frequencies)}
    numbers = {
        **_latent_sizes(pooled.shape[1], initial, frequencies, parameters, heads),
        "windows": pooled.shape[0],
        "initial_windows": initial.shape[0],
        "context": context,
        "eps": eps,
        "ffn_dropout": ffn_dropout,
        "dropout": dropout,
        "seed": _key(seed, max(ffn_dropout, dropout)),
        "parameters": [parameter.data_ptr() for parameter in alive],
    }
    return dtype, tensors, numbers, alive


def latent_transformer(*inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Keys, values and what the backward needs; see :func:`poco.ops.latent_transformer`."""
    pooled, initial, frequencies, parameters, heads, *_, low = inputs
    dtype, tensors, numbers, _alive = _latent_arguments(*inputs)
    keys = _empty(pooled.shape[0], *initial.shape[1:], dtype=dtype)
    values = torch.empty_like(keys)
    size = latent_kept_bytes(pooled.shape[0], pooled.shape[1], initial, frequencies, parameters, heads, low)
    kept = _empty(size, dtype=torch.uint8)
    _call("latent_training", dtype, {**tensors, "keys": keys, "values": values, "kept": kept}, numbers)
    given = torch.bfloat16 if low else initial.dtype
    return keys.to(given), values.to(given), kept


def latent_transformer_backward(grad_keys: Tensor, grad_values: Tensor, kept: Tensor, *inputs: Any) -> list[Tensor]:
    """Gradients of pooled, initial and the parameters, float32, empty where ``needs`` says no."""
    *forward, needs = inputs
    dtype, tensors, numbers, _alive = _latent_arguments(*forward)
    pooled, initial, _, parameters = forward[:4]
    wanted = [needs[0], needs[1], *[needs[2]] * len(parameters)]
    gradients = [
        _empty(t.shape if needed else 0, dtype=torch.float32)
        for t, needed in zip((pooled, initial, *parameters), wanted, strict=True)
    ]
    tensors |= {"kept": kept, "grad_keys": dense(grad_keys), "grad_values": dense(grad_values)}
    tensors |= {f"grad_{n}": g for n, g, need in zip(("pooled", "initial"), gradients, needs, strict=False) if need}
    if needs[2]:
        numbers["grad_parameters"] = [gradient.data_ptr() for gradient in gradients[2:]]
    _call("latent_training_backward", dtype, tensors, numbers)
    return gradients


# --- before the passes ------------------------------------------------------------------------------------------------


def _query_arguments(
    initial: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    query_weight: Tensor,
    key_weight: Tensor,
    frequencies: Tensor,
    segments: int,
    context: int,
    eps: float,
) -> tuple[torch.dtype, dict[str, Tensor], dict[str, int | float]]:
    inputs = (initial, norm_weight, norm_bias, query_weight, key_weight)
    dtype = common_dtype(inputs)
    tensors = {name: dense(t, dtype) for name, t in zip(_QUERY_INPUTS, inputs, strict=True)}
    tensors["frequencies"] = dense(frequencies)
    windows, latents, width = initial.shape
    numbers: dict[str, int | float] = {"windows": windows, "latents": latents, "width": width, "segments": segments}
    return dtype, tensors, {**numbers, "head_width": key_weight.shape[0], "context": context, "eps": eps}


def latent_queries(*inputs: Any) -> Tensor:
    """The queries of pass 1; see :func:`poco.ops.model_reference.latent_queries`."""
    dtype, tensors, numbers = _query_arguments(*inputs)
    windows, latents, width = inputs[0].shape
    queries = _empty(windows, inputs[6], latents, width, dtype=dtype)
    _call("latent_queries", dtype, {**tensors, "queries": queries}, numbers)
    return queries


def latent_queries_backward(grad: Tensor, *inputs: Any) -> list[Tensor]:
    """Gradients, float32, of the initial latents and of the four parameters."""
    dtype, tensors, numbers = _query_arguments(*inputs)
    gradients = _gradients(tensors, _QUERY_INPUTS, (True,) * len(_QUERY_INPUTS))
    _call("latent_queries_backward", dtype, {**tensors, "grad_queries": dense(grad), **gradients}, numbers)
    return list(gradients.values())


def film_shift(
    output_weight: Tensor, output_bias: Tensor, shift_weight: Tensor, shift_bias: Tensor
) -> tuple[Tensor, Tensor]:
    """The folded shift of pass 2; see :func:`poco.ops.reference.film_shift`."""
    inputs = (output_weight, output_bias, shift_weight, shift_bias)
    dtype = common_dtype(inputs)
    names = ("output_weight", "output_bias", "shift_weight", "shift_bias")
    tensors = {name: dense(t, dtype) for name, t in zip(names, inputs, strict=True)}
    horizon, film_width = output_weight.shape
    width = shift_weight.shape[1]
    weight, bias = _empty(horizon, width, dtype=dtype), _empty(horizon, dtype=dtype)
    sizes = {"horizon": horizon, "film_width": film_width, "width": width}
    _call("film_shift", dtype, {**tensors, "weight": weight, "bias": bias}, sizes)
    return weight, bias


# --- the whole model --------------------------------------------------------------------------------------------------


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
    unit_shift: Tensor | None = None,
) -> Tensor:
    """The forecasts of a model that is not in training; see :func:`poco.ops.inference`."""
    dtype = common_dtype([unit_table, initial, *parameters])
    alive = all_dense(parameters, dtype)
    p = ModelParameters.of(parameters)
    between = LatentParameters.of(p.latents)
    forecast = _empty(x.shape[0], p.out_bias.shape[0], dtype=dtype)
    tensors = {
        "x": dense(x, dtype),
        "unit_index": unit_index.contiguous(),
        "window_offsets": window_offsets.contiguous(),
        "unit_table": dense(unit_table, dtype),
        "initial": dense(initial, dtype),
        "frequencies": dense(frequencies),
        "forecast": forecast,
    }
    if unit_shift is not None:
        tensors["unit_shift"] = dense(unit_shift, dtype)
    initial_windows, latents, width = initial.shape
    length = p.token_weight.shape[1]
    numbers = {
        "rows": x.shape[0],
        "windows": window_offsets.shape[0] - 1,
        "units": unit_table.shape[0],
        "initial_windows": initial_windows,
        "segments": x.shape[1] // length,
        "segment_length": length,
        "width": width,
        "latents": latents,
        "head_width": frequencies.shape[0] * 4,
        "heads": heads,
        "ffn_width": between.read_ffn.out_weight.shape[1],
        "layers": len(between.layers),
        "film_width": p.in_weight.shape[0],
        "horizon": forecast.shape[1],
        "eps": eps,
        "parameters": [*map(Tensor.data_ptr, alive)],
    }
    _call("inference", dtype, tensors, numbers)
    return forecast.to(x.dtype)
