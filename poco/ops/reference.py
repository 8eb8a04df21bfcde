"""The plain-torch reference of both passes, forward and backward: it defines what every backend computes.

All arithmetic is float32, or float64 where the input is float64; lower precisions are widened first.
Backward recomputes the forward from the inputs, as every backend does. Shapes use the letters of the two ops:
``R`` rows, ``W`` windows, ``C`` context, ``S`` segments of ``L`` frames, ``V`` rows of the unit table, ``d`` width,
``Q`` latents, ``F`` feed-forward width, ``K`` FiLM width, ``H`` horizon.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from poco.ops.dropout import dropout_mask
from poco.ops.parameters import FilmParameters

_ROWS_AT_ONCE = 1024  # rows that pass 2 takes through its wide layers at a time: bounds memory, keeps them in cache


def accumulation_dtype(x: Tensor) -> torch.dtype:
    """float64 for float64 input, float32 for all else."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _widen(dtype: torch.dtype, *tensors: Tensor) -> Iterator[Tensor]:
    return (t.to(dtype) for t in tensors)


def mean_squared_error(forecast: Tensor, target: Tensor, dtype: torch.dtype) -> Tensor:
    """The mean of ``(forecast - target) ** 2``, added up in ``dtype``; 0 where there is nothing."""
    return F.mse_loss(forecast.to(dtype), target.to(dtype), reduction="sum") / max(1, target.numel())


# --- packed rows to one padded block per window and back --------------------------------------------------------------


class WindowRows:
    """Moves rows between packed ``[R, ...]`` and padded ``[W, longest window, ...]``; padding is zero."""

    def __init__(self, window_offsets: Tensor, rows: int) -> None:
        offsets = window_offsets.long()
        self.counts = offsets.diff()  # [W]
        self.windows = self.counts.numel()
        self.rows = rows
        self.longest = int(self.counts.max()) if self.windows else 0
        self.even = self.windows * self.longest == rows
        if not self.even:
            window = torch.repeat_interleave(self.counts)  # [R]
            self.position = window * self.longest + torch.arange(rows, device=window.device) - offsets[window]

    def pad(self, packed: Tensor) -> Tensor:
        """``[R, ...]`` to ``[W, longest, ...]``."""
        tail = packed.shape[1:]
        if not self.even:
            padded = packed.new_zeros(self.windows * self.longest, *tail)
            packed = padded.index_copy_(0, self.position, packed)
        return packed.reshape(self.windows, self.longest, *tail)

    def pack(self, padded: Tensor) -> Tensor:
        """``[W, longest, ...]`` to ``[R, ...]``."""
        flat = padded.reshape(self.windows * self.longest, *padded.shape[2:])
        return flat if self.even else flat.index_select(0, self.position)

    def absent(self) -> Tensor:
        """``[W, longest]``, true where there is no row."""
        return torch.arange(self.longest, device=self.counts.device) >= self.counts[:, None]


# --- layer normalisation and gated linear unit, with their derivatives ------------------------------------------------


def _standardise(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Rows with mean 0 and variance 1, and one over their standard deviation."""
    centred = x - x.mean(-1, keepdim=True)
    inverse_std = torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
    return centred * inverse_std, inverse_std


def _norm_backward(
    grad: Tensor, standard: Tensor, inverse_std: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``standard * weight + bias`` with respect to the layer's input, weight and bias."""
    grad_standard = grad * weight
    along = (grad_standard * standard).mean(-1, keepdim=True)
    grad_input = (grad_standard - grad_standard.mean(-1, keepdim=True) - standard * along) * inverse_std
    over = tuple(range(grad.ndim - 1))
    return grad_input, (grad * standard).sum(over), grad.sum(over)


def _gelu_slope(x: Tensor) -> Tensor:
    """Derivative of the exact GELU ``x * Phi(x)``: ``Phi(x) + x * phi(x)``."""
    return 0.5 * (1 + torch.erf(x * 0.5**0.5)) + x * torch.exp(-0.5 * x * x) * (2 * torch.pi) ** -0.5


def _sum_by_unit(rows: Tensor, unit_index: Tensor, units: int) -> Tensor:
    """``[units, d]``: sums of the rows ``[R, d]`` that belong to each unit, always in the same order."""
    return torch.ops.aten.embedding_dense_backward(rows.contiguous(), unit_index.long(), units, -1, False)


# --- pass 1: population to latents ------------------------------------------------------------------------------------


def _tokens(
    x: Tensor, units: Tensor, token_weight: Tensor, token_bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Segments ``[R, S, L]``, and the standardised tokens ``[R, S, d]`` with one over their deviation."""
    rows, width = x.shape[0], token_weight.shape[1]
    segments = x.reshape(rows, x.shape[1] // width, width)
    return segments, *_standardise(F.linear(segments, token_weight, token_bias) + units[:, None], eps)


def _pool_weights(y: Tensor, queries: Tensor, absent: Tensor) -> tuple[Tensor, Tensor]:
    """Attention of ``y [W, N, S, d]`` to each latent: weights ``[W, N, S, Q]`` and logsumexp ``[W, Q]``."""
    scores = torch.einsum("wnsd,wsqd->wnsq", y, queries.expand(y.shape[0], -1, -1, -1))
    scores = scores.masked_fill(absent[:, :, None, None], float("-inf"))
    logsumexp = scores.flatten(1, 2).logsumexp(1)
    weights = torch.exp(scores - logsumexp[:, None, None]).masked_fill(absent[:, :, None, None], 0)
    return weights, logsumexp


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
) -> tuple[Tensor, Tensor]:
    """Pass 1 forward; see :func:`poco.ops.latent_pool`."""
    wide = accumulation_dtype(x)
    x, unit_table, token_weight, token_bias, norm_weight, norm_bias, queries = _widen(
        wide, x, unit_table, token_weight, token_bias, norm_weight, norm_bias, queries
    )
    rows = WindowRows(window_offsets, x.shape[0])
    if not rows.longest:
        segments, latents, width = queries.shape[1:]
        return x.new_zeros(rows.windows, segments, latents, width), x.new_full((rows.windows, latents), float("-inf"))
    _, standard, _ = _tokens(x, unit_table[unit_index.long()], token_weight, token_bias, eps)
    y = rows.pad(standard * norm_weight + norm_bias)
    weights, logsumexp = _pool_weights(y, queries, rows.absent())
    return torch.einsum("wnsq,wnsd->wsqd", weights, y), logsumexp


def latent_pool_backward(
    grad_pooled: Tensor,
    grad_logsumexp: Tensor,
    pooled: Tensor,
    logsumexp: Tensor,
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
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """Pass 1 backward: gradients of x, unit_table, token weight and bias, norm weight and bias, queries.

    With ``P`` the attention weights, ``G`` the gradient of ``pooled`` and ``g`` that of ``logsumexp``, the scores get
    ``P * (<G, y> - sum_s <G, pooled> + g)``.
    """
    wide = accumulation_dtype(x)
    x, unit_table, token_weight, token_bias, norm_weight, norm_bias, queries = _widen(
        wide, x, unit_table, token_weight, token_bias, norm_weight, norm_bias, queries
    )
    rows = WindowRows(window_offsets, x.shape[0])
    if not rows.longest:
        inputs = (x, unit_table, token_weight, token_bias, norm_weight, norm_bias, queries)
        return [torch.zeros_like(t) for t in inputs]
    segments, standard, inverse_std = _tokens(x, unit_table[unit_index.long()], token_weight, token_bias, eps)
    y = rows.pad(standard * norm_weight + norm_bias)
    every_query = queries.expand(rows.windows, -1, -1, -1)
    weights, _ = _pool_weights(y, queries, rows.absent())

    mean = (grad_pooled * pooled).sum((1, 3)) - grad_logsumexp  # [W, Q]
    grad_scores = weights * (torch.einsum("wnsd,wsqd->wnsq", y, grad_pooled) - mean[:, None, None])
    grad_y = torch.einsum("wnsq,wsqd->wnsd", weights, grad_pooled)
    grad_y += torch.einsum("wnsq,wsqd->wnsd", grad_scores, every_query)
    grad_queries = torch.einsum("wnsq,wnsd->wsqd", grad_scores, y)
    if queries.shape[0] == 1:
        grad_queries = grad_queries.sum(0, keepdim=True)

    grad_token, grad_norm_weight, grad_norm_bias = _norm_backward(
        rows.pack(grad_y), standard, inverse_std, norm_weight
    )  # [R, S, d]
    return [
        (grad_token @ token_weight).reshape(x.shape) if needs[0] else None,
        _sum_by_unit(grad_token.sum(1), unit_index, unit_table.shape[0]) if needs[1] else None,
        torch.einsum("rsd,rsl->dl", grad_token, segments) if needs[2] else None,
        grad_token.sum((0, 1)),
        grad_norm_weight,
        grad_norm_bias,
        grad_queries,
    ]


# --- pass 2: latents to every unit ------------------------------------------------------------------------------------


def _attend(
    units: Tensor, keys: Tensor, values: Tensor, p: FilmParameters, rows: WindowRows, eps: float
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """Units ``[R, d]`` after attention to their window's latents, and what the backward needs of the way there."""
    standard, inverse_std = _standardise(units, eps)
    query = rows.pad(standard * p.query_norm_weight + p.query_norm_bias)  # [W, N, d]
    weights = torch.softmax(query @ keys.mT, -1)  # [W, N, Q]
    return units + rows.pack(weights @ values) + p.attention_bias, (standard, inverse_std, weights)


def _feed_forward(
    state: Tensor, mask: Tensor | None, p: FilmParameters, eps: float
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor, Tensor, Tensor]]:
    """Rows ``[r, d]`` after the gated feed-forward layer, and what the backward needs of the way there."""
    standard, inverse_std = _standardise(state, eps)
    value, gate = F.linear(standard * p.ffn_norm_weight + p.ffn_norm_bias, p.ffn_in_weight, p.ffn_in_bias).chunk(2, -1)
    gated = value * F.gelu(gate)
    if mask is not None:
        gated = gated * mask
    return state + F.linear(gated, p.ffn_out_weight, p.ffn_out_bias), (standard, inverse_std, value, gate, gated)


def _ffn_mask(p: FilmParameters, rows: int, dropout: float, seed: Tensor) -> Tensor | None:
    return dropout_mask(seed, rows, p.ffn_out_weight.shape[1], dropout, p.ffn_out_weight.dtype) if dropout > 0 else None


def _row_blocks(rows: int) -> Iterator[slice]:
    return (slice(start, start + _ROWS_AT_ONCE) for start in range(0, rows, _ROWS_AT_ONCE))


def unit_states(
    unit_index: Tensor,
    window_offsets: Tensor,
    unit_table: Tensor,
    keys: Tensor,
    values: Tensor,
    parameters: FilmParameters,
    dropout: float,
    seed: Tensor,
    eps: float,
) -> Tensor:
    """``e [R, d]``: what pass 2 knows of each row before its own activity comes in. Autograd differentiates it."""
    rows = WindowRows(window_offsets, unit_index.shape[0])
    state, _ = _attend(unit_table[unit_index.long()], keys, values, parameters, rows, eps)
    return _feed_forward(state, _ffn_mask(parameters, rows.rows, dropout, seed), parameters, eps)[0]


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
) -> Tensor:
    """Pass 2 forward; see :func:`poco.ops.film_forecast`."""
    dtype, wide = x.dtype, accumulation_dtype(x)
    x, unit_table, keys, values = _widen(wide, x, unit_table, keys, values)
    p = FilmParameters(*_widen(wide, *parameters))
    rows = WindowRows(window_offsets, x.shape[0])
    forecast = x.new_empty(x.shape[0], p.shift_weight.shape[0])
    if not rows.longest:
        return forecast.to(dtype)
    state, _ = _attend(unit_table[unit_index.long()], keys, values, p, rows, eps)
    mask = _ffn_mask(p, rows.rows, dropout, seed)
    for block in _row_blocks(rows.rows):
        e, _ = _feed_forward(state[block], None if mask is None else mask[block], p, eps)
        film = F.relu(F.linear(x[block], p.in_weight, p.in_bias)) * F.linear(e, p.scale_weight, p.scale_bias)
        forecast[block] = film @ p.out_weight.T + F.linear(e, p.shift_weight, p.shift_bias)
    return forecast.to(dtype)


def film_forecast_backward(
    grad: Tensor,
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
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """Pass 2 backward: gradients of x, unit_table, keys, values, then of the parameters in their order.

    ``needs`` says for each of these whether it is wanted; without any of the parameters their sums are left out.
    """
    wide = accumulation_dtype(x)
    grad, x, unit_table, keys, values = _widen(wide, grad, x, unit_table, keys, values)
    p = FilmParameters(*_widen(wide, *parameters))
    sums = FilmParameters(*(torch.zeros_like(t) for t in p))
    needs_parameters = any(needs[4:])
    rows = WindowRows(window_offsets, x.shape[0])
    if not rows.longest:
        return [*(torch.zeros_like(t) for t in (x, unit_table, keys, values)), *sums]

    state, (unit_standard, unit_inverse_std, weights) = _attend(
        unit_table[unit_index.long()], keys, values, p, rows, eps
    )
    mask = _ffn_mask(p, rows.rows, dropout, seed)
    grad_x = torch.empty_like(x) if needs[0] else None
    grad_state = torch.empty_like(state)
    for block in _row_blocks(rows.rows):
        grad_y, xb, mb = grad[block], x[block], None if mask is None else mask[block]
        e, (standard, inverse_std, value, gate, gated) = _feed_forward(state[block], mb, p, eps)
        hidden = F.relu(F.linear(xb, p.in_weight, p.in_bias))
        scale = F.linear(e, p.scale_weight, p.scale_bias)

        grad_film = grad_y @ p.out_weight  # [r, K]
        grad_scale = grad_film * hidden
        grad_hidden = (grad_film * scale).masked_fill_(hidden <= 0, 0)
        grad_e = grad_y @ p.shift_weight + grad_scale @ p.scale_weight
        grad_gated = grad_e @ p.ffn_out_weight  # [r, F]
        if mb is not None:
            grad_gated *= mb
        grad_ffn = torch.cat([grad_gated * F.gelu(gate), grad_gated * value * _gelu_slope(gate)], -1)
        grad_input, grad_norm_weight, grad_norm_bias = _norm_backward(
            grad_ffn @ p.ffn_in_weight, standard, inverse_std, p.ffn_norm_weight
        )
        grad_state[block] = grad_e + grad_input
        if grad_x is not None:
            grad_x[block] = grad_hidden @ p.in_weight
        if needs_parameters:
            sums.ffn_norm_weight.add_(grad_norm_weight)
            sums.ffn_norm_bias.add_(grad_norm_bias)
            sums.ffn_in_weight.addmm_(grad_ffn.T, standard * p.ffn_norm_weight + p.ffn_norm_bias)
            sums.ffn_in_bias.add_(grad_ffn.sum(0))
            sums.ffn_out_weight.addmm_(grad_e.T, gated)
            sums.ffn_out_bias.add_(grad_e.sum(0))
            sums.scale_weight.addmm_(grad_scale.T, e)
            sums.scale_bias.add_(grad_scale.sum(0))
            sums.shift_weight.addmm_(grad_y.T, e)
            sums.shift_bias.add_(grad_y.sum(0))
            sums.in_weight.addmm_(grad_hidden.T, xb)
            sums.in_bias.add_(grad_hidden.sum(0))
            sums.out_weight.addmm_(grad_y.T, hidden * scale)

    grad_attended = rows.pad(grad_state)  # [W, N, d]
    grad_weights = grad_attended @ values.mT  # [W, N, Q]
    grad_scores = weights * (grad_weights - (weights * grad_weights).sum(-1, keepdim=True))
    grad_units, grad_query_norm_weight, grad_query_norm_bias = _norm_backward(
        rows.pack(grad_scores @ keys), unit_standard, unit_inverse_std, p.query_norm_weight
    )
    sums.attention_bias.copy_(grad_state.sum(0))
    sums.query_norm_weight.copy_(grad_query_norm_weight)
    sums.query_norm_bias.copy_(grad_query_norm_bias)
    return [
        grad_x,
        _sum_by_unit(grad_state + grad_units, unit_index, unit_table.shape[0]) if needs[1] else None,
        grad_scores.mT @ rows.pad(unit_standard * p.query_norm_weight + p.query_norm_bias),
        weights.mT @ grad_attended,
        *sums,
    ]


def film_shift(
    output_weight: Tensor, output_bias: Tensor, shift_weight: Tensor, shift_bias: Tensor
) -> tuple[Tensor, Tensor]:
    """The shift of FiLM, ``[H, d]`` and ``[H]``, folded through the output ``[H, K]``."""
    wide = accumulation_dtype(output_weight)
    weight = output_weight.to(wide)
    folded = weight @ shift_weight.to(wide), weight @ shift_bias.to(wide) + output_bias.to(wide)
    return folded[0].to(output_weight.dtype), folded[1].to(output_weight.dtype)
