// Products of bfloat16 matrices with sums in float32: C[i, j] (+)= sum_k A(i, k) B(k, j). Only for files that are
// compiled for AVX512-BF16; those compiled for AMX do whole blocks of 16 x 16 with its tiles.
//
// A lies in rows as weights do. B lies in pairs of its rows: word [k / 2][j] holds (k, j) in its low half and (k + 1,
// j) in its high half, as both vdpbf16ps and tdpbf16ps take it. If `inner` is odd, the last pair's high half is 0 and A
// has a finite number behind the end of its row. Both instructions take subnormal numbers for 0.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cpu/bfloat16.h"
#include "cpu/gemm.h"

namespace poco {
namespace {

static_assert(kLanes == 16, "this file is for AVX-512");

// The matrix A(i, k) = at[i * row + k]; `row` is even.
struct BfloatRows {
    const Bfloat16* at;
    int64_t row;

    BfloatRows from(int64_t i, int64_t k) const { return {at + i * row + k, row}; }
};

// The pair at `at` in all lanes.
inline __m512bh broadcast_pair(const Bfloat16* at) {
    uint32_t pair;
    std::memcpy(&pair, at, sizeof pair);
    return bits_as<__m512bh>(broadcast(pair));
}

inline __m512bh load_pairs(const uint32_t* from) {
    __m512bh pairs;
    std::memcpy(&pairs, from, sizeof pairs);
    return pairs;
}

template <int kRows, int kVectors, Onto kOnto>
inline __attribute__((always_inline)) void bfloat_register_tile(int64_t pairs, BfloatRows a, const uint32_t* b,
                                                                int64_t b_row, const float* bias, float* c,
                                                                int64_t c_row) {
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
    for (int64_t k = 0; k < pairs; ++k) {
        __m512bh line[kVectors];
        POCO_UNROLL
        for (int v = 0; v < kVectors; ++v) line[v] = load_pairs(b + k * b_row + v * kLanes);
        POCO_UNROLL
        for (int i = 0; i < kRows; ++i) {
            const __m512bh factor = broadcast_pair(a.at + i * a.row + 2 * k);
            POCO_UNROLL
            for (int v = 0; v < kVectors; ++v) sum[i][v] = _mm512_dpbf16_ps(sum[i][v], factor, line[v]);
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
inline void bfloat_column_band(int64_t rows, int64_t pairs, BfloatRows a, const uint32_t* b, int64_t b_row, float* c,
                               int64_t c_row, const float* bias) {
    int64_t i = 0;
    const auto take = [&](auto count) {
        bfloat_register_tile<decltype(count)::value, kVectors, kOnto>(
            pairs, a.from(i, 0), b, b_row, kOnto == Onto::bias ? bias + i : nullptr, c + i * c_row, c_row);
        i += decltype(count)::value;
    };
    while (rows - i >= kTileRows) take(std::integral_constant<int, kTileRows>{});
    if (rows - i >= 4) take(std::integral_constant<int, 4>{});
    if (rows - i >= 2) take(std::integral_constant<int, 2>{});
    if (rows - i >= 1) take(std::integral_constant<int, 1>{});
}

// The whole product by vectors.
template <Onto kOnto>
inline void multiply_by_vectors(int64_t rows, int64_t inner, int64_t columns, BfloatRows a, const uint32_t* b,
                                int64_t b_row, float* c, int64_t c_row, const float* bias) {
    const int64_t pairs = (inner + 1) / 2;
    int64_t vectors = round_up(columns) / kLanes;
    for (; vectors >= kTileVectors; vectors -= kTileVectors, b += kTileColumns, c += kTileColumns) {
        bfloat_column_band<kTileVectors, kOnto>(rows, pairs, a, b, b_row, c, c_row, bias);
    }
    if (vectors == 2) bfloat_column_band<2, kOnto>(rows, pairs, a, b, b_row, c, c_row, bias);
    if (vectors == 1) bfloat_column_band<1, kOnto>(rows, pairs, a, b, b_row, c, c_row, bias);
}

#if defined(__AMX_BF16__)

constexpr int64_t kAmxRows = 16;   // rows of a tile, of A and C as of pairs of B
constexpr int64_t kAmxInner = 32;  // bfloat16 numbers in a row of A
constexpr int64_t kAmxHalf = 16;   // the same in a tile for what is left

// The tile registers of this thread: 0 to 3 are for C, 4 for A, 5 for B, all of 16 rows of 64 bytes; 6 and 7 for half a
// step along `inner`, A with half the columns and B with half the rows. Products need them to be loaded; a thread loads
// them once at a time.
class AmxTiles {
public:
    AmxTiles() {
        struct Layout {
            uint8_t palette, start_row, reserved[14];
            uint16_t row_bytes[16];
            uint8_t rows[16];
        };
        static constexpr Layout layout{1, 0, {}, {64, 64, 64, 64, 64, 64, 32, 64}, {16, 16, 16, 16, 16, 16, 16, 8}};
        static_assert(sizeof(Layout) == 64, "as the processor reads it");
        _tile_loadconfig(&layout);
    }
    ~AmxTiles() { _tile_release(); }
    AmxTiles(const AmxTiles&) = delete;
    AmxTiles& operator=(const AmxTiles&) = delete;
};

// The compiler does not know what the tile instructions read.
inline void memory_is_written() {
    __asm__ volatile("" ::: "memory");
}

// Names of tiles are part of the instructions, so what a step along `inner` does is a macro over them: C += A B with
// one tile each of A and B at a time. Four tiles of C are under way where there are as many, as a product takes three
// times as long as until the next can begin.

// 32 rows and 16 or 32 columns; the second columns of B are taken twice.
#define POCO_AMX_STEP(tile_a, tile_b, a_at, b_at)            \
    _tile_loadd(tile_a, a_at, a_bytes);                      \
    _tile_loadd(tile_b, b_at, b_bytes);                      \
    _tile_dpbf16ps(0, tile_a, tile_b);                       \
    if (kColumnTiles == 2) {                                 \
        _tile_loadd(tile_b, (b_at) + 16, b_bytes);           \
        _tile_dpbf16ps(1, tile_a, tile_b);                   \
    }                                                        \
    _tile_loadd(tile_a, (a_at) + kAmxRows * a.row, a_bytes); \
    if (kColumnTiles == 2) {                                 \
        _tile_dpbf16ps(3, tile_a, tile_b);                   \
        _tile_loadd(tile_b, b_at, b_bytes);                  \
    }                                                        \
    _tile_dpbf16ps(2, tile_a, tile_b);

// 16 rows and 16, 32, 48 or 64 columns.
#define POCO_AMX_WIDE_STEP(tile_a, tile_b, a_at, b_at) \
    _tile_loadd(tile_a, a_at, a_bytes);                \
    _tile_loadd(tile_b, b_at, b_bytes);                \
    _tile_dpbf16ps(0, tile_a, tile_b);                 \
    if (kColumnTiles > 1) {                            \
        _tile_loadd(tile_b, (b_at) + 16, b_bytes);     \
        _tile_dpbf16ps(1, tile_a, tile_b);             \
    }                                                  \
    if (kColumnTiles > 2) {                            \
        _tile_loadd(tile_b, (b_at) + 32, b_bytes);     \
        _tile_dpbf16ps(2, tile_a, tile_b);             \
    }                                                  \
    if (kColumnTiles > 3) {                            \
        _tile_loadd(tile_b, (b_at) + 48, b_bytes);     \
        _tile_dpbf16ps(3, tile_a, tile_b);             \
    }

// All of `inner`, a multiple of 16.
#define POCO_AMX_STEPS(step)                         \
    int64_t k = 0;                                   \
    for (; k + kAmxInner <= inner; k += kAmxInner) { \
        step(4, 5, a.at + k, b + k / 2 * b_row);     \
    }                                                \
    if (k < inner) {                                 \
        step(6, 7, a.at + k, b + k / 2 * b_row);     \
    }

// 32 rows of C, 16 or 32 columns.
template <int kColumnTiles>
inline void amx_block(int64_t inner, BfloatRows a, const uint32_t* b, int64_t b_row, float* c, int64_t c_row,
                      bool from_zero) {
    float* const lower = c + kAmxRows * c_row;
    const int64_t c_bytes = 4 * c_row, b_bytes = 4 * b_row, a_bytes = 2 * a.row;
    if (from_zero) {
        _tile_zero(0);
        if (kColumnTiles == 2) _tile_zero(1);
        _tile_zero(2);
        if (kColumnTiles == 2) _tile_zero(3);
    } else {
        _tile_loadd(0, c, c_bytes);
        if (kColumnTiles == 2) _tile_loadd(1, c + 16, c_bytes);
        _tile_loadd(2, lower, c_bytes);
        if (kColumnTiles == 2) _tile_loadd(3, lower + 16, c_bytes);
    }
    POCO_AMX_STEPS(POCO_AMX_STEP)
    _tile_stored(0, c, c_bytes);
    if (kColumnTiles == 2) _tile_stored(1, c + 16, c_bytes);
    _tile_stored(2, lower, c_bytes);
    if (kColumnTiles == 2) _tile_stored(3, lower + 16, c_bytes);
}

// 16 rows of C, 16 to 64 columns.
template <int kColumnTiles>
inline void amx_wide_block(int64_t inner, BfloatRows a, const uint32_t* b, int64_t b_row, float* c, int64_t c_row,
                           bool from_zero) {
    const int64_t c_bytes = 4 * c_row, b_bytes = 4 * b_row, a_bytes = 2 * a.row;
    if (from_zero) {
        _tile_zero(0);
        if (kColumnTiles > 1) _tile_zero(1);
        if (kColumnTiles > 2) _tile_zero(2);
        if (kColumnTiles > 3) _tile_zero(3);
    } else {
        _tile_loadd(0, c, c_bytes);
        if (kColumnTiles > 1) _tile_loadd(1, c + 16, c_bytes);
        if (kColumnTiles > 2) _tile_loadd(2, c + 32, c_bytes);
        if (kColumnTiles > 3) _tile_loadd(3, c + 48, c_bytes);
    }
    POCO_AMX_STEPS(POCO_AMX_WIDE_STEP)
    _tile_stored(0, c, c_bytes);
    if (kColumnTiles > 1) _tile_stored(1, c + 16, c_bytes);
    if (kColumnTiles > 2) _tile_stored(2, c + 32, c_bytes);
    if (kColumnTiles > 3) _tile_stored(3, c + 48, c_bytes);
}

#undef POCO_AMX_STEP
#undef POCO_AMX_WIDE_STEP
#undef POCO_AMX_STEPS

// 16 * kRowTiles rows of C, all columns.
template <int kRowTiles>
inline void amx_row_band(int64_t inner, int64_t columns, BfloatRows a, const uint32_t* b, int64_t b_row, float* c,
                         int64_t c_row, bool from_zero) {
    int64_t vectors = round_up(columns) / kLanes;
    if constexpr (kRowTiles > 1) {
        const auto blocks = [&](auto column_tiles) {
            POCO_UNROLL
            for (int i = 0; i < kRowTiles * kAmxRows; i += 2 * kAmxRows) {
                amx_block<decltype(column_tiles)::value>(inner, a.from(i, 0), b, b_row, c + i * c_row, c_row,
                                                         from_zero);
            }
        };
        for (; vectors >= 2; vectors -= 2, b += 32, c += 32) blocks(std::integral_constant<int, 2>{});
        if (vectors == 1) blocks(std::integral_constant<int, 1>{});
    } else {
        for (; vectors >= 4; vectors -= 4, b += 64, c += 64) {
            amx_wide_block<4>(inner, a, b, b_row, c, c_row, from_zero);
        }
        if (vectors == 3) amx_wide_block<3>(inner, a, b, b_row, c, c_row, from_zero);
        if (vectors == 2) amx_wide_block<2>(inner, a, b, b_row, c, c_row, from_zero);
        if (vectors == 1) amx_wide_block<1>(inner, a, b, b_row, c, c_row, from_zero);
    }
}

// C[rows, columns] (+)= A[rows, inner] B[inner, columns], rows of B and C having room for whole vectors. What is not a
// whole block of 16 rows and 16 of `inner` goes by vectors. B should fit into the first-level cache; A then comes from
// wherever it is once, a band of rows at a time.
template <Onto kOnto>
inline void multiply(int64_t rows, int64_t inner, int64_t columns, BfloatRows a, const uint32_t* b, int64_t b_row,
                     float* c, int64_t c_row, const float* bias = nullptr) {
    const int64_t whole = inner / kAmxHalf * kAmxHalf;
    const int64_t rest = inner - whole;
    const bool from_zero = kOnto == Onto::zero && rest == 0;
    int64_t i = 0;
    const auto band = [&](auto tiles) {
        constexpr int kRowTiles = decltype(tiles)::value;
        float* const onto = c + i * c_row;
        if (kOnto == Onto::bias || rest > 0) {  // first what the tiles are added to
            multiply_by_vectors<kOnto>(kRowTiles * kAmxRows, rest, columns, a.from(i, whole), b + whole / 2 * b_row,
                                       b_row, onto, c_row, kOnto == Onto::bias ? bias + i : nullptr);
        }
        memory_is_written();
        amx_row_band<kRowTiles>(whole, columns, a.from(i, 0), b, b_row, onto, c_row, from_zero);
        i += kRowTiles * kAmxRows;
    };
    if (whole > 0) {
        while (rows - i >= 4 * kAmxRows) band(std::integral_constant<int, 4>{});
        if (rows - i >= 2 * kAmxRows) band(std::integral_constant<int, 2>{});
        if (rows - i >= kAmxRows) band(std::integral_constant<int, 1>{});
        memory_is_written();
    }
    multiply_by_vectors<kOnto>(rows - i, inner, columns, a.from(i, 0), b, b_row, c + i * c_row, c_row,
                               kOnto == Onto::bias ? bias + i : nullptr);
}

#else

// Nothing to load.
struct AmxTiles {
    AmxTiles() {}
};

template <Onto kOnto>
inline void multiply(int64_t rows, int64_t inner, int64_t columns, BfloatRows a, const uint32_t* b, int64_t b_row,
                     float* c, int64_t c_row, const float* bias = nullptr) {
    multiply_by_vectors<kOnto>(rows, inner, columns, a, b, b_row, c, c_row, bias);
}

#endif

}  // namespace
}  // namespace poco
