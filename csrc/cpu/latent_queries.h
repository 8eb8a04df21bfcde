// Before pass 1: the queries of the latents, absorbed into token space. poco/ops/model_reference.py says what is
// computed.
#pragma once

#include "core/thread_pool.h"
#include "core/workspace.h"
#include "cpu/kernels.h"
#include "cpu/latent_turns.h"
#include "cpu/token_rows.h"

namespace poco {
namespace {

template <typename T>
struct QueryRows {
    float *latent, *query, *turned;
    Activation<T>* normed;

    QueryRows(const LatentQueries<T>& call, Pieces& pieces)
        : latent(pieces.floats(call.latents * row_of<T>(call.width))),
          query(pieces.floats(call.latents * round_up(call.head_width))),
          turned(pieces.floats(call.latents * round_up(call.head_width))),
          normed(activations<T>(pieces, call.latents * row_of<T>(call.width))) {}
};

template <typename T>
inline void latent_queries_window(const LatentQueries<T>& call, const Turns& apart, int64_t window,
                                  const QueryRows<T>& rows) {
    const int64_t d = call.width, latents = call.latents, row = row_of<T>(d), head_row = round_up(call.head_width);
    widen_rows(latents, d, call.initial + window * latents * d, rows.latent, row);
    normalise_tokens(latents, d, call.eps, rows.latent, call.norm_weight, call.norm_bias, rows.normed, row);
    project(call.head_width, d, call.query_weight, latents, rows.normed, row, rows.query, head_row);
    const float scale = score_scale(call.head_width);
    for (int64_t s = 0; s < call.segments; ++s) {
        std::memcpy(rows.turned, rows.query, static_cast<size_t>(latents * head_row) * sizeof(float));
        for (int64_t m = 0; m < latents; ++m) turn(apart, s * latents + m, 1, rows.turned + m * head_row);
        multiply_tokens_transposed(call.head_width, d, call.key_weight, latents, rows.turned, head_row, scale,
                                   call.queries + (window * call.segments + s) * latents * d);
    }
}

template <typename T>
inline void latent_queries(const LatentQueries<T>& call) {
    if (call.windows == 0) return;
    const int threads = threads_for(call.threads, call.windows);
    const int64_t turns = turns_size(call.head_width, call.segments * call.latents);
    Pieces size;
    QueryRows<T>(call, size);
    const size_t each = size.used();
    size.floats(turns);
    Workspace workspace(size.used() + each * static_cast<size_t>(threads));
    char* memory = static_cast<char*>(workspace.take(each * static_cast<size_t>(threads)));
    const Turns apart =
        turns_apart(call, static_cast<float*>(workspace.take(static_cast<size_t>(turns) * sizeof(float))));
    parallel_for(call.windows, threads, [&](int64_t window, int worker) {
        Pieces pieces(memory + static_cast<size_t>(worker) * each);
        latent_queries_window(call, apart, window, QueryRows<T>(call, pieces));
    });
}

}  // namespace
}  // namespace poco
