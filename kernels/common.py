"""What several kernels share: blocks of matrices, layer normalisation, GELU, dropout, where a row's window is."""

# Triton reads these functions from their source: what they take are blocks, and annotations mean compile-time numbers.

from __future__ import annotations

import triton
import triton.language as tl

from poco.kernels import launch

PARTS = tl.constexpr(launch.PARTS)  # as kernels may read it


@triton.jit
def load_matrix(pointer, row, column, rows, columns, stride, WHOLE: tl.constexpr):
    """``[len(row), len(column)]`` of a matrix with rows ``stride`` apart, 0 outside ``rows`` by ``columns``.

    ``WHOLE`` promises that nothing is outside.
    """
    where = pointer + row[:, None] * stride + column[None, :]
    if WHOLE:
        return tl.load(where)
    return tl.load(where, mask=(row[:, None] < rows) & (column[None, :] < columns), other=0.0)


@triton.jit
def load_vector(pointer, index, count):
    """``[len(index)]`` in float32, 0 from ``count`` on."""
    return tl.load(pointer + index, mask=index < count, other=0.0).to(tl.float32)


@triton.jit
def store_matrix(pointer, value, row, column, rows, columns, stride):
    """The inverse of :func:`load_matrix`."""
    where = pointer + row[:, None] * stride + column[None, :]
    tl.store(where, value, mask=(row[:, None] < rows) & (column[None, :] < columns))


@triton.jit
def load_units(unit_table, unit_index, row, present, feature, d: tl.constexpr, WHOLE: tl.constexpr):
    """``[len(row), len(feature)]`` float32: the embedding of each row's unit, 0 where no row is present."""
    unit = tl.load(unit_index + row, mask=present, other=0).to(tl.int64)
    where = unit_table + unit[:, None] * d + feature[None, :]
    mask = present[:, None] if WHOLE else present[:, None] & (feature[None, :] < d)
    return tl.load(where, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def standardise(x, feature, eps, d: tl.constexpr):
    """Rows of ``x`` (0 from feature ``d`` on) with mean 0 and variance 1, and one over their standard deviation."""
    mean = tl.sum(x, 1) / d
    centred = tl.where(feature[None, :] < d, x - mean[:, None], 0.0)
    inverse_std = 1.0 / tl.sqrt(tl.sum(centred * centred, 1) / d + eps)
    return centred * inverse_std[:, None], inverse_std


@triton.jit
def standardise_backward(grad, standard, inverse_std, feature, d: tl.constexpr):
    """Gradient of what was standardised from that of the outcome; all are 0 from feature ``d`` on."""
    mean = tl.sum(grad, 1) / d
    along = tl.sum(grad * standard, 1) / d
    centred = tl.where(feature[None, :] < d, grad - mean[:, None], 0.0)
    return (centred - standard * along[:, None]) * inverse_std[:, None]


@triton.jit
def relu(x):
    """``max(x, 0)``, NaN where ``x`` is NaN."""
    return tl.maximum(x, 0.0, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def gelu(x):
    """The exact GELU."""
    return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def gelu_with_slope(x):
    """The exact GELU and its derivative."""
    share = 0.5 * (1.0 + tl.erf(x * 0.7071067811865476))
    return x * share, share + x * tl.exp(-0.5 * x * x) * 0.3989422804014327


@triton.jit
def dropout_factor(seed, row, first, threshold, scale, BLOCK_ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """``[BLOCK_ROWS, COLUMNS]`` of 0 and ``scale``: Philox 4x32-10 at (row, first + column), key ``seed``.

    ``first`` and ``COLUMNS`` are multiples of 4; an element is kept where its word is at least ``threshold``.
    """
    block = (first // 4 + tl.arange(0, COLUMNS // 4)).to(tl.uint32)
    c0 = tl.zeros([BLOCK_ROWS, COLUMNS // 4], tl.uint32) + block[None, :]
    c1 = tl.zeros([BLOCK_ROWS, COLUMNS // 4], tl.uint32) + row.to(tl.uint32)[:, None]
    nought = tl.zeros([BLOCK_ROWS, COLUMNS // 4], tl.uint32)
    w0, w1, w2, w3 = tl.philox(seed, c0, c1, nought, nought)
    words = tl.join(tl.join(w0, w2), tl.join(w1, w3))  # [row, block, half, odd]: word 2 half + odd
    words = tl.reshape(words, [BLOCK_ROWS, COLUMNS])
    return tl.where(words.to(tl.int64) >= threshold, scale, 0.0)


@triton.jit
def window_of(window_offsets, windows, row):
    """The window that a row belongs to: the last one that does not begin behind it."""
    low = 0
    high = windows
    while high - low > 1:
        middle = (low + high) // 2
        before = tl.load(window_offsets + middle) <= row
        low = tl.where(before, middle, low)
        high = tl.where(before, high, middle)
    return low


@triton.jit
def halves(x):
    """The first and the second half of the columns of ``x``."""
    ROWS: tl.constexpr = x.shape[0]
    COLUMNS: tl.constexpr = x.shape[1]
    return tl.split(tl.permute(tl.reshape(x, [ROWS, 2, COLUMNS // 2]), (0, 2, 1)))


@triton.jit
def product(left, right, PRECISION: tl.constexpr, total=None):
    """``left @ right``, on top of a total.

    Of factors in parts (:data:`poco.kernels.launch.PARTS`) one half of what is summed over comes after the other: all
    their parts at once would not fit the registers.
    """
    if PRECISION == PARTS and left.shape[1] >= 64:
        first, second = halves(left)
        first_right, second_right = halves(tl.trans(right))
        total = tl.dot(first, tl.trans(first_right), total, input_precision=PRECISION)
        return tl.dot(second, tl.trans(second_right), total, input_precision=PRECISION)
    return tl.dot(left, right, total, input_precision=PRECISION)
