// Products of large weights with a few tokens: y(t, i) = sum_k w[i, k] x[t, k].
//
// With a few tokens moving the weights is the work. So they are read once, as they are stored and in their order:
// vectors run along k, four rows of weights meet a few tokens in registers, and what the lanes hold is added up at the
// end. A sum does not depend on which tokens and rows it is made with.
#pragma once

#include <cstddef>
#include <utility>

#include "cpu/gemm.h"
#include "cpu/tile.h"

namespace poco {
namespace {

constexpr int kRowsAtOnce = 4;
constexpr int kFetchRows = 8;              // how far ahead of their use weights are asked for
constexpr int kTokensAtOnce = kLanes / 4;  // so that the sums of a tile make one vector

// How weights of type T are multiplied: what they are multiplied with, how many at a time, and by which instructions.
// This one is float32 arithmetic, to which bfloat16 is widened.
template <typename T>
struct Product {
    using Activation = float;
    using Part = Vector;
    static constexpr int64_t kStep = kLanes;

    static Part weights(const T* from) { return load(from); }
    static Part some_weights(const T* from, int64_t count) { return load_some(from, count); }
    static Part activations(const float* from) { return load(from); }
    static Vector add(Vector sum, Part w, Part x) { return fma(w, x, sum); }
};

// Stores the first `count` lanes.
inline void put(float* to, Vector v, int64_t count) {
    store_at_most(to, v, count);
}

#if defined(__AVX512BF16__)

template <>
struct Product<Bfloat16> {
    using Activation = Bfloat16;
    using Part = __m512bh;
    static constexpr int64_t kStep = 2 * kLanes;

    static Part weights(const Bfloat16* from) {
        Part part;
        std::memcpy(&part, from, sizeof part);
        return part;
    }
    static Part some_weights(const Bfloat16* from, int64_t count) {
        Part part = {};
        std::memcpy(&part, from, static_cast<size_t>(count) * sizeof(Bfloat16));
        return part;
    }
    static Part activations(const Bfloat16* from) { return weights(from); }
    static Vector add(Vector sum, Part w, Part x) { return _mm512_dpbf16_ps(sum, w, x); }
};

inline void put(Bfloat16* to, Vector v, int64_t count) {
    const __m256bh half = _mm512_cvtneps_pbh(v);
    std::memcpy(to, &half, static_cast<size_t>(smaller(count, kLanes)) * sizeof(Bfloat16));
}

#else

inline void put(Bfloat16* to, Vector v, int64_t count) {
    for (int64_t i = 0; i < smaller(count, kLanes); ++i) to[i] = to_bfloat16(v[i]);
}

#endif

template <typename T>
using Activation = typename Product<T>::Activation;

// Rows of activations have room for whole steps, and zeros behind their end.
template <typename T>
constexpr int64_t row_of(int64_t columns) {
    return round_up(columns, Product<T>::kStep);
}

// In every block of kBlock lanes: the lower half is a's two halves added up, the upper half b's.
template <int kBlock, size_t... kLane>
inline Vector fold(Vector a, Vector b, std::index_sequence<kLane...>) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, (kLane % kBlock < kBlock / 2 ? kLane : kLanes + kLane - kBlock / 2)...) +
           __builtin_shufflevector(a, b, (kLane % kBlock < kBlock / 2 ? kLane + kBlock / 2 : kLanes + kLane)...);
#else
    return __builtin_shuffle(a, b, IntVector{(kLane % kBlock < kBlock / 2 ? kLane : kLanes + kLane - kBlock / 2)...}) +
           __builtin_shuffle(a, b, IntVector{(kLane % kBlock < kBlock / 2 ? kLane + kBlock / 2 : kLanes + kLane)...});
#endif
}

// Lane i of the result is the sum of all lanes of part[i].
template <int kBlock = kLanes>
inline __attribute__((always_inline)) Vector sums_of(Vector (&part)[kLanes]) {
    POCO_UNROLL
    for (int i = 0; i < kBlock / 2; ++i) {
        part[i] = fold<kBlock>(part[i], part[i + kBlock / 2], std::make_index_sequence<kLanes>());
    }
    if constexpr (kBlock > 2) {
        return sums_of<kBlock / 2>(part);
    } else {
        return part[0];
    }
}

// Asks the memory for what is `ahead` elements on; that may be behind the end of the array.
template <typename T>
inline void fetch(const T* at, int64_t ahead) {
    const uintptr_t address = reinterpret_cast<uintptr_t>(at) + static_cast<uintptr_t>(ahead) * sizeof(T);
    __builtin_prefetch(reinterpret_cast<const void*>(address));
}

// Lane t * kRowsAtOnce + r of the result is <weight[r], token[t]>. kFetch: also asks for the weights `ahead` of these.
template <typename T, bool kFetch>
inline __attribute__((always_inline)) Vector product_tile(int64_t inner, int64_t ahead,
                                                          const T* const (&weight)[kRowsAtOnce],
                                                          const Activation<T>* const (&token)[kTokensAtOnce]) {
    using Part = typename Product<T>::Part;
    constexpr int64_t step = Product<T>::kStep;
    Vector sum[kLanes] = {};
    const auto take = [&](int64_t k, const Part(&w)[kRowsAtOnce]) __attribute__((always_inline)) {
        POCO_UNROLL
        for (int t = 0; t < kTokensAtOnce; ++t) {
            const Part x = Product<T>::activations(token[t] + k);
            POCO_UNROLL
            for (int r = 0; r < kRowsAtOnce; ++r) {
                sum[t * kRowsAtOnce + r] = Product<T>::add(sum[t * kRowsAtOnce + r], w[r], x);
            }
        }
    };
    int64_t k = 0;
    for (; k + step <= inner; k += step) {
        const Part w[kRowsAtOnce] = {Product<T>::weights(weight[0] + k), Product<T>::weights(weight[1] + k),
                                     Product<T>::weights(weight[2] + k), Product<T>::weights(weight[3] + k)};
        if constexpr (kFetch) {
            POCO_UNROLL
            for (int r = 0; r < kRowsAtOnce; ++r) fetch(weight[r] + k, ahead);
        }
        take(k, w);
    }
    if (k < inner) {
        Part w[kRowsAtOnce];
        for (int r = 0; r < kRowsAtOnce; ++r) w[r] = Product<T>::some_weights(weight[r] + k, inner - k);
        take(k, w);
    }
    return sums_of(sum);
}

// The first `count` of four numbers, 0 behind them.
inline QuarterVector load_quarter(const float* from, int64_t count = kRowsAtOnce) {
    QuarterVector v = {};
    if (count == kRowsAtOnce) {
        std::memcpy(&v, from, sizeof v);
    } else {
        for (int64_t i = 0; i < count; ++i) v[i] = from[i];
    }
    return v;
}

inline QuarterVector load_quarter(const Bfloat16* from, int64_t count = kRowsAtOnce) {
    float wide[kRowsAtOnce] = {};
    for (int64_t i = 0; i < count; ++i) wide[i] = to_float(from[i]);
    return load_quarter(wide);
}

inline void store_quarter(float* to, QuarterVector v) {
    std::memcpy(to, &v, sizeof v);
}

// Calls put(t, i, y(t, i .. i + 3)) for weights [rows, inner], whose rows lie `weight_row` apart, and tokens
// [tokens, inner], `token_row` apart; behind the last row y is 0. `bias` [rows] is added, unless it is nullptr.
template <typename T, typename F>
inline void multiply_tokens(int64_t rows, int64_t inner, const T* weights, int64_t weight_row, int64_t tokens,
                            const Activation<T>* x, int64_t token_row, const T* bias, const F& put) {
    const int64_t ahead = kFetchRows * weight_row;
    for (int64_t i = 0; i < rows; i += kRowsAtOnce) {
        const int64_t count = smaller(kRowsAtOnce, rows - i);
        const T* weight[kRowsAtOnce];
        for (int64_t r = 0; r < kRowsAtOnce; ++r) weight[r] = weights + (i + smaller(r, count - 1)) * weight_row;
        const QuarterVector onto = bias == nullptr ? QuarterVector{} : load_quarter(bias + i, count);
        for (int64_t t = 0; t < tokens; t += kTokensAtOnce) {
            const Activation<T>* token[kTokensAtOnce];
            for (int64_t n = 0; n < kTokensAtOnce; ++n) token[n] = x + smaller(t + n, tokens - 1) * token_row;
            const Vector sums = t == 0 ? product_tile<T, true>(inner, ahead, weight, token)
                                       : product_tile<T, false>(inner, ahead, weight, token);
            QuarterVector part[kTokensAtOnce];
            std::memcpy(part, &sums, sizeof sums);
            if (count < kRowsAtOnce) {
                for (int64_t n = 0; n < kTokensAtOnce; ++n) {
                    for (int64_t r = count; r < kRowsAtOnce; ++r) part[n][r] = 0;
                }
            }
            for (int64_t n = 0; n < smaller(kTokensAtOnce, tokens - t); ++n) put(t + n, i, part[n] + onto);
        }
    }
}

// to[t, j] = scale * sum_k x[t, k] w[k, j]: the weights the other way round, here along the vectors.
template <typename T>
inline void multiply_tokens_transposed(int64_t inner, int64_t columns, const T* weights, int64_t tokens, const float* x,
                                       int64_t token_row, float scale, T* to) {
    constexpr int64_t at_once = 8;
    for (int64_t j = 0; j < columns; j += kLanes) {
        const int64_t count = smaller(kLanes, columns - j);
        for (int64_t t = 0; t < tokens; t += at_once) {
            const float* token[at_once];
            for (int64_t n = 0; n < at_once; ++n) token[n] = x + smaller(t + n, tokens - 1) * token_row;
            Vector sum[at_once] = {};
            for (int64_t k = 0; k < inner; ++k) {
                const T* from = weights + k * columns + j;
                const Vector w = load_at_most(from, count);
                POCO_UNROLL
                for (int64_t n = 0; n < at_once; ++n) sum[n] = fma(broadcast(token[n][k]), w, sum[n]);
            }
            for (int64_t n = 0; n < smaller(at_once, tokens - t); ++n) {
                put(to + (t + n) * columns + j, sum[n] * scale, count);
            }
        }
    }
}

// Rows of floats as activations, 0 behind their end.
template <typename A>
inline void to_activations(int64_t tokens, int64_t columns, const float* from, int64_t from_row, A* to,
                           int64_t to_row) {
    for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t j = 0; j < to_row; j += kLanes) {
            const float* at = from + t * from_row + j;
            const int64_t count = columns - j;
            const Vector v = count > 0 ? load_at_most(at, count) : Vector{};
            put(to + t * to_row + j, v, kLanes);
        }
    }
}

}  // namespace
}  // namespace poco
