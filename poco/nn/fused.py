"""How a POCO calls the ops: forecasts and losses of packed rows, and its parameters in the order that the ops take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor

from poco.nn.affine import affine, parts, weight
from poco.ops import (
    FilmParameters,
    TrainingCall,
    film_forecast,
    film_loss,
    inference,
    kernels_serve,
    latent_pool,
    latent_transformer,
    train,
    trains_at_once,
)
from poco.ops.precision import as_given, low
from poco.ops.reference import accumulation_dtype, mean_squared_error, unit_states

if TYPE_CHECKING:
    from poco.nn.feed_forward import FeedForward
    from poco.nn.film import Film
    from poco.nn.latent_transformer import LatentLayer
    from poco.nn.model import POCO

_UNIT_DROPOUT_STEPS = 0.8  # share of training steps in which unit dropout hides units, as published


class Rows(NamedTuple):
    """Rows of all windows one after another, and whose they are."""

    x: Tensor  # [R, C] normalised activity
    unit_index: Tensor  # [R] int32, row of the table for each row
    window_offsets: Tensor  # [W + 1] int32; window w is rows window_offsets[w]:window_offsets[w + 1]
    table: Tensor  # [V, d] embedding of every unit
    shift: Tensor | None = None  # [d] added to the embedding of every unit
    window_session: Tensor | None = None  # [W] session of each window, where latents differ between sessions


# --- forecasts and losses ---------------------------------------------------------------------------------------------


def forecast(model: POCO, rows: Rows) -> Tensor:
    """``[R, H]`` normalised forecasts in the dtype of ``x``."""
    config = model.config
    # If units are being trained, the parameters need not be looked through.
    trains = torch.is_grad_enabled() and rows.table.requires_grad
    if not (model.training or trains) and config.film_width and config.film_depth == 1:
        latents = z, _, parameters, *_ = latents_for_inference(model, rows.window_session)
        shift = () if rows.shift is None else (rows.shift,)
        if kernels_serve((rows.x, rows.table, z, *parameters, *shift), rows.x):
            x = _seen(model, rows.x)
            return inference(x, rows.unit_index, rows.window_offsets, rows.table, *latents, rows.shift)
    at_once = _train(model, rows)
    if at_once is not None:
        return at_once
    inputs = _second_pass(model, rows)
    if config.film_depth > 1:
        return model.film(inputs[0], unit_states(*inputs[1:]))  # type: ignore[no-any-return]
    return film_forecast(*inputs)


def loss(model: POCO, rows: Rows, target: Tensor) -> Tensor:
    """Mean squared error of the forecasts against ``target [R, H]``, a scalar."""
    if model.config.film_depth > 1:
        made = forecast(model, rows)
        return mean_squared_error(made, target, accumulation_dtype(made))
    at_once = _train(model, rows, target)
    if at_once is not None:
        return at_once
    inputs = _second_pass(model, rows)
    return film_loss(*(*inputs[:7], target, *inputs[7:]))


def latents_for_inference(
    model: POCO, window_session: Tensor | None
) -> tuple[Tensor, Tensor, list[Tensor], int, float]:
    """Initial latents, frequencies, parameters, heads and epsilon, as :func:`poco.ops.inference` takes them."""
    z, eps = model.initial_latents(window_session), model.encoder.context_norm.eps
    return z, model.rotary.frequencies, parameters_in_order(model), model.config.heads, eps


def _train(model: POCO, rows: Rows, target: Tensor | None = None) -> Tensor | None:
    """Forecasts, or their loss, by one node of autograd where the CPU kernels can; None where they cannot."""
    config, z = model.config, model.initial_latents(rows.window_session)
    ffn_dropout, dropout, attention_dropout = _dropouts(model)
    plain = config.film_width and config.film_depth == 1 and not attention_dropout
    if not (plain and torch.is_grad_enabled() and trains_at_once(rows.x, z)):
        return None
    x, of_rows = _seen(model, rows.x), (rows.unit_index, rows.window_offsets)
    population = _population(model, x, *of_rows)
    seeds = _seed(max(ffn_dropout, dropout), x.device), _seed(ffn_dropout, x.device)
    call = TrainingCall(
        *of_rows,
        population,
        model.rotary.frequencies,
        config.heads,
        ffn_dropout,
        dropout,
        *seeds,
        model.encoder.context_norm.eps,
    )
    return train(call, x, rows.table, z, parameters_in_order(model), target, rows.shift)


def _second_pass(model: POCO, rows: Rows) -> tuple[Any, ...]:
    """The inputs of pass 2: pass 1 and what the latents go through between the two."""
    x, of_rows = _seen(model, rows.x), (rows.unit_index, rows.window_offsets)
    table = rows.table if rows.shift is None else rows.table + rows.shift
    z, norm = model.initial_latents(rows.window_session), model.encoder.context_norm
    token = (model.token.weight, model.token.bias, norm.weight, norm.bias)
    (x,) = low([x])  # once, and not for each pass
    population = _population(model, x, *of_rows)
    with as_given(x.device):  # autocast would cast every factor of these small products
        queries, film = model.latent_queries(z), film_parameters(model)
    pooled, _ = latent_pool(*population, table, *token, queries, norm.eps)
    keys, values = _between(model, pooled, z)
    dropout, *_ = _dropouts(model)
    seed = _seed(dropout, x.device)
    return x, *of_rows, table, keys, values, film, dropout, seed, norm.eps


def _between(model: POCO, pooled: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values of pass 2 from what pass 1 pooled."""
    config = model.config
    ffn_dropout, dropout, attention_dropout = _dropouts(model)
    return latent_transformer(
        pooled,
        z,
        latent_parameters(model),
        model.rotary.frequencies,
        config.heads,
        config.seen,
        ffn_dropout,
        dropout,
        _seed(max(ffn_dropout, dropout), z.device),
        model.encoder.context_norm.eps,
        attention_dropout,
    )


def _dropouts(model: POCO) -> tuple[float, float, float]:
    """Those inside feed-forward layers, of the branches over the latents, of the weights of their attention."""
    c = model.config
    return (c.ffn_dropout, c.latent_dropout, c.attention_dropout) if model.training else (0.0, 0.0, 0.0)


def _seen(model: POCO, x: Tensor) -> Tensor:
    """The frames of the context that the model looks at."""
    seen = model.config.seen
    return x if seen == model.config.context else x[:, -seen:]


def _seed(dropout: float, device: torch.device) -> Tensor:
    """A fresh seed, if anything is dropped."""
    if dropout:
        return torch.randint(2**63 - 1, (), device=device)
    return torch.zeros((), dtype=torch.int64, device=device)


def _population(model: POCO, x: Tensor, unit_index: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The rows that pass 1 sees: all of them, or in training what unit dropout leaves."""
    hide = model.config.unit_dropout
    if not (model.training and hide and torch.rand(()) < _UNIT_DROPOUT_STEPS):
        return x, unit_index, offsets
    kept = torch.rand(x.shape[0], device=x.device) >= hide
    before = torch.cat([offsets.new_zeros(1), kept.cumsum(0, dtype=torch.int32)])
    return x[kept], unit_index[kept], before[offsets.long()]


# --- parameters -------------------------------------------------------------------------------------------------------


def parameters_in_order(model: POCO) -> list[Tensor]:
    """All parameters but embeddings and latents: :class:`poco.ops.parameters.ModelParameters` as a flat list."""
    own = parts(model)
    encoder, decoder = parts(own["encoder"]), parts(own["decoder"])
    ffn, film = cast("FeedForward", own["decoder_ffn"]), cast("Film", own["film"])
    return [
        *affine(own["token"]),
        *affine(encoder["context_norm"]),
        *affine(encoder["query_norm"]),
        weight(encoder["query"]),
        weight(encoder["key"]),
        *latent_parameters(model),
        affine(decoder["output"])[1],
        *affine(decoder["query_norm"]),
        *ffn.tensors(),
        *film.tensors(),
    ]


def latent_parameters(model: POCO) -> list[Tensor]:
    """Those between the passes: :class:`poco.ops.parameters.LatentParameters` as a flat list."""
    own = parts(model)
    encoder, decoder = parts(own["encoder"]), parts(own["decoder"])
    ffn = cast("FeedForward", own["encoder_ffn"])
    return [
        weight(encoder["value"]),
        *affine(encoder["output"]),
        *ffn.tensors(),
        *(tensor for layer in parts(own["layers"]).values() for tensor in cast("LatentLayer", layer).tensors()),
        *affine(decoder["context_norm"]),
        *(weight(decoder[name]) for name in ("key", "value", "query", "output")),
    ]


def film_parameters(model: POCO) -> FilmParameters:
    """Those of pass 2, the shift folded through the output."""
    decoder = model.decoder
    return FilmParameters(
        decoder.output.bias,
        decoder.query_norm.weight,
        decoder.query_norm.bias,
        *model.decoder_ffn.tensors(),
        *model.film.folded(model.config.seen),
    )
