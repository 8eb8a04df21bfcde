// Rows of tokens, one token after another: as floats, or as what products multiply. They have room for whole vectors.
#pragma once

#include "cpu/operands.h"
#include "cpu/token_products.h"

namespace poco {
namespace {

template <typename T>
inline Activation<T>* activations(Pieces& pieces, int64_t count) {
    return reinterpret_cast<Activation<T>*>(pieces.floats(count));
}

template <typename T>
inline void widen_rows(int64_t tokens, int64_t columns, const T* from, float* to, int64_t to_row) {
    for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t j = 0; j < to_row; j += kLanes) {
            const T* at = from + t * columns + j;
            const int64_t count = columns - j;
            store(to + t * to_row + j, count > 0 ? load_at_most(at, count) : Vector{});
        }
    }
}

// Layer normalisation of rows of floats; all rows are `row` apart, and behind `columns` there are zeros.
template <typename T>
inline void normalise_tokens(int64_t tokens, int64_t columns, float eps, const float* from, const T* weight,
                             const T* bias, Activation<T>* to, int64_t row) {
    const float share = 1.0f / static_cast<float>(columns);
    const int64_t whole = columns / kLanes * kLanes;
    const IntVector in_tail = lanes_between(0, columns - whole);
    for (int64_t t = 0; t < tokens; ++t, from += row, to += row) {
        Vector total = {};
        for (int64_t j = 0; j < columns; j += kLanes) total += load(from + j);
        const Vector mean = broadcast(sum(total) * share);
        Vector squares = {};
        for (int64_t j = 0; j < columns; j += kLanes) {
            const Vector off = load(from + j) - mean;
            const Vector centred = j < whole || !(columns % kLanes) ? off : (in_tail ? off : Vector{});
            squares = fma(centred, centred, squares);
        }
        const float scale = 1.0f / __builtin_sqrtf(sum(squares) * share + eps);
        for (int64_t j = 0; j < row; j += kLanes) {
            const int64_t count = columns - j;
            Vector one = {};
            if (count > 0) {
                const Vector w = load_at_most(weight + j, count), b = load_at_most(bias + j, count);
                one = fma((load(from + j) - mean) * scale, w, b);
            }
            put(to + j, one, kLanes);
        }
    }
}

// y[t, i] = <weights[i], x[t]>, into rows of floats that have room for whole vectors, 0 behind their end.
template <typename T>
inline void project(int64_t rows, int64_t inner, const T* weights, int64_t tokens, const Activation<T>* x,
                    int64_t x_row, float* y, int64_t y_row) {
    for (int64_t t = 0; t < tokens && rows < y_row; ++t) {
        for (int64_t i = rows / kLanes * kLanes; i < y_row; i += kLanes) store(y + t * y_row + i, Vector{});
    }
    multiply_tokens<T>(rows, inner, weights, inner, tokens, x, x_row, nullptr,
                       [=](int64_t t, int64_t i, QuarterVector v) { store_quarter(y + t * y_row + i, v); });
}

// What to do with a product that is added to rows of floats.
inline auto add_to(float* state, int64_t row) {
    return [=](int64_t t, int64_t i, QuarterVector v) {
        float* at = state + t * row + i;
        store_quarter(at, load_quarter(at) + v);
    };
}

// Softmax over the rows of [rows, columns], in place; rows have room for whole vectors.
inline void softmax_down(int64_t rows, int64_t columns, float* scores, int64_t row) {
    for (int64_t j = 0; j < columns; j += kLanes) {
        Vector top = broadcast(-__builtin_inff());
        for (int64_t i = 0; i < rows; ++i) top = max(load(scores + i * row + j), top);
        Vector total = {};
        for (int64_t i = 0; i < rows; ++i) {
            const Vector e = exp(load(scores + i * row + j) - top);
            store(scores + i * row + j, e);
            total += e;
        }
        const Vector share = 1.0f / total;
        for (int64_t i = 0; i < rows; ++i) store(scores + i * row + j, load(scores + i * row + j) * share);
    }
}

}  // namespace
}  // namespace poco
