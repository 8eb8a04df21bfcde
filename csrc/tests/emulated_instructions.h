// The instructions of AVX-512, AVX512-BF16 and AMX that the kernels in bfloat16 use, in plain C++ for processors with
// AVX2. Included before the kernels (emulated_kernels.cpp), so that these are built, and tested, as they are: slowly,
// but on any such processor. POCO_EMULATES_AMX: tiles as well.
#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "cpu/bfloat16.h"

#define __AVX512F__ 1
#define __AVX512BF16__ 1
#if defined(POCO_EMULATES_AMX)
#define __AMX_BF16__ 1
#endif

namespace poco_test {
namespace {

constexpr int kWords = 16;  // of a register
typedef float Register __attribute__((vector_size(64)));

template <typename To, typename From>
inline To as(const From& from) {
    static_assert(sizeof(To) == sizeof(From), "same size");
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

// f(number of the half, its 32 bytes) for both halves of a register.
template <typename Half, typename To, typename From, typename F>
inline To by_halves(const From& from, const F& f) {
    Half half[2];
    std::memcpy(half, &from, sizeof half);
    for (int i = 0; i < 2; ++i) half[i] = f(i, half[i]);
    return as<To>(half);
}

struct Halves {
    uint16_t at[2 * kWords];
};

// Numbers too small to be normal count as 0, as the processor takes them.
inline float flushed(float value) {
    return std::fpclassify(value) == FP_SUBNORMAL ? 0.0f : value;
}

inline float wide(uint16_t half) {
    return flushed(poco::to_float(poco::Bfloat16{half}));
}

inline uint16_t narrow(float value) {
    return poco::to_bfloat16(flushed(value)).bits;
}

inline Register fma(Register a, Register b, Register c) {
    __m256 left[2], right[2];
    std::memcpy(left, &a, sizeof left);
    std::memcpy(right, &b, sizeof right);
    return by_halves<__m256, Register>(c, [&](int i, __m256 sum) { return _mm256_fmadd_ps(left[i], right[i], sum); });
}

inline Register root(int, Register v) {
    return by_halves<__m256, Register>(v, [](int, __m256 half) { return _mm256_sqrt_ps(half); });
}

inline __m512i product_of_words(int, __m512i a, __m512i b) {
    __m256i other[2];
    std::memcpy(other, &b, sizeof other);
    return by_halves<__m256i, __m512i>(a, [&](int i, __m256i half) { return _mm256_mul_epu32(half, other[i]); });
}

inline __m512i in_order(unsigned, __m512i order, __m512i values) {
    const Halves place = as<Halves>(order), from = as<Halves>(values);
    Halves to;
    for (int i = 0; i < 2 * kWords; ++i) to.at[i] = from.at[place.at[i] % (2 * kWords)];
    return as<__m512i>(to);
}

inline __m256bh narrowed(Register v) {
    uint16_t to[kWords];
    for (int i = 0; i < kWords; ++i) to[i] = narrow(v[i]);
    return as<__m256bh>(to);
}

inline __m512bh narrowed(Register high, Register low) {
    Halves to;
    for (int i = 0; i < kWords; ++i) {
        to.at[i] = narrow(low[i]);
        to.at[kWords + i] = narrow(high[i]);
    }
    return as<__m512bh>(to);
}

inline Register products(Register sums, __m512bh a, __m512bh b) {
    const Halves left = as<Halves>(a), right = as<Halves>(b);
    for (int i = 0; i < kWords; ++i) {
        const float first = std::fma(wide(left.at[2 * i + 1]), wide(right.at[2 * i + 1]), sums[i]);
        sums[i] = std::fma(wide(left.at[2 * i]), wide(right.at[2 * i]), first);
    }
    return sums;
}

// The tile registers of a thread. Where the processor would fault, the program ends.
struct Tiles {
    static constexpr int kCount = 8, kRows = 16, kRowBytes = 64;
    bool in_use;
    uint8_t rows[kCount];
    uint16_t row_bytes[kCount];
    uint8_t data[kCount][kRows][kRowBytes];

    static Tiles& of_thread() {
        static thread_local Tiles tiles;
        return tiles;
    }
    static void expect(bool good) {
        if (!good) std::abort();
    }
    static Tiles& in_layout() {
        expect(of_thread().in_use);
        return of_thread();
    }
};

inline void load_layout(const void* memory) {
    const auto* const bytes = static_cast<const uint8_t*>(memory);
    Tiles& tiles = Tiles::of_thread();
    tiles = Tiles{};
    Tiles::expect(bytes[0] == 1 && bytes[1] == 0);
    for (int i = 0; i < Tiles::kCount; ++i) {
        std::memcpy(&tiles.row_bytes[i], bytes + 16 + 2 * i, 2);
        tiles.rows[i] = bytes[48 + i];
        Tiles::expect(tiles.row_bytes[i] <= Tiles::kRowBytes && tiles.rows[i] <= Tiles::kRows);
    }
    tiles.in_use = true;
}

inline void release_tiles() {
    Tiles::of_thread() = Tiles{};
}

inline void clear_tile(int tile) {
    std::memset(Tiles::in_layout().data[tile], 0, sizeof Tiles::of_thread().data[0]);
}

inline void load_tile(int tile, const void* from, int64_t stride) {
    clear_tile(tile);
    Tiles& tiles = Tiles::of_thread();
    for (int i = 0; i < tiles.rows[tile]; ++i) {
        std::memcpy(tiles.data[tile][i], static_cast<const char*>(from) + i * stride, tiles.row_bytes[tile]);
    }
}

inline void store_tile(int tile, void* to, int64_t stride) {
    const Tiles& tiles = Tiles::in_layout();
    for (int i = 0; i < tiles.rows[tile]; ++i) {
        std::memcpy(static_cast<char*>(to) + i * stride, tiles.data[tile][i], tiles.row_bytes[tile]);
    }
}

// c += a b, where a row of a and a column of b are pairs. The processor keeps the sums of even and odd elements apart
// until the end, rounding each step.
inline void multiply_tiles(int c, int a, int b) {
    Tiles& tiles = Tiles::in_layout();
    Tiles::expect(c != a && c != b && a != b && tiles.rows[c] == tiles.rows[a]);
    Tiles::expect(tiles.row_bytes[a] == 4 * tiles.rows[b] && tiles.row_bytes[c] == tiles.row_bytes[b]);
    const int columns = tiles.row_bytes[c] / 4;
    for (int m = 0; m < tiles.rows[c]; ++m) {
        float even[kWords] = {}, odd[kWords] = {}, sums[kWords];
        for (int k = 0; k < tiles.rows[b]; ++k) {
            uint16_t left[2], right[2 * kWords];
            std::memcpy(left, tiles.data[a][m] + 4 * k, sizeof left);
            std::memcpy(right, tiles.data[b][k], sizeof right);
            for (int n = 0; n < columns; ++n) {
                even[n] = std::fma(wide(left[0]), wide(right[2 * n]), even[n]);
                odd[n] = std::fma(wide(left[1]), wide(right[2 * n + 1]), odd[n]);
            }
        }
        std::memcpy(sums, tiles.data[c][m], sizeof sums);
        for (int n = 0; n < columns; ++n) sums[n] += even[n] + odd[n];
        std::memcpy(tiles.data[c][m], sums, sizeof sums);
    }
}

}  // namespace
}  // namespace poco_test

#undef _tile_loadd
#undef _tile_stored
#undef _tile_zero
#undef _tile_dpbf16ps
#define _mm512_fmadd_ps poco_test::fma
#define _mm512_maskz_sqrt_ps poco_test::root
#define _mm512_maskz_mul_epu32 poco_test::product_of_words
#define _mm512_maskz_permutexvar_epi16 poco_test::in_order
#define _mm512_cvtneps_pbh poco_test::narrowed
#define _mm512_cvtne2ps_pbh poco_test::narrowed
#define _mm512_dpbf16_ps poco_test::products
#define _tile_loadconfig poco_test::load_layout
#define _tile_release poco_test::release_tiles
#define _tile_zero poco_test::clear_tile
#define _tile_loadd poco_test::load_tile
#define _tile_stored poco_test::store_tile
#define _tile_dpbf16ps poco_test::multiply_tiles
