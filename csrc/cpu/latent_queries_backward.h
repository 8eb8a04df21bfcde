// The backward of the latents' queries: as that of the latent transformer, of which they share the tiles.
#pragma once

#include "cpu/latent_training_backward.h"

namespace poco {
namespace {

// What a tile keeps for the gradients of the parameters.
struct QuerySums {
    NormSums norm;
    OperandPlane query, turned;  // gradients of what the latents ask, [dh]; their questions at each segment, [S][dh]
    Lines grads;                 // of the gradient, segment after segment

    template <typename T>
    QuerySums(const LatentQueries<T>& call, Pieces& pieces)
        : norm(call.width, pieces),
          query(plain_plane(call.head_width, pieces)),
          turned(plain_plane(call.segments * call.head_width, pieces)),
          grads(call.width, pieces, call.segments) {}
};

struct QueryWeights {
    NormWeights norm;
    Matrix query, key;  // [dh, d]

    template <typename T>
    QueryWeights(const LatentQueries<T>& call, Pieces& pieces)
        : norm(call.width, call.norm_weight, call.norm_bias, pieces),
          query(call.head_width, call.width, call.query_weight, true, pieces),
          key(call.head_width, call.width, call.key_weight, false, pieces) {}
};

template <typename T>
inline void latent_queries_tile_backward(const LatentTile<T>& tile, const LatentQueriesBackward<T>& back,
                                         const QueryWeights& w, const PlaneTurns& turns, const LatentBackwardPlanes& t,
                                         const KeptNorm& norm, const QuerySums& sums) {
    const LatentQueries<T>& call = back.forward;
    const int64_t d = call.width, dh = call.head_width, lanes = tile.lanes;
    const float scale = score_scale(dh);
    rows_to_plane(tile.count, d, call.initial + tile.first_token() * d, t.state);
    normalise_tile(tile, w.norm, t, norm);
    multiply<Onto::zero>(dh, d, lanes, w.query.plain, t.normed.over_features(), kTile, t.head, kTile);
    clear_plane(dh, t.sum);
    for (int64_t s = 0; s < call.segments; ++s) {
        float *const turned = t.parts[0], *const grad = t.parts[1];
        std::memcpy(turned, t.head, static_cast<size_t>(dh * kTile) * sizeof(float));
        turn_plane(dh, lanes, turns.apart(s), 1, scale, turned);
        make_operands<1>(dh, lanes, {with_room(sums.turned.from(s * dh), turned)},
                         [&](int64_t at, int64_t, Vector* v) { *v = load(turned + at); });
        to_plane(
            tile.count, d, back.grad_queries, [&](int64_t token) { return back.grad_queries + tile.row(token, s) * d; },
            t.wide);
        make_operand_of(d, lanes, t.wide, t.wide_operand);
        make_lines(tile.count, d, t.wide_operand, sums.grads.of_plane(s));
        multiply<Onto::zero>(dh, d, lanes, w.key.plain, t.wide_operand.over_features(), kTile, grad, kTile);
        turn_plane(dh, lanes, turns.apart(s), -1, scale, grad);
        for_vectors(dh, lanes, [&](int64_t at, int64_t) { store(t.sum + at, load(t.sum + at) + load(grad + at)); });
    }
    const OperandPlane asked = with_room(sums.query, t.parts[0]);
    make_operands<1>(dh, lanes, {asked}, [&](int64_t at, int64_t, Vector* v) { *v = load(t.sum + at); });
    multiply<Onto::zero>(d, dh, lanes, w.query.turned, asked.over_features(), kTile, t.grad_normed, kTile);
    clear_plane(d, t.grad_state);
    normalise_backward(tile, w.norm, t, norm, sums.norm);
    plane_to_rows(tile.count, d, t.grad_state, back.grad_initial + tile.first_token() * d, d);
}

// One tile after another, as mostly there is one.
template <typename T>
inline void latent_queries_backward(const LatentQueriesBackward<T>& back) {
    const LatentQueries<T>& call = back.forward;
    LatentTraining<T> sizes;  // what tiles and turns want to know
    LatentTransformer<T>& p = sizes.forward;
    p.windows = call.windows;
    p.segments = call.segments;
    p.latents = call.latents;
    p.width = call.width;
    p.head_width = call.head_width;
    p.context = call.context;
    p.eps = call.eps;
    p.frequencies = call.frequencies;
    const int64_t d = call.width, dh = call.head_width;
    const int64_t tiles = latent_tile_count(call.windows, call.latents);
    Pieces shared_size, sum_size;
    static_cast<void>(QueryWeights(call, shared_size));
    static_cast<void>(PlaneTurns(p, shared_size));
    static_cast<void>(LatentBackwardPlanes(p, shared_size));
    static_cast<void>(KeptNorm(d, shared_size));
    static_cast<void>(QuerySums(call, sum_size));
    const size_t sum_bytes = sum_size.used();
    const size_t bytes = shared_size.used() + sum_bytes * static_cast<size_t>(larger(1, tiles));
    Workspace workspace(bytes);
    char* const memory = static_cast<char*>(workspace.take(bytes));
    char* const sum_memory = memory + shared_size.used();
    Pieces shared(memory);
    const QueryWeights weights(call, shared);
    const PlaneTurns turns(p, shared);
    const LatentBackwardPlanes planes(p, shared);
    const KeptNorm norm(d, shared);
    const AmxTiles amx;
    for (int64_t index = 0; index < tiles; ++index) {
        Pieces pieces(sum_memory + static_cast<size_t>(index) * sum_bytes);
        latent_queries_tile_backward(LatentTile<T>(sizes, index, tiles), back, weights, turns, planes, norm,
                                     QuerySums(call, pieces));
    }
    Pieces pieces(sum_memory);
    const QuerySums sums(call, pieces);
    const MatrixSum matrices[] = {{sums.query, sum_bytes, sums.norm.lines, dh, 1, false, back.grad_query_weight},
                                  {sums.turned, sum_bytes, sums.grads, dh, call.segments, false, back.grad_key_weight}};
    for (const MatrixSum& m : matrices) {
        for (int64_t i = 0; i < dh; i += kSumRows) sum_matrix(sizes, m, sum_bytes, tiles, i, planes.state);
    }
    sum_vector({sums.norm.weight, d, back.grad_norm_weight}, sum_bytes, tiles);
    sum_vector({sums.norm.bias, d, back.grad_norm_bias}, sum_bytes, tiles);
}

}  // namespace
}  // namespace poco
