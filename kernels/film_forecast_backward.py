"""Pass 2 backward: four kernels, one after another; their partial sums are added in a fixed order.

So the same inputs give the same gradients.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from poco.kernels import launch
from poco.kernels.film_backward_kernels import (
    film_backward_ffn_kernel,
    film_backward_film_kernel,
    film_backward_latents_kernel,
    film_backward_rows_kernel,
)
from poco.kernels.film_forecast import arguments, for_wide
from poco.kernels.film_wide_kernels import wide_film_ffn_kernel, wide_film_latents_kernel, wide_film_rows_kernel
from poco.kernels.tiles import tile
from poco.kernels.unit_sums import unit_sums
from poco.ops.parameters import FilmParameters
from poco.ops.precision import dense


def film_forecast_backward(grad: Tensor, *inputs: Any) -> list[Tensor | None]:
    """Pass 2 backward; see :func:`poco.ops.reference.film_forecast_backward`."""
    *forward, needs = inputs
    tensors, sizes = arguments(tuple(forward))
    with launch.on(tensors["x"], sizes):
        return _Backward(grad, tensors, sizes, needs[0], needs[1], any(needs[4:])).run()


class _Backward:
    """The tensors that the kernels share."""

    def __init__(
        self,
        grad: Tensor,
        tensors: dict[str, Tensor],
        sizes: dict[str, Any],
        needs_x: bool,
        needs_units: bool,
        needs_weights: bool,
    ) -> None:
        self.tensors, self.sizes = tensors, sizes
        self.needs_x, self.needs_units, self.needs_weights = needs_x, needs_units, needs_weights
        x = self.x = tensors["x"]
        self.grad = dense(grad, x.dtype)
        rows, width = x.shape[0], sizes["d"]
        self.grad_state = x.new_empty(rows, width)
        self.wide = launch.wide(x.dtype, width, sizes["Q"])
        if needs_weights or self.wide:
            self.normed, self.e, self.grad_e = (x.new_empty(rows, width) for _ in range(3))
        else:  # never touched
            self.normed = self.e = self.grad_e = self.grad_state

    def empty(self, *shape: int) -> Tensor:
        return self.x.new_empty(shape, dtype=torch.float32)

    def zeros(self, *shape: int) -> Tensor:
        return self.x.new_zeros(shape, dtype=torch.float32)

    def take(self, *names: str) -> dict[str, Any]:
        every = {**self.tensors, **self.sizes}
        return {name: every[name] for name in names}

    def run(self) -> list[Tensor | None]:
        grad_x, norm = self.rows()
        keys, values, vectors, shift_weight, shift_bias = self.latents()
        units = self.tensors["unit_table"].shape[0]
        of_units = unit_sums(self.grad_state, self.tensors["unit_index"], units) if self.needs_units else None
        if not self.needs_weights:
            return [grad_x, of_units, keys, values, *[None] * len(FilmParameters._fields)]
        # What is as large as all states is given up before partial sums are made that do not need it.
        del self.grad_state
        scale_weight, scale_bias, in_weight, in_bias, out_weight = self.film()
        del self.e
        ffn_in_weight, ffn_in_bias, ffn_out_weight = self.ffn()
        attention_bias, query_norm_weight, query_norm_bias, ffn_out_bias = vectors
        ffn_norm_weight, ffn_norm_bias = norm
        sums = FilmParameters(
            attention_bias,
            query_norm_weight,
            query_norm_bias,
            ffn_norm_weight,
            ffn_norm_bias,
            ffn_in_weight,
            ffn_in_bias,
            ffn_out_weight,
            ffn_out_bias,
            scale_weight,
            scale_bias,
            shift_weight,
            shift_bias,
            in_weight,
            in_bias,
            out_weight,
        )
        return [grad_x, of_units, keys, values, *sums]

    def rows(self) -> tuple[Tensor | None, Tensor]:
        rows, width = self.x.shape[0], self.sizes["d"]
        chosen = tile("film_forecast_backward", self.x, rows=rows, sizes=self.sizes)
        tiles = triton.cdiv(rows, chosen.blocks["BLOCK_R"])
        norm = self.empty(tiles, 2, width)
        grad_x = self.empty(rows, self.sizes["C"]) if self.needs_x else None
        if rows:
            given = {name: tensor for name, tensor in self.tensors.items() if name != "shift_bias"}
            given |= {"grad": self.grad, "kept_normed": self.normed, "kept_e": self.e, "kept_grad_e": self.grad_e}
            given |= {"grad_state": self.grad_state, "grad_x": self.grad_state if grad_x is None else grad_x}
            given |= {"part_norm": norm}
            if self.wide:
                blocks = {**for_wide(self.sizes), **chosen.blocks}
                wide_film_rows_kernel[(tiles,)](**given, **blocks, NEEDS_X=self.needs_x, **chosen.options)
            else:
                blocks = {**self.sizes, **chosen.blocks}
                needs = {"NEEDS_X": self.needs_x, "NEEDS_WEIGHTS": self.needs_weights}
                film_backward_rows_kernel[(tiles,)](**given, **blocks, **needs, **chosen.options)
        return grad_x, norm.sum(0)

    def latents(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        windows, latents, width = self.tensors["keys"].shape
        horizon, rows = self.sizes["H"], self.x.shape[0]
        chosen = tile("film_forecast_latents", self.x, rows=rows, sizes=self.sizes)
        parts = launch.splits(windows, rows, chosen.blocks["BLOCK_R"], 2 * launch.processors(self.x.device))
        matrices = self.zeros if self.wide else self.empty  # to add to, or to write
        keys, values = (matrices(windows, parts, latents, width) for _ in range(2))
        vectors = self.empty(windows, parts, 4, width)
        shift_weight, shift_bias = matrices(windows, parts, horizon, width), self.empty(windows, parts, horizon)
        names = ("unit_index", "window_offsets", "unit_table", "keys", "values", "query_norm_weight", "query_norm_bias")
        numbers = ("eps", "H", "Q", "d", "BLOCK_H", "BLOCK_Q", "BLOCK_D", "FACTOR", "PRECISION")
        if windows:
            given = {**self.take(*names, *numbers), "grad": self.grad, "kept_e": self.e, "kept_grad_e": self.grad_e}
            given |= {"grad_state": self.grad_state, "part_keys": keys, "part_values": values}
            given |= {"part_shift_weight": shift_weight, "part_vectors": vectors, "part_shift_bias": shift_bias}
            given |= {"parts": parts, "NEEDS_WEIGHTS": self.needs_weights, **chosen.blocks}
            if self.wide:
                query = self.empty(rows, width)
                wide_film_latents_kernel[(windows * parts,)](**for_wide(given), kept_query=query, **chosen.options)
            else:
                film_backward_latents_kernel[(windows * parts,)](**given, **chosen.options)
        return keys.sum(1), values.sum(1), vectors.sum((0, 1)), shift_weight.sum((0, 1)), shift_bias.sum((0, 1))

    def parts_of(self, columns: int, block_rows: int) -> int:
        """Into how many parts to cut the rows where so many programs take the columns."""
        tiles = triton.cdiv(self.x.shape[0], block_rows)
        return max(1, min(tiles, launch.processors(self.x.device) // max(1, columns)))

    def ffn(self) -> tuple[Tensor, Tensor, Tensor]:
        rows, hidden, width = self.x.shape[0], self.sizes["F"], self.sizes["d"]
        chosen = tile("film_forecast_ffn", self.x, rows=rows, sizes=self.sizes)
        columns = triton.cdiv(hidden, chosen.blocks["BLOCK_F"])
        parts = self.parts_of(columns, chosen.blocks["BLOCK_R"])
        in_weight, in_bias = self.empty(parts, 2 * hidden, width), self.empty(parts, 2 * hidden)
        out_weight = self.empty(parts, width, hidden)
        names = ("ffn_in_weight", "ffn_in_bias", "ffn_out_weight", "seed_pointer")
        numbers = ("rows", "threshold", "dropout_scale", "d", "F", "BLOCK_D", "DROPOUT", "FACTOR", "PRECISION")
        given = {**self.take(*names, *numbers), "kept_normed": self.normed, "kept_grad_e": self.grad_e}
        given |= {"part_in_weight": in_weight, "part_in_bias": in_bias, "part_out_weight": out_weight}
        given |= {"parts": parts, **chosen.blocks}
        if self.wide:
            wide_film_ffn_kernel[(columns * parts,)](**for_wide(given), **chosen.options)
        else:
            film_backward_ffn_kernel[(columns * parts,)](**given, **chosen.options)
        return in_weight.sum(0), in_bias.sum(0), out_weight.sum(0)

    def film(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        rows, film, width = self.x.shape[0], self.sizes["K"], self.sizes["d"]
        context, horizon = self.sizes["C"], self.sizes["H"]
        chosen = tile("film_forecast_film", self.x, rows=rows, sizes=self.sizes)
        columns = triton.cdiv(film, chosen.blocks["BLOCK_K"])
        parts = self.parts_of(columns, chosen.blocks["BLOCK_R"])
        scale_weight, in_weight = self.empty(parts, film, width), self.empty(parts, film, context)
        out_weight, bias = self.empty(parts, horizon, film), self.empty(parts, 2, film)
        names = ("x", "scale_weight", "scale_bias", "in_weight", "in_bias", "out_weight", "rows")
        numbers = ("C", "H", "d", "K", "BLOCK_C", "BLOCK_H", "BLOCK_D", "FACTOR", "PRECISION")
        if film:
            film_backward_film_kernel[(columns * parts,)](
                **self.take(*names, *numbers),
                grad=self.grad,
                kept_e=self.e,
                part_scale_weight=scale_weight,
                part_in_weight=in_weight,
                part_out_weight=out_weight,
                part_bias=bias,
                parts=parts,
                **chosen.blocks,
                **chosen.options,
            )
        scale_bias, in_bias = bias.sum(0)
        return scale_weight.sum(0), scale_bias, in_weight.sum(0), in_bias, out_weight.sum(0)
