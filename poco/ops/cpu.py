"""Both passes, forward and backward, by the fused kernels of the compiled core.

Same functions as :mod:`poco.ops.reference`. The kernels take float32 or bfloat16 and add up in float32, on as many
threads as torch has; float16, and float32 among others, is widened to float32 first. Results do not depend on the
number of threads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from poco import core
from poco.ops.latent_reference import latent_parameter_names
from poco.ops.reference import FilmParameters

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_POOL_INPUTS = ("x", "unit_table", "token_weight", "token_bias", "norm_weight", "norm_bias", "queries")
_SHIFT_INPUTS = ("output_weight", "output_bias", "shift_weight", "shift_bias")
_FILM_INPUTS = ("x", "unit_table", "keys", "values", *FilmParameters._fields)


def _dense(tensor: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    if tensor.dtype is dtype and tensor.is_contiguous():
        return tensor
    return tensor.detach().to(dtype).contiguous()


def _common_dtype(tensors: Sequence[Tensor]) -> torch.dtype:
    """What the kernels take these inputs in: bfloat16 if all are that, else float32."""
    return torch.bfloat16 if all(t.dtype == torch.bfloat16 for t in tensors) else torch.float32


def _indices(tensor: Tensor) -> Tensor:
    return tensor.contiguous()


def _call(op: str, dtype: torch.dtype, tensors: Mapping[str, Tensor], numbers: Mapping[str, int | float]) -> None:
    addresses = {name: tensor.data_ptr() for name, tensor in tensors.items()}
    kind = "bfloat16" if dtype is torch.bfloat16 else "float32"
    core.run_kernel(f"{op}_{kind}", {**addresses, **numbers, "threads": torch.get_num_threads()})


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
    dtype = _common_dtype(values[1:])
    tensors = {name: _dense(t, dtype) for name, t in zip(_POOL_INPUTS, values, strict=True)}
    tensors |= {"unit_index": _indices(unit_index), "window_offsets": _indices(window_offsets)}
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
    pooled = torch.empty(windows, segments, latents, width, dtype=torch.float32)
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
    tensors |= {name: _dense(t) for name, t in zip(names, outputs, strict=True)}
    _call("latent_pool_backward", tensors["x"].dtype, {**tensors, **gradients}, sizes)
    return [gradients.get(f"grad_{name}") for name in _POOL_INPUTS]


# --- pass 2 -----------------------------------------------------------------------------------------------------------


def _film_arguments(*inputs: Any) -> tuple[dict[str, Tensor], dict[str, int | float]]:
    x, unit_index, window_offsets, unit_table, keys, values, parameters, dropout, seed, eps = inputs
    floating = (x, unit_table, keys, values, *parameters)
    dtype = _common_dtype(floating[1:])
    tensors = {name: _dense(t, dtype) for name, t in zip(_FILM_INPUTS, floating, strict=True)}
    tensors |= {"unit_index": _indices(unit_index), "window_offsets": _indices(window_offsets)}
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
        "seed": int(seed) & 0xFFFFFFFFFFFFFFFF if dropout > 0 else 0,
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
    _call("film_forecast_backward", dtype, {**tensors, "grad": _dense(grad, dtype), **gradients}, sizes)
    return [gradients.get(f"grad_{name}") for name in _FILM_INPUTS]


def film_loss(target: Tensor, *inputs: Any) -> tuple[Tensor, list[Tensor | None]]:
    """The mean squared error of pass 2 and its gradients; see :func:`poco.ops.film_loss`."""
    *forward, needs = inputs
    tensors, sizes = _film_arguments(*forward)
    gradients = _gradients(tensors, _FILM_INPUTS, needs)
    elements = max(1, target.numel())
    loss = torch.empty((), dtype=torch.float64)
    tensors |= {"target": _dense(target), "loss": loss}
    _call("film_forecast_backward", tensors["x"].dtype, {**tensors, **gradients}, {**sizes, "grad_scale": 2 / elements})
    return (loss / elements).float(), [gradients.get(f"grad_{name}") for name in _FILM_INPUTS]


def film_shift(*inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The folded shift; see :func:`poco.ops.film_shift`."""
    dtype = _common_dtype(inputs)
    named = {name: _dense(t, dtype) for name, t in zip(_SHIFT_INPUTS, inputs, strict=True)}
    (horizon, film_width), width = inputs[0].shape, inputs[2].shape[1]
    weight = named["weight"] = torch.empty(horizon, width, dtype=dtype)
    bias = named["bias"] = torch.empty(horizon, dtype=dtype)
    _call("film_shift", dtype, named, {"horizon": horizon, "film_width": film_width, "width": width})
    return weight.to(inputs[0].dtype), bias.to(inputs[0].dtype)


# --- the latents before and between the passes ------------------------------------------------------------------------

_QUERY_INPUTS = ("initial", "norm_weight", "norm_bias", "query_weight", "key_weight")


def latent_queries(*inputs: Any) -> Tensor:
    """Queries of pass 1; see :func:`poco.ops.latent_queries`."""
    *tensors, frequencies, segments, context, eps = inputs
    dtype = _common_dtype(tensors)
    named = {name: _dense(t, dtype) for name, t in zip(_QUERY_INPUTS, tensors, strict=True)}
    windows, latents, width = tensors[0].shape
    queries = torch.empty(windows, segments, latents, width, dtype=dtype)
    numbers = {
        "windows": windows,
        "segments": segments,
        "latents": latents,
        "width": width,
        "head_width": tensors[3].shape[0],
        "context": context,
        "eps": eps,
    }
    _call("latent_queries", dtype, {**named, "frequencies": _dense(frequencies), "queries": queries}, numbers)
    return queries.to(tensors[0].dtype)


def latent_transformer(
    pooled: Tensor,
    initial: Tensor,
    parameters: Sequence[Tensor],
    frequencies: Tensor,
    heads: int,
    context: int,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Keys and values of pass 2; see :func:`poco.ops.latent_transformer`."""
    dtype = _common_dtype([initial, *parameters])
    layers = (len(parameters) - 15) // 11
    named = {name: _dense(t, dtype) for name, t in zip(latent_parameter_names(layers), parameters, strict=True)}
    named["initial"] = _dense(initial, dtype)
    named["pooled"] = _dense(pooled)
    named["frequencies"] = _dense(frequencies)
    windows, segments, latents, width = pooled.shape
    keys = named["keys"] = torch.empty(windows, latents, width, dtype=dtype)
    values = named["values"] = torch.empty(windows, latents, width, dtype=dtype)
    numbers = {
        "windows": windows,
        "initial_windows": initial.shape[0],
        "segments": segments,
        "latents": latents,
        "width": width,
        "head_width": parameters[0].shape[0],
        "heads": heads,
        "ffn_width": parameters[7].shape[1],
        "layers": layers,
        "context": context,
        "eps": eps,
    }
    _call("latent_transformer", dtype, named, numbers)
    return keys.to(initial.dtype), values.to(initial.dtype)
