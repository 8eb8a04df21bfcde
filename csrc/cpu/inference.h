// The whole model for inference: both passes and what happens to the latents before and between them.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/kernels.h"

namespace poco {

// Sizes of a model, in the letters of kernels.h; one F for all feed-forward layers.
struct ModelSizes {
    int64_t segments = 0, segment_length = 0;        // S, L; C = S * L
    int64_t width = 0, latents = 0, head_width = 0;  // d, Q, dh
    int64_t heads = 0, ffn_width = 0, layers = 0;    // of the latents; F
    int64_t film_width = 0, horizon = 0;             // K, H
    float eps = 0;
};

template <typename T>
struct Inference : ModelSizes {
    int64_t rows = 0, windows = 0, units = 0;  // R, W, V
    int64_t initial_windows = 0;               // 1 or W
    int threads = 1;

    const T* x = nullptr;                     // [R, C]
    const int32_t* unit_index = nullptr;      // [R], in 0..V-1
    const int32_t* window_offsets = nullptr;  // [W + 1], rising from 0 to R
    const T* unit_table = nullptr;            // [V, d]
    const T* unit_shift = nullptr;            // [d], added to every unit; nullptr: none
    const T* initial = nullptr;               // [initial_windows, Q, d]
    const float* frequencies = nullptr;       // [dh / 4]
    std::vector<const T*> parameters{};       // ModelParameters of poco/ops/parameters.py: parameter_count(layers)

    T* forecast = nullptr;  // [R, H]
};

// By the kernels of the instruction set in use. Throws as they do.
void infer(const Inference<float>& call);
void infer(const Inference<Bfloat16>& call);

}  // namespace poco
