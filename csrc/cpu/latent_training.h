// The latent transformer in training, forward. All windows of a tile go through it together without leaving the cache,
// but for what is kept of them. poco/ops/model_reference.py says what is computed.
#pragma once

#include "cpu/latent_tiles.h"

namespace poco {
namespace {

// What a worker needs for the tile it is at. Where operands of products take the place of a plane, it has no name.
struct LatentPlanes {
    float *state, *branch, *left, *right, *head, *sum, *mask, *room;
    float* wide;  // [d]
    OperandPlane wide_operand, normed;

    template <typename T>
    LatentPlanes(const LatentTransformer<T>& call, Pieces& pieces)
        : state(pieces.plane(call.width)),
          branch(pieces.plane(call.width)),
          left(pieces.plane(kPanel)),
          right(pieces.plane(kPanel)),
          head(pieces.plane(call.head_width)),
          sum(pieces.plane(call.head_width)),
          mask(pieces.plane(kPanel)),
          room(pieces.floats(larger(call.head_width, call.latents) * round_up(call.latents))),
          wide(pieces.plane(call.width)),
          wide_operand(operand_in_place(wide, call.width, true, pieces)),
          normed(operand_in_place(pieces.plane(call.width), call.width, true, pieces)) {}
};

// The plane of what was pooled of a segment.
template <typename T>
inline void pooled_to_plane(const LatentTile<T>& tile, int64_t segment, float* plane) {
    const LatentTransformer<T>& call = tile.call.forward;
    to_plane(
        tile.count, call.width, call.pooled,
        [&](int64_t token) { return call.pooled + tile.row(token, segment) * call.width; }, plane);
}

template <typename T>
inline void read_tile(const LatentTile<T>& tile, const LatentWeights& w, const PlaneTurns& turns, const LatentPlanes& t,
                      const OperandPlane& summed) {
    const LatentTransformer<T>& call = tile.call.forward;
    const int64_t d = call.width, dh = call.head_width, lanes = tile.lanes;
    clear_plane(dh, t.sum);
    for (int64_t s = 0; s < call.segments; ++s) {
        pooled_to_plane(tile, s, t.wide);
        make_operand_of(d, lanes, t.wide, t.wide_operand);
        multiply<Onto::zero>(dh, d, lanes, w.read_value.plain, t.wide_operand.over_features(), kTile, t.head, kTile);
        turn_plane(dh, lanes, turns.apart(s), -1, 1, t.head);
        for_vectors(dh, lanes, [&](int64_t at, int64_t) { store(t.sum + at, load(t.sum + at) + load(t.head + at)); });
    }
    const OperandPlane operand = with_room(summed, t.head);
    make_operands<1>(dh, lanes, {operand}, [&](int64_t at, int64_t, Vector* value) { *value = load(t.sum + at); });
    to_plane(
        tile.count, d, call.initial,
        [&](int64_t token) {
            return call.initial + (call.initial_windows > 1 ? tile.row(token) : token % call.latents) * d;
        },
        t.state);
    multiply<Onto::c>(d, dh, lanes, w.read_output.plain, operand.over_features(), kTile, t.state, kTile);
    add_to_features(d, lanes, w.read_output_bias, t.state);
}

// What a layer takes: the state, normalised, as an operand.
template <typename T>
inline void normalise_tile(const LatentTile<T>& tile, const NormWeights& w, const LatentPlanes& t,
                           const KeptNorm& kept) {
    const LatentTransformer<T>& call = tile.call.forward;
    standardise(call.width, tile.lanes, call.eps, t.state, kept.standard, kept.inverse_std);
    scale_and_shift(call.width, tile.lanes, kept.standard, w.weight, w.bias, t.normed);
}

// `branch`: what the gated feed-forward layer makes of the state. `column`: the first of its random words.
template <typename T>
inline void feed_forward_tile(const LatentTile<T>& tile, const FeedForwardWeights& w, int64_t column,
                              const LatentPlanes& t, const KeptFeedForward& kept) {
    const LatentTransformer<T>& call = tile.call.forward;
    const int64_t d = call.width, lanes = tile.lanes, hidden = call.ffn_width;
    const bool drops = tile.call.ffn_dropout > 0;
    const Dropout dropout = dropout_of(tile.call.seed, tile.call.ffn_dropout);
    normalise_tile(tile, w.norm, t, kept.norm);
    const Word* const normed = t.normed.over_features();
    for (int64_t f = 0; f < hidden; f += kPanel) {
        const int64_t count = smaller(kPanel, hidden - f);
        multiply<Onto::bias>(count, d, lanes, w.in.plain.from(f, 0), normed, kTile, t.left, kTile, w.in_bias + f);
        multiply<Onto::bias>(count, d, lanes, w.in.plain.from(hidden + f, 0), normed, kTile, t.right, kTile,
                             w.in_bias + hidden + f);
        if (drops) dropout.fill(tile.first_token(), lanes, column + f, count, t.mask);
        const OperandPlane gated = with_room(kept.gated.from(f), t.left);
        const OperandPlane to[] = {gated, kept.gelu_of_gate.from(f), kept.slope_times_value.from(f)};
        make_operands(count, lanes, to, [&](int64_t at, int64_t, Vector* values) {
            gate_value(load(t.left + at), load(t.right + at), drops ? t.mask + at : nullptr, values);
        });
        const Weights out = w.out.plain.from(0, f);
        if (f == 0) {
            multiply<Onto::bias>(d, count, lanes, out, gated.over_features(), kTile, t.branch, kTile, w.out_bias);
        } else {
            multiply<Onto::c>(d, count, lanes, out, gated.over_features(), kTile, t.branch, kTile);
        }
    }
}

// `branch`: what self-attention makes of the state.
template <typename T>
inline void attention_tile(const LatentTile<T>& tile, const LayerWeights& w, const PlaneTurns& turns,
                           const LatentPlanes& t, const KeptLayer& kept) {
    const LatentTransformer<T>& call = tile.call.forward;
    const int64_t d = call.width, dh = call.head_width, lanes = tile.lanes, latents = call.latents;
    const float scale = score_scale(dh);
    normalise_tile(tile, w.norm, t, kept.norm);
    for (int64_t h = 0; h < call.heads; ++h) {
        float* part[3];
        for (int64_t i = 0; i < 3; ++i) {
            part[i] = kept.parts[i] + h * dh * kTile;
            multiply<Onto::zero>(dh, d, lanes, w.projection.plain.from((i * call.heads + h) * dh, 0),
                                 t.normed.over_features(), kTile, part[i], kTile);
            turn_plane(dh, lanes, turns.latent(), 1, i == 0 ? scale : 1, part[i]);
        }
        const float *const query = part[0], *const key = part[1], *const value = part[2];
        float* const weights = kept.weights + h * latents * kTile;
        tile.for_windows([&](int64_t at) {
            multiply_window(latents, dh, latents, {key + at, 1, kTile}, query + at, kTile, weights, at, t.room);
        });
        clear_tail(tile, latents, weights);
        softmax(latents, lanes, weights);
        tile.for_windows([&](int64_t at) {
            multiply_window(dh, latents, latents, {value + at, kTile, 1}, weights + at, kTile, t.head, at, t.room);
        });
        clear_tail(tile, dh, t.head);
        turn_plane(dh, lanes, turns.latent(), -1, 1, t.head);
        const OperandPlane attended = with_room(kept.attended.from(h * dh), t.head);
        make_operands<1>(dh, lanes, {attended}, [&](int64_t at, int64_t, Vector* v) { *v = load(t.head + at); });
        const Weights output = w.output.plain.from(0, h * dh);
        if (h == 0) {
            multiply<Onto::bias>(d, dh, lanes, output, attended.over_features(), kTile, t.branch, kTile, w.output_bias);
        } else {
            multiply<Onto::c>(d, dh, lanes, output, attended.over_features(), kTile, t.branch, kTile);
        }
    }
}

// Keys and values from the state.
template <typename T>
inline void write_tile(const LatentTile<T>& tile, const LatentWeights& w, const PlaneTurns& turns,
                       const LatentPlanes& t, const KeptTile<T>& kept) {
    const LatentTransformer<T>& call = tile.call.forward;
    const int64_t d = call.width, dh = call.head_width, lanes = tile.lanes;
    const auto head_operand = [&](const OperandPlane& to) {
        const OperandPlane operand = with_room(to, t.head);
        make_operands<1>(dh, lanes, {operand}, [&](int64_t at, int64_t, Vector* v) { *v = load(t.head + at); });
        return operand.over_features();
    };
    normalise_tile(tile, w.write_norm, t, kept.write_norm);
    multiply<Onto::zero>(dh, d, lanes, w.write_key.plain, t.normed.over_features(), kTile, t.head, kTile);
    turn_plane(dh, lanes, turns.ahead(), 1, score_scale(dh), t.head);
    multiply<Onto::zero>(d, dh, lanes, w.write_query.turned, head_operand(kept.key), kTile, t.branch, kTile);
    finish_plane(tile.count, d, t.branch, call.keys + tile.first_token() * d);
    multiply<Onto::zero>(dh, d, lanes, w.write_value.plain, t.normed.over_features(), kTile, t.head, kTile);
    multiply<Onto::zero>(d, dh, lanes, w.write_output.plain, head_operand(kept.value), kTile, t.branch, kTile);
    finish_plane(tile.count, d, t.branch, call.values + tile.first_token() * d);
}

template <typename T>
inline void latent_training_tile(const LatentTile<T>& tile, const LatentWeights& w, const PlaneTurns& turns,
                                 const LatentPlanes& t, const KeptTile<T>& kept) {
    const LatentTransformer<T>& call = tile.call.forward;
    const DropoutColumns columns(call);
    const auto add_branch = [&](int64_t at, Vector mask) {
        store(t.state + at, fma(load(t.branch + at), mask, load(t.state + at)));
    };
    read_tile(tile, w, turns, t, kept.summed);
    feed_forward_tile(tile, w.read_ffn, columns.read_ffn(), t, kept.read_ffn);
    for_vectors(call.width, tile.lanes, [&](int64_t at, int64_t) { add_branch(at, broadcast(1.0f)); });
    for (int64_t i = 0; i < call.layers; ++i) {
        const KeptLayer layer = kept.layer(i);
        attention_tile(tile, w.layers[i], turns, t, layer);
        for_masked(tile, columns.attention_branch(i), t.mask, add_branch);
        feed_forward_tile(tile, w.layers[i].ffn, columns.ffn(i), t, layer.ffn);
        for_masked(tile, columns.ffn_branch(i), t.mask, add_branch);
    }
    write_tile(tile, w, turns, t, kept);
}

template <typename T>
inline void latent_training(const LatentTraining<T>& training) {
    const LatentTransformer<T>& call = training.forward;
    const int64_t tiles = latent_tile_count(call.windows, call.latents);
    if (tiles == 0) return;
    const int threads = threads_for(call.threads, tiles);
    Pieces shared_size, plane_size;
    static_cast<void>(LatentWeights(call, false, shared_size));
    static_cast<void>(PlaneTurns(call, shared_size));
    static_cast<void>(LatentPlanes(call, plane_size));
    const size_t bytes = shared_size.used() + plane_size.used() * static_cast<size_t>(threads);
    Workspace workspace(bytes);
    char* const memory = static_cast<char*>(workspace.take(bytes));
    Pieces shared(memory);
    const LatentWeights weights(call, false, shared);
    const PlaneTurns turns(call, shared);
    const size_t kept_bytes = KeptTile<T>(call, nullptr).bytes();
    parallel_for(tiles, threads, [&](int64_t index, int worker) {
        Pieces pieces(memory + shared_size.used() + static_cast<size_t>(worker) * plane_size.used());
        const AmxTiles amx;
        latent_training_tile(LatentTile<T>(training, index, tiles), weights, turns, LatentPlanes(call, pieces),
                             KeptTile<T>(call, training.kept + static_cast<size_t>(index) * kept_bytes));
    });
}

}  // namespace
}  // namespace poco
