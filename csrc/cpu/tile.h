// A tile: up to kTile rows taken through a pass together.
//
// What a tile holds of its rows lies feature by feature, `[features][kTile]`: lanes of a vector are rows. So no size
// but the number of rows needs a tail, what rows do on their own (normalisation, softmax, activation) never crosses
// lanes, a NaN stays in its row, and weights are read where they are, as the A of a product. `lanes` below is the
// number of rows in use, rounded up to whole vectors; those behind them hold anything.
#pragma once

#include "core/philox_kernel.h"
#include "cpu/gemm.h"

namespace poco {
namespace {

// From a feature to the next. With AMX there is room behind the three blocks of 64 rows of a tile
// (cpu/film_forecast.h): so every feature in bfloat16 begins on a cache line, an odd number of them from the one
// before, and a block does not lie in a part of the first-level cache alone.
#if defined(__AMX_BF16__)
constexpr int64_t kTile = 224;
#elif defined(__AVX512BF16__)
constexpr int64_t kTile = 96;
#else
constexpr int64_t kTile = 48;
#endif
static_assert(kTile % kLanes == 0, "whole vectors");

inline int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

inline int64_t larger(int64_t a, int64_t b) {
    return a < b ? b : a;
}

// How many threads so many parts are for: one at least, no more than wanted.
inline int threads_for(int wanted, int64_t parts) {
    return static_cast<int>(larger(1, smaller(wanted, parts)));
}

// Calls f(offset into the plane) for every vector of a plane [features][kTile].
template <typename F>
inline void for_vectors(int64_t features, int64_t lanes, const F& f) {
    for (int64_t i = 0; i < features; ++i) {
        for (int64_t lane = 0; lane < lanes; lane += kLanes) f(i * kTile + lane, i);
    }
}

// --- rows to lanes and back --------------------------------------------------------------------------------

// Words of 4 bytes: word j, i of `to` (its rows `to_bytes` apart) = word i, j of `from` for the 4 rows that `from`
// points to and 4 words of each from number `at` on. Rows of bfloat16 are words of two, and need not lie on whole
// words.
inline void transpose_4x4(const char* const (&from)[4], int64_t at, char* to, int64_t to_bytes) {
    QuarterVector a, b, c, d;
    std::memcpy(&a, from[0] + 4 * at, sizeof a);
    std::memcpy(&b, from[1] + 4 * at, sizeof b);
    std::memcpy(&c, from[2] + 4 * at, sizeof c);
    std::memcpy(&d, from[3] + 4 * at, sizeof d);
#if defined(__clang__)
    const auto low = [](QuarterVector p, QuarterVector q) { return __builtin_shufflevector(p, q, 0, 4, 1, 5); };
    const auto high = [](QuarterVector p, QuarterVector q) { return __builtin_shufflevector(p, q, 2, 6, 3, 7); };
#else
    typedef int32_t Order __attribute__((vector_size(16)));
    const auto low = [](QuarterVector p, QuarterVector q) { return __builtin_shuffle(p, q, Order{0, 4, 1, 5}); };
    const auto high = [](QuarterVector p, QuarterVector q) { return __builtin_shuffle(p, q, Order{2, 6, 3, 7}); };
#endif
    const QuarterVector ac = low(a, c), bd = low(b, d), ac2 = high(a, c), bd2 = high(b, d);
    const QuarterVector lines[4] = {low(ac, bd), high(ac, bd), low(ac2, bd2), high(ac2, bd2)};
    for (int i = 0; i < 4; ++i) std::memcpy(to + i * to_bytes, &lines[i], sizeof lines[i]);
}

// Word j, i of `to` = word j of row(i), for i < rows, j < columns; row(i) is an address.
template <typename Row>
inline void transpose_words(int64_t rows, int64_t columns, const Row& row, void* to, int64_t to_bytes) {
    char* const out = static_cast<char*>(to);
    const auto address = [&](int64_t i) { return reinterpret_cast<const char*>(row(i)); };
    int64_t i = 0;
    for (; i + 4 <= rows; i += 4) {
        const char* const four[4] = {address(i), address(i + 1), address(i + 2), address(i + 3)};
        int64_t j = 0;
        for (; j + 4 <= columns; j += 4) transpose_4x4(four, j, out + j * to_bytes + 4 * i, to_bytes);
        for (; j < columns; ++j) {
            for (int64_t k = 0; k < 4; ++k) std::memcpy(out + j * to_bytes + 4 * (i + k), four[k] + 4 * j, 4);
        }
    }
    for (; i < rows; ++i) {
        const char* const one = address(i);
        for (int64_t j = 0; j < columns; ++j) std::memcpy(out + j * to_bytes + 4 * i, one + 4 * j, 4);
    }
}

// to[j][i] = from[i][j] for i < rows, j < columns.
inline void transpose(int64_t rows, int64_t columns, const float* from, int64_t from_row, float* to, int64_t to_row) {
    transpose_words(rows, columns, [=](int64_t i) { return from + i * from_row; }, to, 4 * to_row);
}

// [rows, columns] of lines `row` apart; nullptr is not wanted.
inline void copy_lines(int64_t rows, int64_t columns, const float* from, int64_t row, float* to) {
    if (to == nullptr) return;
    for (int64_t i = 0; i < rows; ++i) {
        std::memcpy(to + i * columns, from + i * row, static_cast<size_t>(columns) * sizeof(float));
    }
}

inline void clear_plane(int64_t features, float* plane) {
    std::memset(plane, 0, static_cast<size_t>(features * kTile) * sizeof(float));
}

// 0 in the lanes behind the last row, and in the whole vector that holds that row.
inline void clear_lanes_behind(int64_t rows, int64_t features, float* plane) {
    if (rows % kLanes == 0) return;
    for (int64_t i = 0; i < features; ++i) store(plane + i * kTile + rows / kLanes * kLanes, Vector{});
}

// The plane of rows that row(i) points to.
template <typename Row>
inline void to_plane(int64_t rows, int64_t features, const float*, const Row& row, float* plane) {
    clear_lanes_behind(rows, features, plane);
    transpose_words(rows, features, row, plane, 4 * kTile);
}

template <typename Row>
inline void to_plane(int64_t rows, int64_t features, const Bfloat16*, const Row& row, float* plane) {
    clear_lanes_behind(rows, features, plane);
    transpose_words(rows, features / 2, row, plane, 4 * kTile);
    for (int64_t i = features / 2 - 1; i >= 0; --i) {  // in place, so the last pair first
        for (int64_t lane = 0; lane < round_up(rows); lane += kLanes) {
            const WordVector pair = bits_as<WordVector>(load(plane + i * kTile + lane));
            store(plane + 2 * i * kTile + lane, bits_as<Vector>(pair << 16));
            store(plane + (2 * i + 1) * kTile + lane, bits_as<Vector>(pair & 0xffff0000u));
        }
    }
    if (features % 2 == 0) return;
    for (int64_t i = 0; i < rows; ++i) plane[(features - 1) * kTile + i] = to_float(row(i)[features - 1]);
}

// plane[feature][row] of dense rows [rows, features]; 0 in the lanes behind them.
template <typename T>
inline void rows_to_plane(int64_t rows, int64_t features, const T* from, float* plane) {
    to_plane(rows, features, from, [=](int64_t i) { return from + i * features; }, plane);
}

// The same for rows of a table, picked by index.
template <typename T>
inline void gather_to_plane(int64_t rows, int64_t features, const T* table, const int32_t* index, float* plane) {
    to_plane(rows, features, table, [=](int64_t i) { return table + index[i] * features; }, plane);
}

// Rows [rows, features], `row` apart.
inline void plane_to_rows(int64_t rows, int64_t features, const float* plane, float* to, int64_t row) {
    transpose(features, rows, plane, kTile, to, row);
}

// Dense rows [rows, features]; the plane is used up.
inline void finish_plane(int64_t rows, int64_t features, float* plane, float* to) {
    plane_to_rows(rows, features, plane, to, features);
}

inline void finish_plane(int64_t rows, int64_t features, float* plane, Bfloat16* to) {
    for (int64_t i = 0; i < features / 2; ++i) {
        for (int64_t lane = 0; lane < round_up(rows); lane += kLanes) {
            const Vector low = load(plane + 2 * i * kTile + lane), high = load(plane + (2 * i + 1) * kTile + lane);
            store(plane + i * kTile + lane, bits_as<Vector>(to_pairs(low, high)));
        }
    }
    transpose_words(features / 2, rows, [=](int64_t i) { return plane + i * kTile; }, to, 2 * features);
    if (features % 2 == 0) return;
    for (int64_t i = 0; i < rows; ++i) to[(i + 1) * features - 1] = to_bfloat16(plane[(features - 1) * kTile + i]);
}

// --- sums over rows ----------------------------------------------------------------------------------------

// Of a feature, or of it times another.
inline float sum_lanes(int64_t lanes, const float* feature, const float* other = nullptr) {
    Vector total = {};
    for (int64_t at = 0; at < lanes; at += kLanes) {
        total += other == nullptr ? load(feature + at) : load(feature + at) * load(other + at);
    }
    return sum(total);
}

// --- what every row does on its own ------------------------------------------------------------------------

// Rows with mean 0 and variance 1, and one over their standard deviation.
inline void standardise(int64_t features, int64_t lanes, float eps, const float* from, float* standard,
                        float* inverse_std) {
    const float share = 1.0f / static_cast<float>(features);
    for (int64_t lane = 0; lane < lanes; lane += kLanes) {
        Vector mean = {};
        for (int64_t i = 0; i < features; ++i) mean += load(from + i * kTile + lane);
        mean *= share;
        Vector variance = {};
        for (int64_t i = 0; i < features; ++i) {
            const Vector centred = load(from + i * kTile + lane) - mean;
            variance = fma(centred, centred, variance);
        }
        const Vector inverse = 1.0f / sqrt(variance * share + eps);
        for (int64_t i = 0; i < features; ++i) {
            store(standard + i * kTile + lane, (load(from + i * kTile + lane) - mean) * inverse);
        }
        store(inverse_std + lane, inverse);
    }
}

// Adds to `onto` the gradient of the layer normalisation's input; `grad` is that of its output.
inline void standardise_backward(int64_t features, int64_t lanes, const float* grad, const float* standard,
                                 const float* inverse_std, const float* weight, float* onto) {
    const float share = 1.0f / static_cast<float>(features);
    for (int64_t lane = 0; lane < lanes; lane += kLanes) {
        Vector mean = {};
        Vector along = {};
        for (int64_t i = 0; i < features; ++i) {
            const Vector g = load(grad + i * kTile + lane) * weight[i];
            mean += g;
            along = fma(g, load(standard + i * kTile + lane), along);
        }
        mean *= share;
        along *= share;
        const Vector inverse = load(inverse_std + lane);
        for (int64_t i = 0; i < features; ++i) {
            const int64_t at = i * kTile + lane;
            const Vector g = fma(load(grad + at), broadcast(weight[i]), -mean);
            store(onto + at, fma(fma(-along, load(standard + at), g), inverse, load(onto + at)));
        }
    }
}

// Softmax of each row over the features, in place.
inline void softmax(int64_t features, int64_t lanes, float* plane) {
    for (int64_t lane = 0; lane < lanes; lane += kLanes) {
        Vector top = broadcast(-__builtin_inff());
        for (int64_t i = 0; i < features; ++i) top = max(top, load(plane + i * kTile + lane));
        Vector total = {};
        for (int64_t i = 0; i < features; ++i) {
            const Vector e = exp(load(plane + i * kTile + lane) - top);
            store(plane + i * kTile + lane, e);
            total += e;
        }
        const Vector share = 1.0f / total;
        for (int64_t i = 0; i < features; ++i) {
            store(plane + i * kTile + lane, load(plane + i * kTile + lane) * share);
        }
    }
}

// Turns the gradients of the weights that softmax() made into those of what it was given.
inline void softmax_backward(int64_t features, int64_t lanes, const float* weights, float* grad) {
    for (int64_t lane = 0; lane < lanes; lane += kLanes) {
        Vector mean = {};
        for (int64_t i = 0; i < features; ++i) {
            mean = fma(load(weights + i * kTile + lane), load(grad + i * kTile + lane), mean);
        }
        for (int64_t i = 0; i < features; ++i) {
            const int64_t at = i * kTile + lane;
            store(grad + at, load(weights + at) * (load(grad + at) - mean));
        }
    }
}

// A hidden value of a gated layer, and what its gradients are made of: value * gelu(gate), gelu(gate) and value *
// gelu'(gate), all three times the dropout at `mask`, unless that is nullptr.
inline void gate_value(Vector value, Vector gate, const float* mask, Vector* made) {
    Vector activation, slope;
    gelu_and_slope(gate, activation, slope);
    if (mask != nullptr) {
        activation *= load(mask);
        slope *= load(mask);
    }
    made[0] = activation * value;
    made[1] = activation;
    made[2] = slope * value;
}

// --- dropout -----------------------------------------------------------------------------------------------

typedef uint64_t LongVector __attribute__((vector_size(kVectorBytes)));

// Products of the even words, 64 bits each.
inline LongVector multiply_even(WordVector a, WordVector b) {
#if defined(__AVX512F__)
    return bits_as<LongVector>(_mm512_maskz_mul_epu32(0xff, bits_as<__m512i>(a), bits_as<__m512i>(b)));
#elif defined(__AVX2__)
    return bits_as<LongVector>(_mm256_mul_epu32(bits_as<__m256i>(a), bits_as<__m256i>(b)));
#elif defined(__SSE2__)
    return bits_as<LongVector>(_mm_mul_epu32(bits_as<__m128i>(a), bits_as<__m128i>(b)));
#elif defined(__aarch64__)
    return bits_as<LongVector>(vmull_u32(vmovn_u64(bits_as<uint64x2_t>(a)), vmovn_u64(bits_as<uint64x2_t>(b))));
#else
    return (bits_as<LongVector>(a) & 0xffffffffu) * (bits_as<LongVector>(b) & 0xffffffffu);
#endif
}

// Low and high halves of the products of all words by one number.
inline void multiply_words(WordVector a, uint32_t by, WordVector& low, WordVector& high) {
    const LongVector even = multiply_even(a, broadcast(by));
    const LongVector odd = multiply_even(bits_as<WordVector>(bits_as<LongVector>(a) >> 32), broadcast(by));
    const LongVector upper = LongVector{} + 0xffffffff00000000u;
    low = bits_as<WordVector>((even & ~upper) | (odd << 32));
    high = bits_as<WordVector>((even >> 32) | (odd & upper));
}

// The shared random numbers of core/philox.h, a row to a lane.
struct Dropout {
    uint64_t seed;
    uint64_t threshold;  // of core/philox.h: 2^32 drops all
    float scale;         // of what is kept

    // mask [count][kTile] of rows first_row, ... and columns first_column (a multiple of 4), ...
    void fill(int64_t first_row, int64_t lanes, int64_t first_column, int64_t count, float* mask) const {
        for (int64_t column = 0; column < count; column += 4) {
            for (int64_t lane = 0; lane < lanes; lane += kLanes) {
                WordVector word[4] = {broadcast(static_cast<uint32_t>((first_column + column) / 4)),
                                      bits_as<WordVector>(lane_numbers()) + static_cast<uint32_t>(first_row + lane),
                                      {},
                                      {}};
                rounds(word);
                for (int64_t i = 0; i < 4 && column + i < count; ++i) {
                    store(mask + (column + i) * kTile + lane, keep(word[i]) ? broadcast(scale) : Vector{});
                }
            }
        }
    }

private:
    IntVector keep(WordVector word) const {
        if (threshold > 0xffffffffu) return IntVector{};
        return word >= broadcast(static_cast<uint32_t>(threshold));
    }

    void rounds(WordVector (&word)[4]) const {
        uint32_t key0 = static_cast<uint32_t>(seed);
        uint32_t key1 = static_cast<uint32_t>(seed >> 32);
        for (int round = 0; round < kRounds; ++round) {
            WordVector low0, high0, low1, high1;
            multiply_words(word[0], kMultiplier0, low0, high0);
            multiply_words(word[2], kMultiplier1, low1, high1);
            word[0] = high1 ^ word[1] ^ key0;
            word[1] = low1;
            word[2] = high0 ^ word[3] ^ key1;
            word[3] = low0;
            key0 += kKeyStep0;
            key1 += kKeyStep1;
        }
    }
};

}  // namespace
}  // namespace poco
