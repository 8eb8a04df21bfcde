// What the CUDA kernels of one forecast take. Pointers are to memory of the device; T is what weights, activity and
// forecasts are of (float or bfloat16, by its name on either side), all else is float. Letters are those of
// cpu/kernels.h. Weights lie the other way round, [inner, columns], in rows of whole tiles filled up with zeros to
// whole panels of `inner`, so that no kernel looks where a weight ends.
#pragma once

#if defined(__CUDACC__)
#define POCO_EITHER_SIDE __host__ __device__
#else
#define POCO_EITHER_SIDE
#endif

namespace poco {
namespace cuda {

constexpr int kThreads = 256;          // of a block, in every kernel
constexpr int kWarps = kThreads / 32;  // of a block
constexpr int kTile = 32;              // columns of a tile of a product; every width is rounded up to it
constexpr int kTileRows = 16;          // and its rows
constexpr int kPanel = 64;             // columns of the wide layers that are made, used and forgotten
constexpr int kTokensAtOnce = 8;       // of a product of latents
constexpr int kPoolRows = 32;          // tokens that pass 1 takes at a time, if they fit
constexpr int kRoom = 8;               // between rows in shared memory, so that they begin in other banks

POCO_EITHER_SIDE constexpr int whole(int count, int of) {
    return (count + of - 1) / of * of;
}

// ---- Pass 1, population to latents: a block pools one segment of the units of one part; then the parts are merged.

template <typename T>
struct PoolParts {
    int units, context, segments, length, width, latents;  // N, C, S, L, d, Q
    int rows, parts;                                       // units at a time, and into how many parts they are cut
    float eps;
    const T* x;                 // [N, C]
    const unsigned char* seen;  // [N], 0: left out
    const T* table;             // [N, d]
    const T* token_weight;      // [L, d]
    const float* token_bias;    // [d]
    const float* norm_weight;   // [d]
    const float* norm_bias;     // [d]
    const float* queries;       // [S, d, Q]
    float* most;                // [parts, S, Q] largest score, -infinity where nobody is seen
    float* sum;                 // [parts, S, Q] of the weights relative to it
    float* pooled;              // [parts, S, Q, d] of the tokens by these weights
};

// In shared memory: tokens [rows, d + 1], weights [rows, Q], largest and sum and factor [Q], pooled [Q, d].
POCO_EITHER_SIDE constexpr long pool_floats(int rows, int width, int latents) {
    return static_cast<long>(rows) * (width + 1 + latents) + 3L * latents + static_cast<long>(latents) * width;
}

struct PoolMerge {
    int parts, segments, latents, width;
    const float* most;  // as above
    const float* sum;
    const float* part;  // [parts, S, Q, d]
    float* pooled;      // [S, Q, d]; 0 if nobody is seen
};

// In shared memory: what each part and segment counts [parts, S], and a number of each warp.
POCO_EITHER_SIDE constexpr long merge_floats(int parts, int segments) {
    return static_cast<long>(parts) * segments + kWarps;
}

// ---- Between the passes. A block makes the 32 columns of a product of 8 tokens.

template <typename T>
struct TokenProduct {
    int tokens, inner, columns, weight_row;
    int in_row, out_row;  // from one token to the next
    int gate;             // > 0: values in these columns, gates so many further: value * gelu(gate)
    float eps;
    const float* in;           // [tokens, inner]
    const float* norm_weight;  // [inner]; nullptr: not normalised
    const float* norm_bias;    // [inner]
    const T* weight;           // [inner, weight_row]
    const float* bias;         // of all columns; nullptr: none
    const float* base;         // as out, added; nullptr: none
    float* out;                // [tokens, columns]
};

// out[m] = factor * sum over segments of in[segment, m], each turned by its time.
struct TurnedSum {
    int segments, latents, head_width;
    int in_row;         // from one token to the next
    float way, factor;  // 1: forward, -1: back
    const float* in;
    const float* cosine;  // [S * Q, dh / 4]
    const float* sine;
    float* out;  // [Q, dh]
};

// Self-attention: a block makes one head of one latent. Latents turn by their times.
struct Attend {
    int latents, heads, head_width;
    const float* in;      // [Q, 3, heads, dh]: queries, keys, values
    const float* cosine;  // [Q, dh / 4]
    const float* sine;
    float* out;  // [Q, heads, dh]
};

// In shared memory: of each token what it is normalised by [8, 2], and the sums of each warp [8 warps, 8, 32].
constexpr long kTokenFloats = 2 * kTokensAtOnce + kWarps * kTokensAtOnce * 32;

// In shared memory: weights [Q], the query and what is attended [dh] each, and a number of each warp.
POCO_EITHER_SIDE constexpr long attend_floats(int latents, int head_width) {
    return latents + 2L * head_width + kWarps;
}

// ---- Pass 2, latents to every unit: a block takes some rows through the whole chain in shared memory.

template <typename T>
struct Film {
    int units, context, horizon, width, latents, ffn_width, film_width;  // N, C, H, d, Q, F, K
    int rows;                                                            // at a time
    float eps;
    const T* x;                                                                                           // [N, C]
    const T* table;                                                                                       // [N, d]
    const float* keys;                                                                                    // [Q, d]
    const float* values;                                                                                  // [Q, d]
    const float *attention_bias, *query_norm_weight, *query_norm_bias, *ffn_norm_weight, *ffn_norm_bias;  // [d]
    const T *value_weight, *gate_weight;                                                                  // [d, F]
    const float *value_bias, *gate_bias;                                                                  // [F]
    const T* ffn_out_weight;                                                                              // [F, d]
    const float* ffn_out_bias;                                                                            // [d]
    const T *scale_weight, *in_weight;   // [d, K], [C, K]
    const float *scale_bias, *in_bias;   // [K]
    const T *shift_weight, *out_weight;  // [d, H], [K, H]
    const float* shift_bias;             // [H]
    T* forecast;                         // [N, H]
};

// Where things lie in the shared memory of a block of pass 2, in bytes, and their rows.
struct FilmPlaces {
    int state_row, activity_row, panel_row, forecast_row, weights_row;
    long normed, activity, panel, left, right, forecast, weights, bytes;  // state lies at 0

    POCO_EITHER_SIDE constexpr FilmPlaces(int rows, int context, int horizon, int width, int latents, int size)
        : state_row(whole(width, kTile) + kRoom),
          activity_row(whole(context, kTile) + kRoom),
          panel_row(kPanel + kRoom),
          forecast_row(whole(horizon, kTile) + kRoom),
          weights_row(latents),
          normed(4L * rows * state_row),
          activity(normed + static_cast<long>(size) * rows * state_row),
          panel(activity + static_cast<long>(size) * rows * activity_row),
          left(panel + static_cast<long>(size) * rows * panel_row),
          right(left + 4L * rows * panel_row),
          forecast(right + 4L * rows * panel_row),
          weights(forecast + 4L * rows * forecast_row),
          bytes(weights + 4L * rows * weights_row) {}
};

}  // namespace cuda
}  // namespace poco
