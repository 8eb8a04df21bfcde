// Pass 1: the tokens of a population pooled into a few latents by attention.
//
// The softmax is taken as it comes: for every segment and latent there are the largest score so far, the sum of the
// exponentials and the weighted sums of what tokens are made of; two such states merge into one. So the states of the
// pieces of a window are merged in the order of the rows.
#pragma once

#include "core/thread_pool.h"
#include "cpu/latent_pool_tile.h"

namespace poco {
namespace {

// ---- The state of a softmax over some rows, for every segment and latent.

struct PoolState {
    float* most;   // [S * Q in whole vectors]: largest score
    float* total;  // [S * Q in whole vectors]: sum of weight = exp(score - most)
    float* v;      // [S * Q, width]: sum of weight * inverse_std * v
    float* x;      // [S * Q, length]: sum of weight * inverse_std * x

    template <typename T>
    PoolState(const LatentPool<T>& p, Pieces& memory) {
        const int64_t count = p.segments * p.latents;
        most = memory.floats(round_up(count));
        total = memory.floats(round_up(count));
        v = memory.floats(count * round_up(p.width));
        x = memory.floats(count * round_up(p.segment_length));
    }
};

template <typename T>
inline void reset_pool_state(const LatentPool<T>& p, const PoolState& state) {
    const int64_t count = p.segments * p.latents;
    for (int64_t i = 0; i < round_up(count); ++i) state.most[i] = -__builtin_inff();
    clear(state.total, round_up(count));
    clear(state.v, count * round_up(p.width));
    clear(state.x, count * round_up(p.segment_length));
}

inline void scale_row(float* row, float factor, int64_t width) {
    for (int64_t j = 0; j < width; j += kLanes) store(row + j, load(row + j) * factor);
}

inline void mix_rows(float* to, float keep, const float* from, float take, int64_t width) {
    for (int64_t j = 0; j < width; j += kLanes) store(to + j, load(to + j) * keep + load(from + j) * take);
}

// Adds `part` to `state`. Not both may be without rows.
template <typename T>
inline void merge_pool_state(const LatentPool<T>& p, const PoolState& state, const PoolState& part) {
    const int64_t width = round_up(p.width);
    const int64_t length = round_up(p.segment_length);
    const int64_t count = p.segments * p.latents;
    for (int64_t i0 = 0; i0 < count; i0 += kLanes) {
        const Vector most = max(load(state.most + i0), load(part.most + i0));
        const Vector keep = exp(load(state.most + i0) - most);
        const Vector take = exp(load(part.most + i0) - most);
        store(state.total + i0, load(state.total + i0) * keep + load(part.total + i0) * take);
        store(state.most + i0, most);
        for (int64_t i = i0; i < count && i < i0 + kLanes; ++i) {
            mix_rows(state.v + i * width, keep[i - i0], part.v + i * width, take[i - i0], width);
            mix_rows(state.x + i * length, keep[i - i0], part.x + i * length, take[i - i0], length);
        }
    }
}

// What a window's state comes to. Overwrites the state.
template <typename T>
inline void finish_window(const LatentPool<T>& p, const PoolWeights& w, const PoolState& state, int64_t window) {
    const int64_t count = p.segments * p.latents;
    float* pooled = p.pooled + window * count * p.width;
    float* logsumexp = p.logsumexp + window * p.latents;
    if (p.window_offsets[window + 1] == p.window_offsets[window] || p.segments == 0) {
        clear(pooled, count * p.width);
        for (int64_t m = 0; m < p.latents; ++m) logsumexp[m] = -__builtin_inff();
        return;
    }
    // The sums of standardised tokens.
    product<Onto::c>(count, p.segment_length, p.width, Strided{state.x, w.length, 1}, w.token_weight, w.width, state.v,
                     w.width);
    for (int64_t m = 0; m < p.latents; ++m) {
        float most = state.most[m];
        for (int64_t i = m; i < count; i += p.latents) most = state.most[i] > most ? state.most[i] : most;
        float total = 0;
        for (int64_t i = m; i < count; i += p.latents) total += state.total[i] * __builtin_expf(state.most[i] - most);
        logsumexp[m] = most + __builtin_logf(total);
        for (int64_t i = m; i < count; i += p.latents) {
            const Vector factor = broadcast(__builtin_expf(state.most[i] - most) / total);
            const Vector share = factor * state.total[i];
            for (int64_t j = 0; j < w.width; j += kLanes) {
                const Vector y = fma(load(state.v + i * w.width + j) * factor, load(w.norm_weight + j),
                                     load(w.norm_bias + j) * share);
                store_at_most(pooled + i * p.width + j, y, p.width - j);
            }
        }
    }
}

// ---- Forward.

template <typename T>
inline void pack_queries(const LatentPool<T>& p, const PoolWeights& w, int64_t window, const PoolVectors& vectors) {
    const int64_t size = p.segments * p.latents * p.width;
    vectors.take(p, w, p.queries + (p.query_windows > 1 ? window : 0) * size, 0);
    vectors.finish(p, w);
}

// Takes a tile of rows into `state`. The plane `on` goes from products to scores to weights * inverse_std. `line` has
// room for S * Q floats in whole vectors, twice.
template <typename T>
inline void pool_tile(const LatentPool<T>& p, const PoolWeights& w, const PoolVectors& queries, const PoolTile& tile,
                      float* line, const PoolState& state) {
    const int64_t context = p.segments * p.segment_length;
    const int64_t count = queries.all;
    const Vector lowest = broadcast(-__builtin_inff());
    float* keep = line;
    float* most = line + round_up(count);
    for (int64_t i = count; i < round_up(count); ++i) most[i] = -__builtin_inff();
    for (int64_t i = 0; i < count; ++i) {
        const float* inverse_std = tile.inverse_std + i / p.latents * kPoolTile;
        float* plane = tile.on + i * kPoolTile;
        const Vector offset = broadcast(queries.offset[i]);
        Vector top = lowest;
        for (int64_t lane = 0; lane < tile.lanes; lane += kLanes) {
            Vector score = fma(load(plane + lane), load(inverse_std + lane), offset);
            if (lane + kLanes > tile.rows) score = lanes_between(0, tile.rows - lane) ? score : lowest;
            store(plane + lane, score);
            top = max(score, top);
        }
        most[i] = largest(top);
    }
    for (int64_t i = 0; i < count; i += kLanes) {
        const Vector before = load(state.most + i);
        const Vector after = max(load(most + i), before);
        const Vector factor = exp(before - after);
        store(state.total + i, load(state.total + i) * factor);
        store(state.most + i, after);
        store(keep + i, factor);
    }
    for (int64_t i = 0; i < count; ++i) {
        const float* inverse_std = tile.inverse_std + i / p.latents * kPoolTile;
        float* plane = tile.on + i * kPoolTile;
        const Vector top = broadcast(state.most[i]);
        Vector total = {};
        for (int64_t lane = 0; lane < tile.lanes; lane += kLanes) {
            const Vector weight = exp(load(plane + lane) - top);
            total += weight;
            store(plane + lane, weight * load(inverse_std + lane));
        }
        state.total[i] += sum(total);
        if (keep[i] != 1.0f) {
            scale_row(state.v + i * w.width, keep[i], w.width);
            scale_row(state.x + i * w.length, keep[i], w.length);
        }
    }
    product<Onto::c>(count, tile.rows, p.width, Strided{tile.on, kPoolTile, 1}, tile.v, w.width, state.v, w.width);
    for (int64_t s = 0; s < p.segments; ++s) {
        const int64_t i = s * p.latents;
        product<Onto::c>(p.latents, tile.rows, p.segment_length, Strided{tile.on + i * kPoolTile, kPoolTile, 1},
                         tile.x + s * p.segment_length, context, state.x + i * w.length, w.length);
    }
}

// Memory of one thread.
struct PoolWorker {
    PoolVectors queries;
    PoolTile tile;
    PoolState recent, window;
    float* line;

    template <typename T>
    PoolWorker(const LatentPool<T>& p, Pieces& memory)
        : queries(p, p.latents, memory),
          tile(p, queries, memory),
          recent(p, memory),
          window(p, memory),
          line(memory.floats(2 * round_up(p.segments * p.latents))) {}
};

template <typename T>
inline void latent_pool(const LatentPool<T>& p) {
    PoolPlan plan = pool_plan(p, round_up(p.rows, kPoolTile));
    const int threads = threads_for(p.threads, pool_room(p, plan.chunks));
    Pieces weights_size, worker_size, state_size;
    static_cast<void>(PoolWeights(p, weights_size));
    static_cast<void>(PoolWorker(p, worker_size));
    static_cast<void>(PoolState(p, state_size));
    const size_t worker_bytes = worker_size.used() * static_cast<size_t>(threads);
    const size_t slot_bytes = state_size.used() * static_cast<size_t>(pool_room(p, plan.slots));
    Workspace workspace(pool_plan_bytes(p, plan) + weights_size.used() + worker_bytes + slot_bytes);
    list_pool_plan(p, workspace, plan);
    Pieces weights_memory(static_cast<char*>(workspace.take(weights_size.used())));
    PoolWeights weights(p, weights_memory);
    weights.fill(p);
    char* workers = static_cast<char*>(workspace.take(worker_bytes));
    char* slots = static_cast<char*>(workspace.take(slot_bytes));
    const auto state_at = [&](int64_t slot) {
        Pieces memory(slots + state_size.used() * static_cast<size_t>(slot));
        return PoolState(p, memory);
    };

    parallel_for(plan.chunks, threads, [&](int64_t chunk, int worker) {
        Pieces memory(workers + worker_size.used() * static_cast<size_t>(worker));
        PoolWorker own(p, memory);
        bool packed = false;
        for (int64_t i = plan.chunk_piece[chunk]; i < plan.chunk_piece[chunk + 1]; ++i) {
            const PoolPiece& piece = plan.piece[i];
            const PoolState all = piece.slot < 0 ? own.window : state_at(piece.slot);
            if (piece.first < piece.last && (p.query_windows > 1 || !packed)) {
                pack_queries(p, weights, piece.window, own.queries);
                packed = true;
            }
            for (int64_t first = piece.first; first < piece.last; first += kPoolFold) {
                const PoolState& into = first == piece.first ? all : own.recent;
                reset_pool_state(p, into);
                for_tiles(first, smaller(first + kPoolFold, piece.last), [&](int64_t row, int64_t rows) {
                    own.tile.fill(p, weights, own.queries, row, rows);
                    pool_tile(p, weights, own.queries, own.tile, own.line, into);
                });
                if (first > piece.first) merge_pool_state(p, all, own.recent);
            }
            if (piece.slot < 0) finish_window(p, weights, all, piece.window);
        }
    });
    if (plan.slots == 0) return;
    parallel_for(p.windows, threads, [&](int64_t window, int) {
        const int64_t begin = plan.window_piece[window];
        if (plan.window_piece[window + 1] - begin < 2) return;
        const PoolState all = state_at(plan.piece[begin].slot);
        for (int64_t i = begin + 1; i < plan.window_piece[window + 1]; ++i) {
            merge_pool_state(p, all, state_at(plan.piece[i].slot));
        }
        finish_window(p, weights, all, window);
    });
}

}  // namespace
}  // namespace poco
