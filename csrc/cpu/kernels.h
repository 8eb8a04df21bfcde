// What the kernels of the two passes take, and the table of them that every instruction set fills in.
//
// Sizes use the letters of poco/ops: R rows, W windows, C context, S segments of L frames, V rows of the unit table,
// d width, Q latents, F feed-forward width, K FiLM width, H horizon. Arrays are dense, in row-major order; inputs and
// the forecast are of type T (float or Bfloat16), all other results float; inputs and outputs must not overlap. Every
// output is written in full, whatever it held before. Results are the same bit for bit whatever the number of threads.
//
// Kernels are built once per instruction set, so what csrc/cpu/*.h defines is in unnamed namespaces, and std templates
// with code of their own (std::vector, std::sort, ...) stay out of them: the linker keeps one copy of those, and it
// could be the one that only the newest processor understands. Memory comes from core/workspace.h.
#pragma once

#include <cstdint>

#include "cpu/bfloat16.h"

namespace poco {

// Pass 1. In the forward call pooled and logsumexp are outputs.
template <typename T>
struct LatentPool {
    int64_t rows = 0, windows = 0, units = 0;                          // R, W, V
    int64_t segments = 0, segment_length = 0, width = 0, latents = 0;  // S, L, d, Q; C = S * L
    int64_t query_windows = 0;                                         // 1 or W
    float eps = 0;
    int threads = 1;

    const T* x = nullptr;                     // [R, C]
    const int32_t* unit_index = nullptr;      // [R], in 0..V-1
    const int32_t* window_offsets = nullptr;  // [W + 1], rising from 0 to R
    const T* unit_table = nullptr;            // [V, d]
    const T* token_weight = nullptr;          // [d, L]
    const T* token_bias = nullptr;            // [d]
    const T* norm_weight = nullptr;           // [d]
    const T* norm_bias = nullptr;             // [d]
    const T* queries = nullptr;               // [query_windows, S, Q, d]

    float* pooled = nullptr;     // [W, S, Q, d]; 0 for a window without rows
    float* logsumexp = nullptr;  // [W, Q]; minus infinity for a window without rows
};

// Backward of pass 1. A gradient that is nullptr is not wanted.
template <typename T>
struct LatentPoolBackward {
    LatentPool<T> forward;  // pooled and logsumexp are read

    const float* grad_pooled = nullptr;     // [W, S, Q, d]
    const float* grad_logsumexp = nullptr;  // [W, Q]

    float* grad_x = nullptr;             // [R, C]
    float* grad_unit_table = nullptr;    // [V, d]
    float* grad_token_weight = nullptr;  // [d, L]
    float* grad_token_bias = nullptr;    // [d]
    float* grad_norm_weight = nullptr;   // [d]
    float* grad_norm_bias = nullptr;     // [d]
    float* grad_queries = nullptr;       // [query_windows, S, Q, d]
};

// Parameters of pass 2 in the order of poco.ops.FilmParameters; with T = float also their gradients.
template <typename T>
struct FilmParameters {
    T* attention_bias = nullptr;     // [d]
    T* query_norm_weight = nullptr;  // [d]
    T* query_norm_bias = nullptr;    // [d]
    T* ffn_norm_weight = nullptr;    // [d]
    T* ffn_norm_bias = nullptr;      // [d]
    T* ffn_in_weight = nullptr;      // [2F, d]: values, then gates
    T* ffn_in_bias = nullptr;        // [2F]
    T* ffn_out_weight = nullptr;     // [d, F]
    T* ffn_out_bias = nullptr;       // [d]
    T* scale_weight = nullptr;       // [K, d]
    T* scale_bias = nullptr;         // [K]
    T* shift_weight = nullptr;       // [H, d]
    T* shift_bias = nullptr;         // [H]
    T* in_weight = nullptr;          // [K, C]
    T* in_bias = nullptr;            // [K]
    T* out_weight = nullptr;         // [H, K]
};

// Pass 2. In the backward call forecast is not used.
template <typename T>
struct FilmForecast {
    int64_t rows = 0, windows = 0, units = 0;                  // R, W, V
    int64_t context = 0, horizon = 0, width = 0, latents = 0;  // C, H, d, Q
    int64_t ffn_width = 0, film_width = 0;                     // F, K
    float eps = 0;
    double dropout = 0;  // in [0, 1): dropped where word (row, column of F) of Philox < dropout_threshold(dropout)
    uint64_t seed = 0;
    int threads = 1;

    const T* x = nullptr;                     // [R, C]
    const int32_t* unit_index = nullptr;      // [R], in 0..V-1
    const int32_t* window_offsets = nullptr;  // [W + 1], rising from 0 to R
    const T* unit_table = nullptr;            // [V, d]
    const T* unit_shift = nullptr;            // [d], added to every unit; nullptr: none. Not in the backward
    const T* keys = nullptr;                  // [W, Q, d]
    const T* values = nullptr;                // [W, Q, d]
    FilmParameters<const T> parameters;

    T* forecast = nullptr;  // [R, H]
};

// Backward of pass 2. A gradient that is nullptr is not wanted. Where the loss is, the gradient of the forecast is
// grad_scale * (forecast - target), with the forecast made here, in float.
template <typename T>
struct FilmForecastBackward {
    FilmForecast<T> forward;

    const T* grad = nullptr;  // [R, H]; not read where the loss is wanted

    double* loss = nullptr;         // [1], the sum of the squares of (forecast - target); nullptr: not wanted
    const float* target = nullptr;  // [R, H]
    float grad_scale = 0;

    float* grad_x = nullptr;           // [R, C]
    float* grad_unit_table = nullptr;  // [V, d]
    float* grad_keys = nullptr;        // [W, Q, d]
    float* grad_values = nullptr;      // [W, Q, d]
    FilmParameters<float> grad_parameters;
};

// Before pass 2: the shift of FiLM folded through the output.
template <typename T>
struct FilmShift {
    int64_t horizon = 0, film_width = 0, width = 0;  // H, K, d
    int threads = 1;

    const T* output_weight = nullptr;  // [H, K]
    const T* output_bias = nullptr;    // [H]
    const T* shift_weight = nullptr;   // [K, d]
    const T* shift_bias = nullptr;     // [K]

    T* weight = nullptr;  // [H, d]
    T* bias = nullptr;    // [H]
};

// Before pass 1: the queries of the latents, absorbed into token space. Here and in the latent transformer segment s is
// at time s * C / S, latent m at m * C / Q rounded to float, and the units ask at C.
template <typename T>
struct LatentQueries {
    int64_t windows = 0;                                           // 1 or W
    int64_t segments = 0, latents = 0, width = 0, head_width = 0;  // S, Q, d, dh
    int64_t context = 0;                                           // C
    float eps = 0;
    int threads = 1;

    const float* frequencies = nullptr;  // [dh / 4]
    const T* initial = nullptr;          // [windows, Q, d]
    const T* norm_weight = nullptr;      // [d]
    const T* norm_bias = nullptr;        // [d]
    const T* query_weight = nullptr;     // [dh, d]
    const T* key_weight = nullptr;       // [dh, d]

    T* queries = nullptr;  // [windows, S, Q, d]
};

// Its backward; all gradients are wanted.
template <typename T>
struct LatentQueriesBackward {
    LatentQueries<T> forward;  // queries are not used

    const float* grad_queries = nullptr;  // [windows, S, Q, d]

    float* grad_initial = nullptr;       // [windows, Q, d]
    float* grad_norm_weight = nullptr;   // [d]
    float* grad_norm_bias = nullptr;     // [d]
    float* grad_query_weight = nullptr;  // [dh, d]
    float* grad_key_weight = nullptr;    // [dh, d]
};

template <typename T>
struct FeedForward {
    const T* norm_weight = nullptr;  // [d]
    const T* norm_bias = nullptr;    // [d]
    const T* in_weight = nullptr;    // [2F, d]: values, then gates
    const T* in_bias = nullptr;      // [2F]
    const T* out_weight = nullptr;   // [d, F]
    const T* out_bias = nullptr;     // [d]
};

template <typename T>
struct LatentLayer {
    const T* norm_weight = nullptr;             // [d]
    const T* norm_bias = nullptr;               // [d]
    const T* query_key_value_weight = nullptr;  // [3, heads, dh, d]
    const T* output_weight = nullptr;           // [d, heads * dh]
    const T* output_bias = nullptr;             // [d]
    FeedForward<T> ffn;
};

// Between the passes: what the latents read from the population, their transformer without dropout, and their keys and
// values absorbed into unit space.
template <typename T>
struct LatentTransformer {
    int64_t windows = 0;                                           // W
    int64_t initial_windows = 0;                                   // 1 or W
    int64_t segments = 0, latents = 0, width = 0, head_width = 0;  // S, Q, d, dh
    int64_t heads = 0, ffn_width = 0, layers = 0;                  // of the self-attention; F
    int64_t context = 0;                                           // C
    float eps = 0;
    int threads = 1;

    const float* frequencies = nullptr;     // [dh / 4]
    const float* pooled = nullptr;          // [W, S, Q, d]
    const T* initial = nullptr;             // [initial_windows, Q, d]
    const T* read_value_weight = nullptr;   // [dh, d]
    const T* read_output_weight = nullptr;  // [d, dh]
    const T* read_output_bias = nullptr;    // [d]
    FeedForward<T> read_ffn;
    const LatentLayer<T>* layer = nullptr;   // [layers]
    const T* write_norm_weight = nullptr;    // [d]
    const T* write_norm_bias = nullptr;      // [d]
    const T* write_key_weight = nullptr;     // [dh, d]
    const T* write_value_weight = nullptr;   // [dh, d]
    const T* write_query_weight = nullptr;   // [dh, d]
    const T* write_output_weight = nullptr;  // [d, dh]

    T* keys = nullptr;    // [W, Q, d]
    T* values = nullptr;  // [W, Q, d]
};

// The latent transformer in training: with dropout, and keeping what its backward needs. Windows go in tiles.
//
// Dropout draws words of Philox at (token, column), tokens counted over all windows. Columns of the places that drop,
// each rounded up to 4: F of read_ffn; for every layer d of the attention's branch, F and d of the feed-forward's.
template <typename T>
struct LatentTraining {
    LatentTransformer<T> forward;
    double ffn_dropout = 0;  // in [0, 1): inside the feed-forward layers
    double dropout = 0;      // in [0, 1): of both branches of a layer
    uint64_t seed = 0;

    char* kept = nullptr;  // [tiles, bytes], see LatentTiles
};

// How many windows a tile takes at most, evenly filled, and how many bytes are kept of a tile.
struct LatentTiles {
    int64_t windows, bytes;
};

// Its backward. `kept` is read, keys and values are not used. A gradient that is nullptr is not wanted.
template <typename T>
struct LatentTrainingBackward {
    LatentTraining<T> forward;

    const float* grad_keys = nullptr;    // [W, Q, d]
    const float* grad_values = nullptr;  // [W, Q, d]

    float* grad_pooled = nullptr;             // [W, S, Q, d]
    float* grad_initial = nullptr;            // [initial_windows, Q, d]
    float* const* grad_parameters = nullptr;  // of LatentParameters, poco/ops/parameters.py; all or none
};

// A forecaster on the ground, one window of one session. N units, K latents, F features of the unit's own (o) and of
// the population (p) in each of two forms; otherwise the letters above.
struct GroundLatents {
    int64_t units = 0, context = 0, latents = 0;  // N, C, K
    int threads = 1;

    const float* x = nullptr;         // [N, C]
    const uint8_t* seen = nullptr;    // [N], 0: left out
    const float* loadings = nullptr;  // [N, K]

    float* out = nullptr;  // [K, C]
};

// What is added to the ground: W2 (h * (1 + A e)) + b2 + B e with h = relu(W1 x + b1 + S e).
struct GroundResidual {
    bool of_shape = false;  // W1 x and e are divided by the size of the window, and what is added is multiplied by it
    float gain = 0;         // 0: nothing is added
    int64_t width = 0;      // R

    const float* condition_scale = nullptr;  // [2H], positive
    const float* in_weight = nullptr;        // [R, C], with what takes the mean of the window off
    const float* in_bias = nullptr;          // [R]
    const float* shift = nullptr;            // [R, 2H]
    const float* scale = nullptr;            // [R, 2H]
    const float* out_weight = nullptr;       // [H, R]
    const float* out_bias = nullptr;         // [H]
    const float* skip = nullptr;             // [H, 2H]
};

struct GroundForecast {
    int64_t units = 0, context = 0, horizon = 0;                        // N, C, H
    int64_t own_features[2] = {0, 0}, population_features[2] = {0, 0};  // Fo and Fp of each form
    float clip = 0;                                                     // of features and conditions
    float gains[2] = {0, 0};                                            // of the units' terms of each form
    float share = 1;                                                    // of these terms in the forecast
    int threads = 1;

    const float* x = nullptr;                           // [N, C]
    const float* base = nullptr;                        // [H, C], the shared maps of both forms, with their share
    const float* own_map = nullptr;                     // [Fo of both, C], before they are clipped
    const float* population[2] = {nullptr, nullptr};    // [Fp], clipped
    const float* coefficients[2] = {nullptr, nullptr};  // [N, Fo + Fp, H]
    const GroundResidual* residuals = nullptr;          // [residual_count]
    int64_t residual_count = 0;

    float* forecast = nullptr;  // [N, H]
};

// The kernels for one element type. They throw std::bad_alloc if there is no memory for the workspace.
template <typename T>
struct Passes {
    void (*latent_pool)(const LatentPool<T>&);
    void (*latent_pool_backward)(const LatentPoolBackward<T>&);
    void (*film_forecast)(const FilmForecast<T>&);
    void (*film_forecast_backward)(const FilmForecastBackward<T>&);
    void (*latent_queries)(const LatentQueries<T>&);
    void (*latent_transformer)(const LatentTransformer<T>&);
    void (*film_shift)(const FilmShift<T>&);
    LatentTiles (*latent_tiles)(const LatentTransformer<T>&);          // 0 windows: it has too many latents for a tile
    void (*latent_queries_backward)(const LatentQueriesBackward<T>&);  // at most a tile's latents, as the rest
    void (*latent_training)(const LatentTraining<T>&);
    void (*latent_training_backward)(const LatentTrainingBackward<T>&);
};

// Those of a forecaster on the ground, in float32.
struct GroundKernels {
    void (*latents)(const GroundLatents&);
    void (*forecast)(const GroundForecast&);
};

// The kernels of one instruction set. Thread-safe.
struct CpuKernels {
    const char* name;
    Passes<float> float32;
    Passes<Bfloat16> bfloat16;
    GroundKernels ground;

    template <typename T>
    const Passes<T>& passes() const;
};

template <>
inline const Passes<float>& CpuKernels::passes<float>() const {
    return float32;
}

template <>
inline const Passes<Bfloat16>& CpuKernels::passes<Bfloat16>() const {
    return bfloat16;
}

}  // namespace poco
