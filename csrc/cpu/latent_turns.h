// The turns by all the times that the latents and the segments are apart, made once in a call.
#pragma once

#include "cpu/latent_time.h"
#include "cpu/rotary.h"

namespace poco {
namespace {

inline int64_t turns_size(int64_t head_width, int64_t times) {
    return 2 * times * turns_row(head_width);
}

// `time(i)` for i < times.
template <typename F>
inline Turns make_turns(int64_t head_width, int64_t times, const float* frequencies, float* memory, const F& time) {
    const int64_t row = turns_row(head_width);
    for (int64_t i = 0; i < times; ++i) {
        fill_turns(head_width, frequencies, time(i), memory + i * row, memory + (times + i) * row);
    }
    return {row, memory, memory + times * row};
}

// What the scores of attention are multiplied by.
inline float score_scale(int64_t head_width) {
    return 1.0f / __builtin_sqrtf(static_cast<float>(head_width));
}

template <typename Call>
inline Turns turns_apart(const Call& call, float* memory) {
    return make_turns(call.head_width, call.segments * call.latents, call.frequencies, memory, [&](int64_t i) {
        const int64_t segment = i / call.latents, length = call.context / call.segments;
        return latent_time(i % call.latents, call.latents, call.context) - static_cast<double>(segment * length);
    });
}

}  // namespace
}  // namespace poco
