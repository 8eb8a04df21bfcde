// bfloat16: the upper half of a float32.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

namespace poco {

struct Bfloat16 {
    uint16_t bits;
};

namespace {

// The identity for float, so that templates over the two read alike.
inline float to_float(float value) {
    return value;
}

inline float to_float(Bfloat16 value) {
    const uint32_t word = static_cast<uint32_t>(value.bits) << 16;
    float wide;
    std::memcpy(&wide, &word, sizeof wide);
    return wide;
}

// Rounds to nearest, ties to even; NaN stays NaN.
inline Bfloat16 to_bfloat16(float value) {
    uint32_t word;
    std::memcpy(&word, &value, sizeof word);
    if ((word & 0x7fffffffu) > 0x7f800000u) return {static_cast<uint16_t>((word >> 16) | 0x40u)};
    return {static_cast<uint16_t>((word + 0x7fffu + ((word >> 16) & 1u)) >> 16)};
}

// To either type.
template <typename T>
inline T from_float(float value) {
    if constexpr (std::is_same_v<T, float>) {
        return value;
    } else {
        return to_bfloat16(value);
    }
}

}  // namespace
}  // namespace poco
