"""Work of a case, counted from the formulas of the two passes: the least that gives the answer, whoever computes it.

FLOPs are those of matrix products (an addition and a multiplication are two); bytes are what must cross the memory bus
once in each pass: activity, embeddings, forecasts and their gradients. The whole model counts both passes, as pass 2
cannot begin before pass 1 has read every unit; of a population that stays in the caches this is more than the least.
Recomputation is an implementation's own affair, not counted.
"""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.cases import ADAPTATION, Case
from poco import POCOConfig

_OPTIMISER_BYTES = 9 * 4  # AdamW with amsgrad: reads value, gradient and three moments, writes value and moments


@dataclass(frozen=True)
class Work:
    """Floating-point operations and bytes."""

    flops: float
    bytes: float


@dataclass(frozen=True)
class _Product:
    """A matrix product: its FLOPs, and whether its left and right factor want a gradient in training, in adaptation."""

    flops: float
    training: int = 2
    adaptation: int = 1

    def of(self, case: Case) -> float:
        passes = 1
        if case.gradients:
            passes += self.adaptation if case.mode == ADAPTATION else self.training
        return passes * self.flops


def _pool_row(c: POCOConfig) -> list[_Product]:
    """Pass 1, one unit of one window: tokens (activity wants no gradient), scores, weighted sums."""
    attention = 2 * c.segments * c.latents * c.width
    # In adaptation the learned latents stay, and with them the queries.
    return [_Product(2 * c.context * c.width, 1, 0), _Product(attention, 2, 1), _Product(attention, 2, 2)]


def _film_row(c: POCOConfig) -> list[_Product]:
    """Pass 2, one unit of one window."""
    attention = 2 * c.latents * c.width
    return [
        _Product(attention, 2, 2),
        _Product(attention, 2, 2),
        _Product(6 * c.width * c.hidden),  # feed-forward
        _Product(2 * c.film_width * c.width),  # scale
        _Product(2 * c.horizon * c.width),  # shift, folded through the output
        _Product(2 * c.film_width * c.context, 1, 0),  # in: activity wants no gradient
        _Product(2 * c.film_width * c.horizon),  # out
    ]


def _latent_window(c: POCOConfig) -> list[_Product]:
    """The transformer of one window's latents."""
    inner = c.heads * c.head_width
    layer = [2 * c.width * 3 * inner * c.latents, 2 * inner * c.width * c.latents, 6 * c.width * c.hidden * c.latents]
    scores = [_Product(2 * c.latents**2 * inner, 2, 2)] * 2
    return [_Product(6 * c.width * c.hidden * c.latents)] + c.layers * ([_Product(flops) for flops in layer] + scores)


def _absorbed_window(c: POCOConfig, pool: bool) -> list[_Product]:
    """What stands around a pass, for one window: queries and values read back, or keys and values."""
    projection = 2 * c.latents * c.width * c.head_width
    return [_Product(projection)] * (2 * (c.segments + 1) if pool else 4)


def work(case: Case, c: POCOConfig, element_bytes: int, parameters: int) -> Work:
    """FLOPs and bytes of a case in a precision of ``element_bytes`` for a model of so many parameters."""
    rows = case.windows * case.units
    row: list[_Product] = []
    window: list[_Product] = []
    forward_bytes = backward_bytes = 0.0
    table = case.units * c.width
    if case.part in ("latent_pool", "model"):
        row += _pool_row(c)
        window += _absorbed_window(c, pool=True)
        forward_bytes += element_bytes * (rows * c.context + table)
        backward_bytes += element_bytes * (rows * c.context + table) + 4 * table
    if case.part in ("film_forecast", "model"):
        row += _film_row(c)
        window += _absorbed_window(c, pool=False)
        forward_bytes += element_bytes * (rows * (c.context + c.horizon) + table)
        backward_bytes += element_bytes * (rows * (c.context + c.horizon) + table) + 4 * table
    if case.part == "model":
        window += _latent_window(c)
    flops = rows * sum(product.of(case) for product in row) + case.windows * sum(p.of(case) for p in window)
    fitted = table + c.width if case.mode == ADAPTATION else parameters
    moved = forward_bytes + (backward_bytes if case.gradients else 0)
    return Work(flops, moved + (_OPTIMISER_BYTES * fitted if case.steps else 0))


def held_bytes(form: str, case: Case, c: POCOConfig) -> float:
    """Roughly what a form holds at its peak in eager float32: to skip what cannot fit, not to compare."""
    if form == "poco":
        return 0.0
    rows = case.windows * case.units
    tokens, heads = c.segments * c.width, c.segments * 2 * c.head_width
    if form == "published":
        pool, film = 2 * tokens + 3 * heads, 4 * c.film_width + 4 * c.width
        if case.gradients:
            pool, film = 3 * tokens + 5 * heads, 6 * c.film_width + 5 * c.hidden + 10 * c.width
    else:  # the reference of the two passes takes pass 2 a block of rows at a time, and holds nothing for the gradients
        pool, film = 5 * tokens, 6 * c.width
        if case.gradients:
            pool, film = 9 * tokens, 10 * c.width
    whole = pool + film if case.gradients and form == "published" else max(pool, film)
    return 4.0 * rows * {"latent_pool": pool, "film_forecast": film, "model": whole}[case.part]
