// Matrix products on tiles that lie in the cache: C[i, j] (+)= sum_k A(i, k) B[k, j].
//
// Vectors run along j, single elements of A are broadcast. So A may have any strides (weights as they are, transposed
// or not; activations as they are or transposed), while B and C are read and written in whole vectors: their rows must
// have room for `columns` rounded up to vectors, whatever is there.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cpu/simd.h"

namespace poco {
namespace {

// The matrix A(i, k) = at[i * row + k * column].
struct Strided {
    const float* at;
    int64_t row;
    int64_t column;

    Strided from(int64_t i, int64_t k) const { return {at + i * row + k * column, row, column}; }
};

// What the product is added to.
enum class Onto {
    zero,
    bias,  // one value for each row of C
    c      // C as it is
};

// A register tile is kTileRows x kTileVectors accumulators; they, one row of B and a broadcast fill the registers.
constexpr int kTileRows = kVectorRegisters == 32 ? 8 : 4;
#if defined(__SSE2__) && !defined(__AVX2__)
constexpr int kTileVectors = 2;  // no fused multiply-add: the product needs a register of its own
#else
constexpr int kTileVectors = 3;
#endif
constexpr int kTileColumns = kTileVectors * kLanes;

// GCC leaves short loops over accumulators in loops, and so the accumulators in memory, unless told.
#if defined(__clang__)
#define POCO_UNROLL
#else
#define POCO_UNROLL _Pragma("GCC unroll 8")
#endif

template <int kRows, int kVectors, Onto kOnto>
inline __attribute__((always_inline)) void register_tile(int64_t inner, Strided a, const float* b, int64_t b_row,
                                                         const float* bias, float* c, int64_t c_row) {
    Vector sum[kRows][kVectors];
    POCO_UNROLL
    for (int i = 0; i < kRows; ++i) {
        POCO_UNROLL
        for (int v = 0; v < kVectors; ++v) {
            if (kOnto == Onto::c) {
                sum[i][v] = load(c + i * c_row + v * kLanes);
            } else {
                sum[i][v] = kOnto == Onto::bias ? broadcast(bias[i]) : Vector{};
            }
        }
    }
    for (int64_t k = 0; k < inner; ++k) {
        Vector line[kVectors];
        POCO_UNROLL
        for (int v = 0; v < kVectors; ++v) line[v] = load(b + k * b_row + v * kLanes);
        POCO_UNROLL
        for (int i = 0; i < kRows; ++i) {
            const Vector factor = broadcast(a.at[i * a.row + k * a.column]);
            POCO_UNROLL
            for (int v = 0; v < kVectors; ++v) sum[i][v] = fma(factor, line[v], sum[i][v]);
        }
    }
    POCO_UNROLL
    for (int i = 0; i < kRows; ++i) {
        POCO_UNROLL
        for (int v = 0; v < kVectors; ++v) store(c + i * c_row + v * kLanes, sum[i][v]);
    }
}

// kVectors vectors of columns of C, all rows.
template <int kVectors, Onto kOnto>
inline void column_band(int64_t rows, int64_t inner, Strided a, const float* b, int64_t b_row, float* c, int64_t c_row,
                        const float* bias) {
    int64_t i = 0;
    const auto take = [&](auto count) {
        register_tile<decltype(count)::value, kVectors, kOnto>(
            inner, a.from(i, 0), b, b_row, kOnto == Onto::bias ? bias + i : nullptr, c + i * c_row, c_row);
        i += decltype(count)::value;
    };
    while (rows - i >= kTileRows) take(std::integral_constant<int, kTileRows>{});
    if (kTileRows > 4 && rows - i >= 4) take(std::integral_constant<int, 4>{});
    if (rows - i >= 2) take(std::integral_constant<int, 2>{});
    if (rows - i >= 1) take(std::integral_constant<int, 1>{});
}

// C[rows, columns] (+)= A[rows, inner] B[inner, columns]. The kTileColumns columns of B in use should fit into the
// first-level cache; A is read once for each of these bands. Rows of B and C have room for whole vectors.
template <Onto kOnto>
inline void multiply(int64_t rows, int64_t inner, int64_t columns, Strided a, const float* b, int64_t b_row, float* c,
                     int64_t c_row, const float* bias = nullptr) {
    int64_t vectors = round_up(columns) / kLanes;
    for (; vectors >= kTileVectors; vectors -= kTileVectors, b += kTileColumns, c += kTileColumns) {
        column_band<kTileVectors, kOnto>(rows, inner, a, b, b_row, c, c_row, bias);
    }
    if (kTileVectors > 2 && vectors == 2) column_band<2, kOnto>(rows, inner, a, b, b_row, c, c_row, bias);
    if (vectors == 1) column_band<1, kOnto>(rows, inner, a, b, b_row, c, c_row, bias);
}

}  // namespace
}  // namespace poco
