// The latent transformer in training, backward. First every tile goes back on its own, keeping the gradients of what
// its products gave; then the gradients of the parameters, which are sums over all tiles, are made a few rows of a
// matrix at a time. So nothing depends on the number of threads, and no thread needs gradients of its own.
#pragma once

#include "cpu/latent_sums.h"
#include "cpu/latent_training.h"

namespace poco {
namespace {

// What a worker needs besides.
struct LatentBackwardPlanes : LatentPlanes {
    float *grad_state, *grad_normed, *grad_weights, *parts[3];
    float* turned;  // [latents][round_up(latents)]: what belongs to the scores of a window, transposed
    OperandPlane branch_operand;

    template <typename T>
    LatentBackwardPlanes(const LatentTransformer<T>& call, Pieces& pieces)
        : LatentPlanes(call, pieces),
          grad_state(pieces.plane(call.width)),
          grad_normed(pieces.plane(call.width)),
          grad_weights(pieces.plane(call.latents)),
          parts{pieces.plane(call.head_width), pieces.plane(call.head_width), pieces.plane(call.head_width)},
          turned(pieces.floats(call.latents * round_up(call.latents))),
          branch_operand(operand_in_place(branch, call.width, true, pieces)) {}
};

// From the gradient of what a layer took, normalised, to that of the state: added to it.
template <typename T>
inline void normalise_backward(const LatentTile<T>& tile, const NormWeights& w, const LatentBackwardPlanes& t,
                               const KeptNorm& kept, const NormSums& sums) {
    const int64_t d = tile.call.forward.width;
    sum_features(d, tile.lanes, t.grad_normed, kept.standard, sums.weight);
    sum_features(d, tile.lanes, t.grad_normed, nullptr, sums.bias);
    scale_and_shift(d, tile.lanes, kept.standard, w.weight, w.bias, t.normed);
    make_lines(tile.count, d, t.normed, sums.lines);
    standardise_backward(d, tile.lanes, t.grad_normed, kept.standard, kept.inverse_std, w.weight, t.grad_state);
}

// Makes the operand of a branch's gradient, which is in `branch`.
template <typename T>
inline void branch_backward(const LatentTile<T>& tile, const LatentBackwardPlanes& t, const BranchSums& sums) {
    const int64_t d = tile.call.forward.width;
    sum_features(d, tile.lanes, t.branch, nullptr, sums.bias);
    make_operand_of(d, tile.lanes, t.branch, t.branch_operand);
    make_lines(tile.count, d, t.branch_operand, sums.lines);
}

// The layers take the gradient of what they gave in `branch` and add that of what they took to `grad_state`.

template <typename T>
inline void feed_forward_tile_backward(const LatentTile<T>& tile, const FeedForwardWeights& w,
                                       const LatentBackwardPlanes& t, const KeptFeedForward& kept,
                                       const FeedForwardSums& sums) {
    const LatentTransformer<T>& call = tile.call.forward;
    const int64_t d = call.width, lanes = tile.lanes, hidden = call.ffn_width;
    branch_backward(tile, t, sums.branch);
    clear_plane(d, t.grad_normed);
    for (int64_t f = 0; f < hidden; f += kPanel) {
        const int64_t count = smaller(kPanel, hidden - f);
        multiply<Onto::zero>(count, d, lanes, w.out.turned.from(f, 0), t.branch_operand.over_features(), kTile, t.left,
                             kTile);
        const OperandPlane gelu_of_gate = kept.gelu_of_gate.from(f), slope_times_value = kept.slope_times_value.from(f);
        const OperandPlane values = with_room(sums.values.from(f), t.left);
        const OperandPlane gates = with_room(sums.gates.from(f), t.right);
        make_operands<2>(count, lanes, {values, gates}, [&](int64_t at, int64_t, Vector* to) {
            const Vector g = load(t.left + at);
            to[0] = g * gelu_of_gate.value(at);
            to[1] = g * slope_times_value.value(at);
        });
        multiply<Onto::c>(d, count, lanes, w.in.turned.from(0, f), values.over_features(), kTile, t.grad_normed, kTile);
        multiply<Onto::c>(d, count, lanes, w.in.turned.from(0, hidden + f), gates.over_features(), kTile, t.grad_normed,
                          kTile);
        sum_rows(count, lanes, values, [&](int64_t i, float sum) { sums.in_bias[f + i] = sum; });
        sum_rows(count, lanes, gates, [&](int64_t i, float sum) { sums.in_bias[hidden + f + i] = sum; });
    }
    normalise_backward(tile, w.norm, t, kept.norm, sums.norm);
}

// What belongs to the scores of the window whose first lane is `lane`, the other way round.
inline void turn_scores(int64_t latents, const float* plane, int64_t lane, float* to) {
    transpose(latents, latents, plane + lane, kTile, to, round_up(latents));
}

template <typename T>
inline void attention_tile_backward(const LatentTile<T>& tile, const LayerWeights& w, const PlaneTurns& turns,
                                    const LatentBackwardPlanes& t, const KeptLayer& kept, const LayerSums& sums) {
    const LatentTransformer<T>& call = tile.call.forward;
    const int64_t d = call.width, dh = call.head_width, lanes = tile.lanes, latents = call.latents;
    const int64_t turned_row = round_up(latents);
    const float scale = score_scale(dh);
    branch_backward(tile, t, sums.branch);
    clear_plane(d, t.grad_normed);
    for (int64_t h = 0; h < call.heads; ++h) {
        const int64_t first = h * dh;
        const float *const query = kept.parts[0] + first * kTile, *const key = kept.parts[1] + first * kTile;
        const float *const value = kept.parts[2] + first * kTile, *const weights = kept.weights + h * latents * kTile;
        multiply<Onto::zero>(dh, d, lanes, w.output.turned.from(first, 0), t.branch_operand.over_features(), kTile,
                             t.head, kTile);
        turn_plane(dh, lanes, turns.latent(), 1, 1, t.head);
        tile.for_windows([&](int64_t at) {
            multiply_window(latents, dh, latents, {value + at, 1, kTile}, t.head + at, kTile, t.grad_weights, at,
                            t.room);
            turn_scores(latents, weights, at, t.turned);
            multiply_window(dh, latents, latents, {t.head + at, kTile, 1}, t.turned, turned_row, t.parts[2], at,
                            t.room);
        });
        clear_tail(tile, latents, t.grad_weights);
        softmax_backward(latents, lanes, weights, t.grad_weights);
        tile.for_windows([&](int64_t at) {
            multiply_window(dh, latents, latents, {key + at, kTile, 1}, t.grad_weights + at, kTile, t.parts[0], at,
                            t.room);
            turn_scores(latents, t.grad_weights, at, t.turned);
            multiply_window(dh, latents, latents, {query + at, kTile, 1}, t.turned, turned_row, t.parts[1], at, t.room);
        });
        for (int64_t i = 0; i < 3; ++i) {
            float* const part = t.parts[i];
            clear_tail(tile, dh, part);
            turn_plane(dh, lanes, turns.latent(), -1, i == 0 ? scale : 1, part);
            const OperandPlane operand = with_room(sums.parts[i].from(first), part);
            make_operands<1>(dh, lanes, {operand}, [&](int64_t at, int64_t, Vector* v) { *v = load(part + at); });
            multiply<Onto::c>(d, dh, lanes, w.projection.turned.from(0, (i * call.heads + h) * dh),
                              operand.over_features(), kTile, t.grad_normed, kTile);
        }
    }
    normalise_backward(tile, w.norm, t, kept.norm, sums.norm);
}

// `grad_state` from the gradients of keys and values.
template <typename T>
inline void write_tile_backward(const LatentTile<T>& tile, const LatentTrainingBackward<T>& back,
                                const LatentWeights& w, const PlaneTurns& turns, const LatentBackwardPlanes& t,
                                const KeptTile<T>& kept, const TileSums<T>& sums) {
    const LatentTransformer<T>& call = tile.call.forward;
    const int64_t d = call.width, dh = call.head_width, lanes = tile.lanes;
    // The operand of the gradient of keys or values, from rows.
    const auto take = [&](const float* rows, const Lines& lines) {
        rows_to_plane(tile.count, d, rows + tile.first_token() * d, t.wide);
        make_operand_of(d, lanes, t.wide, t.wide_operand);
        make_lines(tile.count, d, t.wide_operand, lines);
        return t.wide_operand.over_features();
    };
    // From the gradient of what a projection gave, in `head`, to that of the normalised state.
    const auto project_back = [&](const OperandPlane& to, const Matrix& weights) {
        const OperandPlane operand = with_room(to, t.head);
        make_operands<1>(dh, lanes, {operand}, [&](int64_t at, int64_t, Vector* v) { *v = load(t.head + at); });
        multiply<Onto::c>(d, dh, lanes, weights.turned, operand.over_features(), kTile, t.grad_normed, kTile);
    };
    clear_plane(d, t.grad_state);
    clear_plane(d, t.grad_normed);
    multiply<Onto::zero>(dh, d, lanes, w.write_query.plain, take(back.grad_keys, sums.grad_keys), kTile, t.head, kTile);
    turn_plane(dh, lanes, turns.ahead(), -1, score_scale(dh), t.head);
    project_back(sums.key, w.write_key);
    multiply<Onto::zero>(dh, d, lanes, w.write_output.turned, take(back.grad_values, sums.grad_values), kTile, t.head,
                         kTile);
    project_back(sums.value, w.write_value);
    normalise_backward(tile, w.write_norm, t, kept.write_norm, sums.write_norm);
}

// From `grad_state` to the gradients of the initial latents and of what was pooled.
template <typename T>
inline void read_tile_backward(const LatentTile<T>& tile, const LatentTrainingBackward<T>& back, const LatentWeights& w,
                               const PlaneTurns& turns, const LatentBackwardPlanes& t, const TileSums<T>& sums) {
    const LatentTransformer<T>& call = tile.call.forward;
    const int64_t d = call.width, dh = call.head_width, lanes = tile.lanes, latents = call.latents;
    std::memcpy(t.branch, t.grad_state, static_cast<size_t>(d * kTile) * sizeof(float));
    branch_backward(tile, t, sums.read);
    if (back.grad_initial != nullptr && call.initial_windows > 1) {
        plane_to_rows(tile.count, d, t.grad_state, back.grad_initial + tile.first_token() * d, d);
    } else {
        for (int64_t m = 0; m < latents; ++m) {
            for (int64_t j = 0; j < d; ++j) {
                float total = 0;
                for (int64_t at = j * kTile + m; at < j * kTile + tile.count; at += latents) total += t.grad_state[at];
                sums.initial[m * d + j] = total;
            }
        }
    }
    multiply<Onto::zero>(dh, d, lanes, w.read_output.turned, t.branch_operand.over_features(), kTile, t.head, kTile);
    for (int64_t s = 0; s < call.segments; ++s) {
        float* const part = t.parts[0];
        std::memcpy(part, t.head, static_cast<size_t>(dh * kTile) * sizeof(float));
        turn_plane(dh, lanes, turns.apart(s), 1, 1, part);
        const OperandPlane operand = with_room(sums.read_value.from(s * dh), part);
        make_operands<1>(dh, lanes, {operand}, [&](int64_t at, int64_t, Vector* v) { *v = load(part + at); });
        pooled_to_plane(tile, s, t.wide);
        make_operand_of(d, lanes, t.wide, t.wide_operand);
        make_lines(tile.count, d, t.wide_operand, sums.pooled.of_plane(s));
        if (back.grad_pooled == nullptr) continue;
        multiply<Onto::zero>(d, dh, lanes, w.read_value.turned, operand.over_features(), kTile, t.grad_normed, kTile);
        tile.for_windows([&](int64_t at) {
            plane_to_rows(latents, d, t.grad_normed + at, back.grad_pooled + tile.row(at, s) * d, d);
        });
    }
}

template <typename T>
inline void latent_training_tile_backward(const LatentTile<T>& tile, const LatentTrainingBackward<T>& back,
                                          const LatentWeights& w, const PlaneTurns& turns,
                                          const LatentBackwardPlanes& t, const KeptTile<T>& kept,
                                          const TileSums<T>& sums) {
    const LatentTransformer<T>& call = tile.call.forward;
    const DropoutColumns columns(call);
    const auto take_branch = [&](int64_t at, Vector mask) { store(t.branch + at, load(t.grad_state + at) * mask); };
    write_tile_backward(tile, back, w, turns, t, kept, sums);
    for (int64_t i = call.layers - 1; i >= 0; --i) {
        const KeptLayer layer = kept.layer(i);
        const LayerSums layer_sums = sums.layer(i);
        for_masked(tile, columns.ffn_branch(i), t.mask, take_branch);
        feed_forward_tile_backward(tile, w.layers[i].ffn, t, layer.ffn, layer_sums.ffn);
        for_masked(tile, columns.attention_branch(i), t.mask, take_branch);
        attention_tile_backward(tile, w.layers[i], turns, t, layer, layer_sums);
    }
    for_vectors(call.width, tile.lanes, [&](int64_t at, int64_t) { take_branch(at, broadcast(1.0f)); });
    feed_forward_tile_backward(tile, w.read_ffn, t, kept.read_ffn, sums.read_ffn);
    read_tile_backward(tile, back, w, turns, t, sums);
}

template <typename T>
inline void latent_training_backward(const LatentTrainingBackward<T>& back) {
    const LatentTraining<T>& training = back.forward;
    const LatentTransformer<T>& call = training.forward;
    const int64_t tiles = latent_tile_count(call.windows, call.latents);
    const int threads = static_cast<int>(larger(1, call.threads));
    const bool shared_initial = back.grad_initial != nullptr && call.initial_windows == 1;
    const KeptTile<T> kept(call, training.kept);
    const size_t kept_bytes = kept.bytes(), sum_bytes = TileSums<T>(call, nullptr).bytes();
    const LatentGradients<T> counts(call, KeptTile<T>(call, nullptr), TileSums<T>(call, nullptr), nullptr, nullptr,
                                    nullptr);
    Pieces shared_size, worker_size, list_size;
    static_cast<void>(LatentWeights(call, true, shared_size));
    static_cast<void>(PlaneTurns(call, shared_size));
    static_cast<void>(LatentBackwardPlanes(call, worker_size));
    list_size.array<MatrixSum>(counts.matrices);
    list_size.array<VectorSum>(counts.vectors);
    const size_t worker_bytes = worker_size.used() * static_cast<size_t>(threads);
    const size_t bytes =
        shared_size.used() + worker_bytes + list_size.used() + sum_bytes * static_cast<size_t>(larger(1, tiles));
    Workspace workspace(bytes);
    char* const memory = static_cast<char*>(workspace.take(bytes));
    char* const worker_memory = memory + shared_size.used();
    char* const list_memory = worker_memory + worker_bytes;
    char* const sum_memory = list_memory + list_size.used();
    Pieces shared(memory);
    const LatentWeights weights(call, true, shared);
    const PlaneTurns turns(call, shared);

    parallel_for(tiles, static_cast<int>(smaller(threads, larger(1, tiles))), [&](int64_t index, int worker) {
        Pieces pieces(worker_memory + static_cast<size_t>(worker) * worker_size.used());
        const AmxTiles amx;
        latent_training_tile_backward(LatentTile<T>(training, index, tiles), back, weights, turns,
                                      LatentBackwardPlanes(call, pieces),
                                      KeptTile<T>(call, training.kept + static_cast<size_t>(index) * kept_bytes),
                                      TileSums<T>(call, sum_memory + static_cast<size_t>(index) * sum_bytes));
    });

    const TileSums<T> sums(call, sum_memory);
    if (shared_initial) sum_vector({sums.initial, call.latents * call.width, back.grad_initial}, sum_bytes, tiles);
    if (back.grad_parameters == nullptr) return;
    Pieces lists(list_memory);
    auto* const matrix = lists.array<MatrixSum>(counts.matrices);
    auto* const vector = lists.array<VectorSum>(counts.vectors);
    static_cast<void>(LatentGradients<T>(call, kept, sums, back.grad_parameters, matrix, vector));
    for (int64_t i = 0; i < counts.vectors; ++i) sum_vector(vector[i], sum_bytes, tiles);
    int64_t pieces_of_all = 0;
    for (int64_t i = 0; i < counts.matrices; ++i) pieces_of_all += (matrix[i].features + kSumRows - 1) / kSumRows;
    parallel_for(pieces_of_all, threads, [&](int64_t piece, int worker) {
        const MatrixSum* m = matrix;
        for (int64_t count; piece >= (count = (m->features + kSumRows - 1) / kSumRows); ++m) piece -= count;
        auto* const room = reinterpret_cast<float*>(worker_memory + static_cast<size_t>(worker) * worker_size.used());
        const AmxTiles amx;
        sum_matrix(training, *m, sum_bytes, tiles, piece * kSumRows, room);
    });
}

}  // namespace
}  // namespace poco
