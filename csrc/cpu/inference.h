// The whole model for inference: both passes and what happens to the latents before and between them.
#pragma once

#include "cpu/kernels.h"

namespace poco {

// Sizes in the letters of kernels.h; one F for all feed-forward layers.
template <typename T>
struct Inference {
    int64_t rows = 0, windows = 0, units = 0;                                          // R, W, V
    int64_t initial_windows = 0;                                                       // 1 or W
    int64_t segments = 0, segment_length = 0, width = 0, latents = 0, head_width = 0;  // S, L, d, Q, dh
    int64_t heads = 0, ffn_width = 0, layers = 0;                                      // of the latents; F
    int64_t film_width = 0, horizon = 0;                                               // K, H
    float eps = 0;
    int threads = 1;

    const T* x = nullptr;                     // [R, C]
    const int32_t* unit_index = nullptr;      // [R], in 0..V-1
    const int32_t* window_offsets = nullptr;  // [W + 1], rising from 0 to R
    const T* unit_table = nullptr;            // [V, d]
    const T* unit_shift = nullptr;            // [d], added to every unit; nullptr: none
    const T* initial = nullptr;               // [initial_windows, Q, d]
    const float* frequencies = nullptr;       // [dh / 4]
    const T* const* parameters = nullptr;     // [parameter_count(layers)], in the order of poco.ops.ModelParameters

    T* forecast = nullptr;  // [R, H]
};

constexpr int64_t parameter_count(int64_t layers) {
    return 40 + 11 * layers;
}

// Of the latent transformer alone.
constexpr int64_t latent_parameter_count(int64_t layers) {
    return 15 + 11 * layers;
}

// The parameters of the latent transformer out of a list in the order of poco.ops.LatentParameters; `layers`
// [to.layers] is where those of the layers are put. Returns how many there are.
int64_t take_parameters(LatentTransformer<float>& to, const float* const* parameters, LatentLayer<float>* layers);
int64_t take_parameters(LatentTransformer<Bfloat16>& to, const Bfloat16* const* parameters,
                        LatentLayer<Bfloat16>* layers);

// By the kernels of the instruction set in use. Throws as they do.
void infer(const Inference<float>& call);
void infer(const Inference<Bfloat16>& call);

}  // namespace poco
