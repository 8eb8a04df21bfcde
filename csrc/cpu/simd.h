// One vector of floats, as wide as the instruction set that the including file is compiled for.
// Arithmetic, comparison and `mask ? a : b` come from the compiler's vector types; only what they lack is written per
// instruction set. Everything is in an unnamed namespace, so that no function built for a newer processor can replace
// one built for an older.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/bfloat16.h"

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace poco {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
constexpr int kVectorRegisters = 32;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
constexpr int kVectorRegisters = 16;
#elif defined(__aarch64__)
constexpr int kLanes = 4;
constexpr int kVectorRegisters = 32;
#else
constexpr int kLanes = 4;
constexpr int kVectorRegisters = 16;
#endif
constexpr int kVectorBytes = 4 * kLanes;

typedef float Vector __attribute__((vector_size(kVectorBytes)));
typedef int32_t IntVector __attribute__((vector_size(kVectorBytes)));  // also the result of comparisons: 0 or -1
typedef uint32_t WordVector __attribute__((vector_size(kVectorBytes)));
typedef float QuarterVector __attribute__((vector_size(16)));

// `count` rounded up to whole vectors.
constexpr int64_t round_up(int64_t count, int64_t multiple = kLanes) {
    return (count + multiple - 1) / multiple * multiple;
}

inline Vector load(const float* from) {
    Vector v;
    std::memcpy(&v, from, sizeof v);
    return v;
}

inline void store(float* to, Vector v) {
    std::memcpy(to, &v, sizeof v);
}

// The first `count` lanes, 0 elsewhere; nothing behind them is read.
inline Vector load_some(const float* from, int64_t count) {
    Vector v = {};
    std::memcpy(&v, from, static_cast<size_t>(count) * sizeof(float));
    return v;
}

inline void store_some(float* to, Vector v, int64_t count) {
    std::memcpy(to, &v, static_cast<size_t>(count) * sizeof(float));
}

inline Vector load_some(const Bfloat16* from, int64_t count) {
    typedef uint16_t HalfVector __attribute__((vector_size(kVectorBytes / 2)));
    HalfVector v = {};
    std::memcpy(&v, from, static_cast<size_t>(count) * sizeof(Bfloat16));
    const WordVector word = __builtin_convertvector(v, WordVector) << 16;
    Vector wide;
    std::memcpy(&wide, &word, sizeof wide);
    return wide;
}

inline Vector load(const Bfloat16* from) {
    return load_some(from, kLanes);
}

// The first `count` lanes, or all if there are no more.
template <typename T>
inline Vector load_at_most(const T* from, int64_t count) {
    return count >= kLanes ? load(from) : load_some(from, count);
}

inline void store_at_most(float* to, Vector v, int64_t count) {
    if (count >= kLanes) {
        store(to, v);
    } else {
        store_some(to, v, count);
    }
}

inline Vector broadcast(float value) {
    return value - Vector{};  // minus: the compiler knows that x - 0 is x, but -0 + 0 is not -0
}

inline WordVector broadcast(uint32_t value) {
    return WordVector{} + value;
}

// 0, 1, 2, ...
inline IntVector lane_numbers() {
    IntVector v;
    for (int i = 0; i < kLanes; ++i) v[i] = i;
    return v;
}

// Lanes first, ..., last - 1.
inline IntVector lanes_between(int64_t first, int64_t last) {
    const IntVector lane = lane_numbers();
    return (lane >= static_cast<int32_t>(first)) & (lane < static_cast<int32_t>(last));
}

template <typename To, typename From>
inline To bits_as(From from) {
    static_assert(sizeof(To) == sizeof(From), "same size");
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

// a * b + c, rounded once where the processor can.
inline Vector fma(Vector a, Vector b, Vector c) {
#if defined(__AVX512F__)
    return _mm512_fmadd_ps(a, b, c);
#elif defined(__FMA__)
    return _mm256_fmadd_ps(a, b, c);
#elif defined(__aarch64__)
    return vfmaq_f32(c, a, b);
#else
    return a * b + c;
#endif
}

// The larger one; b where either is NaN.
inline Vector max(Vector a, Vector b) {
    return a > b ? a : b;
}

inline Vector min(Vector a, Vector b) {
    return a < b ? a : b;
}

inline Vector sqrt(Vector v) {
#if defined(__AVX512F__)
    return _mm512_maskz_sqrt_ps(0xffff, v);  // without the mask GCC 12 warns of its own header
#elif defined(__AVX2__)
    return _mm256_sqrt_ps(v);
#elif defined(__SSE2__)
    return _mm_sqrt_ps(v);
#elif defined(__aarch64__)
    return vsqrtq_f32(v);
#else
    for (int i = 0; i < kLanes; ++i) v[i] = __builtin_sqrtf(v[i]);
    return v;
#endif
}

// Two vectors as pairs of bfloat16, `low` in the low halves; rounded to nearest, ties to even.
inline WordVector to_pairs(Vector low, Vector high) {
#if defined(__AVX512BF16__)
    const __m512i both = bits_as<__m512i>(_mm512_cvtne2ps_pbh(high, low));
    typedef uint16_t HalfVector __attribute__((vector_size(kVectorBytes)));
    const HalfVector order = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                              8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    return bits_as<WordVector>(_mm512_maskz_permutexvar_epi16(0xffffffff, bits_as<__m512i>(order), both));
#else
    const auto rounded = [](Vector v) {
        const WordVector word = bits_as<WordVector>(v);
        const WordVector up = word + 0x7fffu + ((word >> 16) & 1u);
        return v != v ? word | 0x400000u : up;  // NaN stays NaN
    };
    return (rounded(low) >> 16) | (rounded(high) & 0xffff0000u);
#endif
}

// Sum of all lanes: halves first, always in the same order.
inline float sum(Vector v) {
    QuarterVector part[kLanes / 4];
    std::memcpy(part, &v, sizeof v);
    for (int count = kLanes / 8; count > 0; count /= 2) {
        for (int i = 0; i < count; ++i) part[i] += part[i + count];
    }
    return (part[0][0] + part[0][2]) + (part[0][1] + part[0][3]);
}

// NaN in any lane may be lost.
inline float largest(Vector v) {
    QuarterVector part[kLanes / 4];
    std::memcpy(part, &v, sizeof v);
    for (int count = kLanes / 8; count > 0; count /= 2) {
        for (int i = 0; i < count; ++i) part[i] = part[i] > part[i + count] ? part[i] : part[i + count];
    }
    const float a = part[0][0] > part[0][2] ? part[0][0] : part[0][2];
    const float b = part[0][1] > part[0][3] ? part[0][1] : part[0][3];
    return a > b ? a : b;
}

// e^v within 2e-7 of itself; exactly 0 below -87.33, infinity above 88.72, NaN for NaN.
inline Vector exp(Vector v) {
    // v = n log 2 + r, |r| <= log(2) / 2. Adding 1.5 * 2^23 rounds to a whole number, whose low bits the sum then
    // holds.
    constexpr float shift = 12582912.0f;
    const Vector low = broadcast(-87.33f);
    const Vector high = broadcast(88.72f);
    const Vector x = min(high, max(low, v));  // NaN passes
    const Vector shifted = fma(x, broadcast(1.44269504f), broadcast(shift));
    const Vector n = shifted - shift;
    Vector r = fma(n, broadcast(-0.693359375f), x);  // log 2 in two parts
    r = fma(n, broadcast(2.12194440e-4f), r);
    Vector p = fma(broadcast(0.00138131426f), r, broadcast(0.00836941927f));
    p = fma(p, r, broadcast(0.0416684568f));
    p = fma(p, r, broadcast(0.166665148f));
    p = fma(p, r, broadcast(0.499999931f));
    p = fma(p * r, r, r) + 1.0f;
    // 2^n in two factors, as 2^128 does not fit into one.
    const IntVector whole = bits_as<IntVector>(shifted) - bits_as<IntVector>(broadcast(shift));
    const IntVector half = whole >> 1;
    p *= bits_as<Vector>((half + 127) << 23);
    p *= bits_as<Vector>((whole - half + 127) << 23);
    p = v > high ? broadcast(__builtin_inff()) : p;
    return v < low ? Vector{} : p;
}

#if defined(__AVX512BF16__)

// GELU for bfloat16, by a polynomial for Phi: within 1.1e-4 of the larger of 1 and |v|, and beyond 4 within 3e-7 |v| of
// 0 or v itself.
inline Vector gelu(Vector v) {
    const Vector x = min(broadcast(4.0f), max(broadcast(-4.0f), v));  // NaN passes
    const Vector t = x * x;
    Vector p = fma(broadcast(2.75713923e-08f), t, broadcast(-1.86397119e-06f));
    p = fma(p, t, broadcast(5.36872649e-05f));
    p = fma(p, t, broadcast(-0.000874684833f));
    p = fma(p, t, broadcast(0.00909541175f));
    p = fma(p, t, broadcast(-0.0653583258f));
    p = fma(p, t, broadcast(0.398512661f));
    return v * fma(x, p, broadcast(0.5f));
}

// GELU and its derivative, which is within 5.1e-4.
inline void gelu_and_slope(Vector v, Vector& value, Vector& slope) {
    const Vector x = min(broadcast(4.0f), max(broadcast(-4.0f), v));
    const Vector t = x * x;
    Vector p = fma(broadcast(-1.61535105e-08f), t, broadcast(1.19559695e-06f));
    p = fma(p, t, broadcast(-3.79692938e-05f));
    p = fma(p, t, broadcast(0.000681007397f));
    p = fma(p, t, broadcast(-0.00763981231f));
    p = fma(p, t, broadcast(0.0557409637f));
    p = fma(p, t, broadcast(-0.261752248f));
    p = fma(p, t, broadcast(0.796594441f));
    value = gelu(v);
    slope = fma(x, p, broadcast(0.5f));
}

#else

// Phi(v), the normal distribution function, within 2e-7: 1/2 + v P(v^2) / Q(v^2), and 0 or 1 beyond 5.5, as v times
// what rounding leaves there would grow.
inline Vector normal_cdf(Vector v) {
    const Vector x = min(broadcast(5.5f), max(broadcast(-5.5f), v));  // NaN passes
    const Vector t = x * x;
    Vector p = fma(broadcast(2.29312427e-08f), t, broadcast(6.30156447e-06f));
    p = fma(p, t, broadcast(0.000164571593f));
    p = fma(p, t, broadcast(0.00465146899f));
    p = fma(p, t, broadcast(0.0334586925f));
    p = fma(p, t, broadcast(0.398942274f));
    Vector q = fma(broadcast(1.19902891e-06f), t, broadcast(7.21662827e-05f));
    q = fma(q, t, broadcast(0.00186063387f));
    q = fma(q, t, broadcast(0.0284160134f));
    q = fma(q, t, broadcast(0.250534906f));
    q = fma(q, t, broadcast(1.0f));
    p = x * p / q + 0.5f;
    p = v > 5.5f ? broadcast(1.0f) : p;
    return v < -5.5f ? Vector{} : p;
}

// The exact GELU, v Phi(v).
inline Vector gelu(Vector v) {
    return v * normal_cdf(v);
}

// GELU and its derivative Phi(v) + v phi(v).
inline void gelu_and_slope(Vector v, Vector& value, Vector& slope) {
    const Vector cdf = normal_cdf(v);
    value = v * cdf;
    slope = fma(v * 0.398942280f, exp(v * v * -0.5f), cdf);
}

#endif

}  // namespace
}  // namespace poco
