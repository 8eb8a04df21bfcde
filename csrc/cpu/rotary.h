// Rotary positions in time: poco/nn/rotary.py says what they are.
#pragma once

#include <cmath>
#include <utility>

#include "cpu/simd.h"

namespace poco {
namespace {

typedef double DoubleVector __attribute__((vector_size(kVectorBytes)));
typedef int64_t WholeVector __attribute__((vector_size(kVectorBytes)));
constexpr int kDoubles = kLanes / 2;

// Cosine and sine to nearly all digits of double precision, for angles up to a million.
inline void cos_sin(DoubleVector angle, DoubleVector& cosine, DoubleVector& sine) {
    // angle = n pi / 2 + r, |r| <= pi / 4. Adding 1.5 * 2^52 rounds to a whole number, whose low bits the sum holds.
    constexpr double shift = 6755399441055744.0;
    const DoubleVector shifted = angle * 0.63661977236758134308 + shift;
    const DoubleVector n = shifted - shift;
    DoubleVector r = angle - n * 1.57079632673412561417;  // pi / 2 in two parts, the first of 33 bits
    r -= n * 6.07710050650619224932e-11;
    const DoubleVector t = r * r;
    DoubleVector s = t * 1.58969099521155010221e-10 - 2.50507602534068634195e-08;
    s = t * s + 2.75573137070700676789e-06;
    s = t * s - 1.98412698298579493134e-04;
    s = t * s + 8.33333333332248946124e-03;
    s = t * s - 1.66666666666666324348e-01;
    s = r + r * (t * s);
    DoubleVector c = 2.08757232129817482790e-09 - t * 1.13596475577881948265e-11;
    c = t * c - 2.75573143513906633035e-07;
    c = t * c + 2.48015872894767294178e-05;
    c = t * c - 1.38888888888741095749e-03;
    c = t * c + 4.16666666666666019037e-02;
    c = 1.0 - (t * 0.5 - t * t * c);
    const WholeVector quarter = bits_as<WholeVector>(shifted);
    const WholeVector odd = (quarter & 1) != 0;
    const WholeVector sine_below = (quarter & 2) != 0;
    const WholeVector cosine_below = ((quarter + 1) & 2) != 0;
    const DoubleVector across = odd ? s : c;
    const DoubleVector along = odd ? c : s;
    cosine = cosine_below ? -across : across;
    sine = sine_below ? -along : along;
}

// What a head vector is multiplied with, itself and with its neighbours swapped: rows of whole vectors for one time
// after another.
struct Turns {
    int64_t row;  // room for half a head, the half that turns
    const float* cosine;
    const float* sine;  // minus for the first of each pair
};

inline int64_t turns_row(int64_t head_width) {
    return round_up(head_width / 2);
}

// The turns by one time; `frequencies` [head_width / 4].
inline void fill_turns(int64_t head_width, const float* frequencies, double time, float* cosine, float* sine) {
    const int64_t pairs = head_width / 4;
    for (int64_t i = 0; i < pairs; i += kDoubles) {
        const int64_t count = pairs - i < kDoubles ? pairs - i : kDoubles;
        DoubleVector angle = {};
        IntVector far = {};  // only the first lanes of it
        for (int64_t j = 0; j < count; ++j) {
            angle[j] = time * static_cast<double>(frequencies[i + j]);
            far[j] = !(std::fabs(angle[j]) < 1e6);
        }
        DoubleVector c, s;
        cos_sin(angle, c, s);
        for (int64_t j = 0; j < count; ++j) {
            const int64_t at = 2 * (i + j);
            const double exact_c = far[j] ? std::cos(angle[j]) : c[j];
            const double exact_s = far[j] ? std::sin(angle[j]) : s[j];
            cosine[at] = cosine[at + 1] = static_cast<float>(exact_c);
            sine[at + 1] = static_cast<float>(exact_s);
            sine[at] = -sine[at + 1];
        }
    }
    for (int64_t i = 2 * pairs; i < turns_row(head_width); ++i) {
        cosine[i] = 1;
        sine[i] = 0;
    }
}

template <size_t... kLane>
inline Vector swap_neighbours(Vector v, std::index_sequence<kLane...>) {
#if defined(__clang__)
    return __builtin_shufflevector(v, v, (kLane ^ 1)...);
#else
    return __builtin_shuffle(v, IntVector{(kLane ^ 1)...});
#endif
}

// Turns a head vector, in place, forward (way = 1) or back (-1). Its row has room for whole vectors.
inline void turn(const Turns& turns, int64_t time, float way, float* head) {
    const float* cosine = turns.cosine + time * turns.row;
    const float* sine = turns.sine + time * turns.row;
    for (int64_t i = 0; i < turns.row; i += kLanes) {
        const Vector v = load(head + i);
        const Vector swapped = swap_neighbours(v, std::make_index_sequence<kLanes>());
        store(head + i, fma(swapped, load(sine + i) * way, v * load(cosine + i)));
    }
}

}  // namespace
}  // namespace poco
