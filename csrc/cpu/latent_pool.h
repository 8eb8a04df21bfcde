// Pass 1, forward and backward: the tokens of a population pooled into a few latents by attention.
//
// A tile of rows goes, one segment at a time, through token, layer normalisation, scores and weighted sum while it lies
// in the cache. The softmax is taken as it comes: every segment keeps the largest score so far, the sum of the
// exponentials and the weighted sum of the tokens, and two such states merge into one. So windows are cut into pieces,
// the pieces go to the threads, and their states are merged in the order of the rows. Backward recomputes tile by tile,
// with the weights straight from the logsumexp.
#pragma once

#include <cmath>
#include <cstring>

#include "core/thread_pool.h"
#include "core/workspace.h"
#include "cpu/gemm.h"
#include "cpu/kernels.h"
#include "cpu/simd.h"
#include "cpu/unit_sums.h"

namespace poco {
namespace {

constexpr int64_t kPoolTile = 32;    // rows taken through everything at once
constexpr int64_t kPoolFold = 512;   // rows after which sums are added to longer ones: keeps rounding errors small
constexpr int64_t kPoolChunks = 64;  // parts of the population that threads can take; fixed, so that sums are too
constexpr int64_t kPoolLeast = 128;  // rows of a part at least
constexpr int64_t kPoolLine = 16;    // floats of a cache line

// ---- Who does what: windows are cut into pieces, consecutive pieces make chunks of about the same number of rows.

struct PoolPiece {
    int64_t window;
    int64_t first;  // rows first .. last - 1
    int64_t last;
    int64_t slot;  // where its result waits for those of the window's other pieces; -1 if there are none
};

struct PoolPlan {
    int64_t piece_rows;
    int64_t pieces;
    int64_t slots;
    int64_t chunks;
    PoolPiece* piece;       // [pieces], in the order of rows
    int64_t* window_piece;  // [windows + 1]
    int64_t* chunk_piece;   // [chunks + 1]
};

template <typename T>
inline int64_t pool_pieces(const LatentPool<T>& p, int64_t window, int64_t piece_rows) {
    const int64_t rows = p.window_offsets[window + 1] - p.window_offsets[window];
    return rows > piece_rows ? (rows + piece_rows - 1) / piece_rows : 1;
}

// The sizes; the lists come with list_pool_plan.
template <typename T>
inline PoolPlan pool_plan(const LatentPool<T>& p) {
    PoolPlan plan{};
    plan.piece_rows = round_up((p.rows + kPoolChunks - 1) / kPoolChunks, kPoolTile);
    if (plan.piece_rows < kPoolLeast) plan.piece_rows = kPoolLeast;
    for (int64_t w = 0; w < p.windows; ++w) {
        const int64_t count = pool_pieces(p, w, plan.piece_rows);
        plan.pieces += count;
        if (count > 1) plan.slots += count;
    }
    plan.chunks = p.rows > 0 ? (p.rows + plan.piece_rows - 1) / plan.piece_rows : 1;
    return plan;
}

template <typename T>
inline size_t pool_plan_bytes(const LatentPool<T>& p, const PoolPlan& plan) {
    return Workspace::bytes_of(plan.pieces, sizeof(PoolPiece)) + Workspace::bytes_of(p.windows + 1, sizeof(int64_t)) +
           Workspace::bytes_of(plan.chunks + 1, sizeof(int64_t));
}

template <typename T>
inline void list_pool_plan(const LatentPool<T>& p, Workspace& workspace, PoolPlan& plan) {
    plan.piece = static_cast<PoolPiece*>(workspace.take(static_cast<size_t>(plan.pieces) * sizeof(PoolPiece)));
    plan.window_piece = static_cast<int64_t*>(workspace.take(static_cast<size_t>(p.windows + 1) * sizeof(int64_t)));
    plan.chunk_piece = static_cast<int64_t*>(workspace.take(static_cast<size_t>(plan.chunks + 1) * sizeof(int64_t)));
    int64_t piece = 0;
    int64_t slot = 0;
    int64_t chunk = 0;
    for (int64_t w = 0; w < p.windows; ++w) {
        plan.window_piece[w] = piece;
        const int64_t count = pool_pieces(p, w, plan.piece_rows);
        for (int64_t i = 0; i < count; ++i) {
            const int64_t first = p.window_offsets[w] + i * plan.piece_rows;
            const int64_t end = p.window_offsets[w + 1];
            const int64_t last = first + plan.piece_rows < end ? first + plan.piece_rows : end;
            while (chunk < plan.chunks && chunk * plan.piece_rows <= first) plan.chunk_piece[chunk++] = piece;
            plan.piece[piece++] = {w, first, last, count > 1 ? slot++ : -1};
        }
    }
    plan.window_piece[p.windows] = piece;
    while (chunk <= plan.chunks) plan.chunk_piece[chunk++] = piece;
}

// ---- Weights as the tile products want them: rows of whole vectors, 0 behind their end.

struct PoolWeights {
    int64_t width;        // d in whole vectors
    float* token_weight;  // [L, width]
    float* token_bias;    // [width]
    float* norm_weight;   // [width]
    float* norm_bias;     // [width]
};

template <typename T>
inline size_t pool_weights_bytes(const LatentPool<T>& p) {
    return Workspace::bytes_of(round_up(p.width) * (p.segment_length + 3), sizeof(float));
}

// Copies [rows, columns] to rows of `to_row` floats, 0 behind their end.
template <typename T>
inline void copy_padded(int64_t rows, int64_t columns, const T* from, float* to, int64_t to_row) {
    for (int64_t i = 0; i < rows; ++i) {
        for (int64_t j = 0; j < columns; ++j) to[i * to_row + j] = to_float(from[i * columns + j]);
        for (int64_t j = columns; j < to_row; ++j) to[i * to_row + j] = 0;
    }
}

// Copies [rows, columns] to its transpose, whose rows have `to_row` floats; what is behind their end stays.
template <typename T>
inline void copy_transposed(int64_t rows, int64_t columns, const T* from, float* to, int64_t to_row) {
    for (int64_t i = 0; i < rows; ++i) {
        for (int64_t j = 0; j < columns; ++j) to[j * to_row + i] = to_float(from[i * columns + j]);
    }
}

inline void clear(float* at, int64_t count) {
    std::memset(at, 0, static_cast<size_t>(count) * sizeof(float));
}

template <typename T>
inline PoolWeights pack_pool_weights(const LatentPool<T>& p, Workspace& workspace) {
    PoolWeights w{};
    w.width = round_up(p.width);
    w.token_weight = static_cast<float*>(workspace.take(pool_weights_bytes(p)));
    w.token_bias = w.token_weight + p.segment_length * w.width;
    w.norm_weight = w.token_bias + w.width;
    w.norm_bias = w.norm_weight + w.width;
    clear(w.token_weight, p.segment_length * w.width);
    copy_transposed(p.width, p.segment_length, p.token_weight, w.token_weight, w.width);
    copy_padded(1, p.width, p.token_bias, w.token_bias, w.width);
    copy_padded(1, p.width, p.norm_weight, w.norm_weight, w.width);
    copy_padded(1, p.width, p.norm_bias, w.norm_bias, w.width);
    return w;
}

// ---- Tokens.

// The activity of a tile's rows [rows, C]: where it is, or widened into `wide`.
inline const float* pool_activity(const LatentPool<float>& p, int64_t first, int64_t, float*) {
    return p.x + first * p.segments * p.segment_length;
}

inline const float* pool_activity(const LatentPool<Bfloat16>& p, int64_t first, int64_t rows, float* wide) {
    const int64_t context = p.segments * p.segment_length;
    copy_padded(1, rows * context, p.x + first * context, wide, rows * context);
    return wide;
}

// Normalised tokens y [rows, width] of one segment, 0 behind d. kKeep: also the standardised tokens (undefined behind
// d) and one over their deviation, for the backward pass.
template <bool kKeep, typename T>
inline void pool_tokens(const LatentPool<T>& p, const PoolWeights& w, int64_t first, int64_t rows, int64_t segment,
                        const float* activity, float* y, float* standard, float* inverse_std) {
    const int64_t context = p.segments * p.segment_length;
    const int64_t whole = p.width / kLanes * kLanes;
    for (int64_t t = 0; t < rows; ++t) {
        const T* unit = p.unit_table + p.unit_index[first + t] * p.width;
        float* token = y + t * w.width;
        for (int64_t j = 0; j < whole; j += kLanes) store(token + j, load(unit + j) + load(w.token_bias + j));
        if (whole < w.width) {
            store(token + whole, load_some(unit + whole, p.width - whole) + load(w.token_bias + whole));
        }
    }
    multiply<Onto::c>(rows, p.segment_length, p.width, Strided{activity + segment * p.segment_length, context, 1},
                      w.token_weight, w.width, y, w.width);
    const float inverse_width = 1.0f / static_cast<float>(p.width);
    const IntVector in_tail = lanes_between(0, p.width - whole);
    for (int64_t t = 0; t < rows; ++t) {
        float* token = y + t * w.width;
        Vector total = {};
        for (int64_t j = 0; j < w.width; j += kLanes) total += load(token + j);
        const Vector mean = broadcast(sum(total) * inverse_width);
        Vector squares = {};
        for (int64_t j = 0; j < whole; j += kLanes) {
            const Vector centred = load(token + j) - mean;
            squares = fma(centred, centred, squares);
        }
        if (whole < w.width) {
            const Vector centred = in_tail ? load(token + whole) - mean : Vector{};
            squares = fma(centred, centred, squares);
        }
        const float scale = 1.0f / std::sqrt(sum(squares) * inverse_width + p.eps);
        if (kKeep) inverse_std[t] = scale;
        for (int64_t j = 0; j < w.width; j += kLanes) {
            const Vector one = (load(token + j) - mean) * scale;
            if (kKeep) store(standard + t * w.width + j, one);
            store(token + j, fma(one, load(w.norm_weight + j), load(w.norm_bias + j)));
        }
    }
}

// ---- The state of a softmax over some rows, for every segment and latent.

struct PoolState {
    float* most;   // [S, latents]: largest score; latents in whole vectors
    float* total;  // [S, latents]: sum of exp(score - most)
    float* y;      // [S, Q, width]: sum of exp(score - most) * token
};

template <typename T>
inline int64_t pool_state_size(const LatentPool<T>& p) {
    return p.segments * (2 * round_up(p.latents) + p.latents * round_up(p.width));
}

template <typename T>
inline PoolState pool_state(const LatentPool<T>& p, float* at) {
    const int64_t padded = p.segments * round_up(p.latents);
    return {at, at + padded, at + 2 * padded};
}

template <typename T>
inline void reset_pool_state(const LatentPool<T>& p, const PoolState& state) {
    const int64_t padded = p.segments * round_up(p.latents);
    for (int64_t i = 0; i < padded; ++i) state.most[i] = -__builtin_inff();
    clear(state.total, pool_state_size(p) - padded);
}

inline void scale_row(float* row, float factor, int64_t width) {
    for (int64_t j = 0; j < width; j += kLanes) store(row + j, load(row + j) * factor);
}

// Adds `part` to `state`. Not both may be without rows.
template <typename T>
inline void merge_pool_state(const LatentPool<T>& p, const PoolState& state, const PoolState& part) {
    const int64_t width = round_up(p.width);
    const int64_t latents = round_up(p.latents);
    for (int64_t s = 0; s < p.segments; ++s) {
        for (int64_t m0 = 0; m0 < latents; m0 += kLanes) {
            const int64_t at = s * latents + m0;
            const Vector most = max(load(state.most + at), load(part.most + at));
            const Vector keep = exp(load(state.most + at) - most);
            const Vector take = exp(load(part.most + at) - most);
            store(state.total + at, load(state.total + at) * keep + load(part.total + at) * take);
            store(state.most + at, most);
            for (int64_t m = m0; m < p.latents && m < m0 + kLanes; ++m) {
                float* to = state.y + (s * p.latents + m) * width;
                const float* from = part.y + (s * p.latents + m) * width;
                const float old = keep[m - m0];
                const float more = take[m - m0];
                for (int64_t j = 0; j < width; j += kLanes) store(to + j, load(to + j) * old + load(from + j) * more);
            }
        }
    }
}

// What a window's state comes to.
template <typename T>
inline void finish_window(const LatentPool<T>& p, const PoolState& state, int64_t window) {
    const int64_t width = round_up(p.width);
    const int64_t latents = round_up(p.latents);
    float* pooled = p.pooled + window * p.segments * p.latents * p.width;
    float* logsumexp = p.logsumexp + window * p.latents;
    if (p.window_offsets[window + 1] == p.window_offsets[window] || p.segments == 0) {
        clear(pooled, p.segments * p.latents * p.width);
        for (int64_t m = 0; m < p.latents; ++m) logsumexp[m] = -__builtin_inff();
        return;
    }
    for (int64_t m0 = 0; m0 < latents; m0 += kLanes) {
        const int64_t last = p.latents < m0 + kLanes ? p.latents : m0 + kLanes;
        Vector most = load(state.most + m0);
        for (int64_t s = 1; s < p.segments; ++s) most = max(load(state.most + s * latents + m0), most);
        Vector total = {};
        for (int64_t s = 0; s < p.segments; ++s) {
            const int64_t at = s * latents + m0;
            total += load(state.total + at) * exp(load(state.most + at) - most);
        }
        for (int64_t m = m0; m < last; ++m) logsumexp[m] = most[m - m0] + std::log(total[m - m0]);
        for (int64_t s = 0; s < p.segments; ++s) {
            const Vector weight = exp(load(state.most + s * latents + m0) - most) / total;
            for (int64_t m = m0; m < last; ++m) {
                const float factor = weight[m - m0];
                const float* from = state.y + (s * p.latents + m) * width;
                float* to = pooled + (s * p.latents + m) * p.width;
                for (int64_t j = 0; j < p.width; ++j) to[j] = from[j] * factor;
            }
        }
    }
}

// ---- Forward.

// Queries of one window as [S, d, latents], 0 behind Q.
template <typename T>
inline void pack_queries(const LatentPool<T>& p, int64_t window, float* packed) {
    const int64_t latents = round_up(p.latents);
    const T* queries = p.queries + (p.query_windows > 1 ? window : 0) * p.segments * p.latents * p.width;
    clear(packed, p.segments * p.width * latents);
    for (int64_t s = 0; s < p.segments; ++s) {
        copy_transposed(p.latents, p.width, queries + s * p.latents * p.width, packed + s * p.width * latents, latents);
    }
}

// Takes a tile of rows into `state`.
template <typename T>
inline void pool_tile(const LatentPool<T>& p, const PoolWeights& w, const float* queries, int64_t first, int64_t rows,
                      float* wide, float* y, float* scores, const PoolState& state) {
    const int64_t latents = round_up(p.latents);
    const float* activity = pool_activity(p, first, rows, wide);
    for (int64_t s = 0; s < p.segments; ++s) {
        pool_tokens<false>(p, w, first, rows, s, activity, y, nullptr, nullptr);
        multiply<Onto::zero>(rows, p.width, latents, Strided{y, w.width, 1}, queries + s * p.width * latents, latents,
                             scores, latents);
        float* sums = state.y + s * p.latents * w.width;
        for (int64_t m0 = 0; m0 < latents; m0 += kLanes) {
            const Vector before = load(state.most + s * latents + m0);
            Vector most = before;
            for (int64_t t = 0; t < rows; ++t) most = max(load(scores + t * latents + m0), most);
            const Vector keep = exp(before - most);
            Vector total = load(state.total + s * latents + m0) * keep;
            for (int64_t t = 0; t < rows; ++t) {
                const Vector weight = exp(load(scores + t * latents + m0) - most);
                total += weight;
                store(scores + t * latents + m0, weight);
            }
            store(state.most + s * latents + m0, most);
            store(state.total + s * latents + m0, total);
            for (int64_t m = m0; m < p.latents && m < m0 + kLanes; ++m) {
                if (keep[m - m0] != 1.0f) scale_row(sums + m * w.width, keep[m - m0], w.width);
            }
        }
        multiply<Onto::c>(p.latents, rows, p.width, Strided{scores, 1, latents}, y, w.width, sums, w.width);
    }
}

template <typename T>
inline void latent_pool(const LatentPool<T>& p) {
    PoolPlan plan = pool_plan(p);
    const int64_t latents = round_up(p.latents);
    const int64_t threads = p.threads < 1 ? 1 : p.threads < plan.chunks ? p.threads : plan.chunks;
    const int64_t state_size = round_up(pool_state_size(p));
    const int64_t queries_size = round_up(p.segments * p.width * latents);
    const bool shared = p.query_windows <= 1;
    // Of each thread: a tile of tokens, its scores, two states, queries of one window, activity. Whole cache lines.
    const int64_t activity_size = kPoolTile * p.segments * p.segment_length;
    const int64_t own_size = round_up(
        kPoolTile * (round_up(p.width) + latents) + 2 * state_size + (shared ? 0 : queries_size) + activity_size,
        kPoolLine);
    Workspace workspace(pool_plan_bytes(p, plan) + pool_weights_bytes(p) +
                        Workspace::bytes_of(shared ? queries_size : 0, sizeof(float)) +
                        Workspace::bytes_of(threads * own_size, sizeof(float)) +
                        Workspace::bytes_of(plan.slots * state_size, sizeof(float)));
    list_pool_plan(p, workspace, plan);
    const PoolWeights weights = pack_pool_weights(p, workspace);
    const auto floats = [&](int64_t count) {
        return static_cast<float*>(workspace.take(Workspace::bytes_of(count, sizeof(float))));
    };
    float* shared_queries = shared ? floats(queries_size) : nullptr;
    if (shared) pack_queries(p, 0, shared_queries);
    float* own = floats(threads * own_size);
    float* slots = floats(plan.slots * state_size);

    parallel_for(plan.chunks, static_cast<int>(threads), [&](int64_t chunk, int worker) {
        float* y = own + worker * own_size;
        float* scores = y + kPoolTile * weights.width;
        float* states = scores + kPoolTile * latents;
        float* activity = states + 2 * state_size;
        float* own_queries = activity + activity_size;
        const PoolState recent = pool_state(p, states);
        for (int64_t i = plan.chunk_piece[chunk]; i < plan.chunk_piece[chunk + 1]; ++i) {
            const PoolPiece& piece = plan.piece[i];
            const PoolState all = pool_state(p, piece.slot < 0 ? states + state_size : slots + piece.slot * state_size);
            if (!shared && piece.first < piece.last) pack_queries(p, piece.window, own_queries);
            bool some = false;  // whether `all` has rows
            for (int64_t first = piece.first; first < piece.last; first += kPoolFold) {
                const int64_t last = first + kPoolFold < piece.last ? first + kPoolFold : piece.last;
                const PoolState& into = some ? recent : all;
                reset_pool_state(p, into);
                for (int64_t row = first; row < last; row += kPoolTile) {
                    const int64_t rows = row + kPoolTile < last ? kPoolTile : last - row;
                    pool_tile(p, weights, shared ? shared_queries : own_queries, row, rows, activity, y, scores, into);
                }
                if (some) merge_pool_state(p, all, recent);
                some = true;
            }
            if (piece.slot < 0) finish_window(p, all, piece.window);
        }
    });
    if (plan.slots == 0) return;
    parallel_for(p.windows, static_cast<int>(threads), [&](int64_t window, int) {
        const int64_t begin = plan.window_piece[window];
        if (plan.window_piece[window + 1] - begin < 2) return;
        const PoolState all = pool_state(p, slots + plan.piece[begin].slot * state_size);
        for (int64_t i = begin + 1; i < plan.window_piece[window + 1]; ++i) {
            merge_pool_state(p, all, pool_state(p, slots + plan.piece[i].slot * state_size));
        }
        finish_window(p, all, window);
    });
}

// ---- Backward.

// Sums over rows of what goes to the parameters.
struct PoolGradients {
    float* queries;       // [S, Q, width]
    float* token_weight;  // [L, width]
    float* token_bias;    // [width]
    float* norm_weight;   // [width]
    float* norm_bias;     // [width]
};

template <typename T>
inline int64_t pool_gradients_size(const LatentPool<T>& p) {
    return round_up(p.width) * (p.segments * p.latents + p.segment_length + 3);
}

template <typename T>
inline PoolGradients pool_gradients(const LatentPool<T>& p, float* at) {
    const int64_t width = round_up(p.width);
    float* rest = at + width * p.segments * p.latents;
    float* biases = rest + width * p.segment_length;
    return {at, rest, biases, biases + width, biases + 2 * width};
}

inline void add_to(float* to, const float* from, int64_t count) {
    for (int64_t i = 0; i < count; i += kLanes) store(to + i, load(to + i) + load(from + i));
}

// What a window contributes to the backward pass of its rows, packed for the tile products.
struct PoolWindow {
    float* into_scores;  // [S, d, columns]: queries in columns 0 .. Q-1, gradients of pooled in the next Q
    float* into_tokens;  // [S, 2 Q, width]: queries in rows 0 .. Q-1, gradients of pooled in the next Q
    float* logsumexp;    // [latents]
    float* mean;         // [latents]: sum_s <grad_pooled, pooled> - grad_logsumexp
};

template <typename T>
inline int64_t pool_window_size(const LatentPool<T>& p) {
    return p.segments * (p.width * round_up(2 * p.latents) + 2 * p.latents * round_up(p.width)) +
           2 * round_up(p.latents);
}

template <typename T>
inline PoolWindow pool_window(const LatentPool<T>& p, float* at) {
    PoolWindow w{};
    w.logsumexp = at;
    w.mean = at + round_up(p.latents);
    w.into_tokens = at + 2 * round_up(p.latents);
    w.into_scores = w.into_tokens + p.segments * 2 * p.latents * round_up(p.width);
    return w;
}

template <typename T>
inline void pack_pool_window(const LatentPoolBackward<T>& b, int64_t window, const PoolWindow& packed) {
    const LatentPool<T>& p = b.forward;
    const int64_t width = round_up(p.width);
    const int64_t columns = round_up(2 * p.latents);
    const int64_t size = p.latents * p.width;
    const T* queries = p.queries + (p.query_windows > 1 ? window : 0) * p.segments * size;
    const float* grad = b.grad_pooled + window * p.segments * size;
    clear(packed.into_scores, p.segments * p.width * columns);
    for (int64_t s = 0; s < p.segments; ++s) {
        float* scores = packed.into_scores + s * p.width * columns;
        float* tokens = packed.into_tokens + s * 2 * p.latents * width;
        copy_transposed(p.latents, p.width, queries + s * size, scores, columns);
        copy_transposed(p.latents, p.width, grad + s * size, scores + p.latents, columns);
        copy_padded(p.latents, p.width, queries + s * size, tokens, width);
        copy_padded(p.latents, p.width, grad + s * size, tokens + p.latents * width, width);
    }
    const float* pooled = p.pooled + window * p.segments * size;
    clear(packed.logsumexp, 2 * round_up(p.latents));
    for (int64_t m = 0; m < p.latents; ++m) {
        double along = 0;
        for (int64_t s = 0; s < p.segments; ++s) {
            const int64_t at = (s * p.latents + m) * p.width;
            for (int64_t j = 0; j < p.width; ++j) {
                along += static_cast<double>(grad[at + j]) * static_cast<double>(pooled[at + j]);
            }
        }
        packed.mean[m] = static_cast<float>(along - static_cast<double>(b.grad_logsumexp[window * p.latents + m]));
        packed.logsumexp[m] = p.logsumexp[window * p.latents + m];
    }
}

// Scratch memory of one thread.
struct PoolScratch {
    float* y;            // [tile, width]
    float* standard;     // [tile, width]
    float* grad;         // [tile, width]: of y, then of the token
    float* unit;         // [tile, width]
    float* inverse_std;  // [tile]
    float* scores;       // [tile, columns]: scores, then <grad_pooled, y>
    float* weights;      // [tile, columns] and one row more: gradients of the scores, then the attention weights
    float* line;         // [latents]
    float* grad_x;       // [tile, L in whole vectors]
    float* activity;     // [tile, C]
};

template <typename T>
inline int64_t pool_scratch_size(const LatentPool<T>& p) {
    const int64_t columns = round_up(p.segment_length) + p.segments * p.segment_length;
    return kPoolTile * (4 * round_up(p.width) + 1 + 2 * round_up(2 * p.latents) + columns) +
           3 * round_up(2 * p.latents) + 2 * kLanes;
}

template <typename T>
inline PoolScratch pool_scratch(const LatentPool<T>& p, float* at) {
    const int64_t tile = kPoolTile * round_up(p.width);
    const int64_t columns = round_up(2 * p.latents);
    PoolScratch s{};
    s.y = at;
    s.standard = s.y + tile;
    s.grad = s.standard + tile;
    s.unit = s.grad + tile;
    s.inverse_std = s.unit + tile;
    s.scores = s.inverse_std + kPoolTile;
    s.weights = s.scores + kPoolTile * columns + kLanes;
    s.line = s.weights + (kPoolTile + 1) * columns + kLanes;
    s.grad_x = s.line + round_up(p.latents);
    s.activity = s.grad_x + kPoolTile * round_up(p.segment_length);
    return s;
}

// From scores to weights and to gradients of the scores, row by row. Vectors of the second half of a row begin at
// column Q and reach into the next row, which is written later.
template <typename T>
inline void pool_weights_backward(const LatentPool<T>& p, const PoolWindow& window, int64_t rows,
                                  const PoolScratch& own) {
    const int64_t columns = round_up(2 * p.latents);
    const int64_t latents = round_up(p.latents);
    for (int64_t t = 0; t < rows; ++t) {
        const float* scores = own.scores + t * columns;
        float* out = own.weights + t * columns;
        for (int64_t m = 0; m < latents; m += kLanes) {
            const Vector weight = exp(load(scores + m) - load(window.logsumexp + m));
            store(own.line + m, weight);
            store(out + m, weight * (load(scores + p.latents + m) - load(window.mean + m)));
        }
        for (int64_t m = 0; m < latents; m += kLanes) store(out + p.latents + m, load(own.line + m));
    }
}

template <typename T>
inline void pool_tile_backward(const LatentPoolBackward<T>& b, const PoolWeights& w, const float* packed_token_weight,
                               const PoolWindow& window, int64_t first, int64_t rows, const PoolScratch& own,
                               const PoolGradients& sums, const UnitSums& units) {
    const LatentPool<T>& p = b.forward;
    const int64_t context = p.segments * p.segment_length;
    const int64_t columns = round_up(2 * p.latents);
    const int64_t length = round_up(p.segment_length);
    const float inverse_width = 1.0f / static_cast<float>(p.width);
    const float* activity = pool_activity(p, first, rows, own.activity);
    for (int64_t s = 0; s < p.segments; ++s) {
        pool_tokens<true>(p, w, first, rows, s, activity, own.y, own.standard, own.inverse_std);
        multiply<Onto::zero>(rows, p.width, columns, Strided{own.y, w.width, 1},
                             window.into_scores + s * p.width * columns, columns, own.scores, columns);
        pool_weights_backward(p, window, rows, own);
        if (b.grad_queries != nullptr) {
            multiply<Onto::c>(p.latents, rows, p.width, Strided{own.weights, 1, columns}, own.y, w.width,
                              sums.queries + s * p.latents * w.width, w.width);
        }
        multiply<Onto::zero>(rows, 2 * p.latents, p.width, Strided{own.weights, columns, 1},
                             window.into_tokens + s * 2 * p.latents * w.width, w.width, own.grad, w.width);
        if (b.grad_norm_weight != nullptr || b.grad_norm_bias != nullptr) {
            for (int64_t j = 0; j < w.width; j += kLanes) {
                Vector weight = load(sums.norm_weight + j);
                Vector bias = load(sums.norm_bias + j);
                for (int64_t t = 0; t < rows; ++t) {
                    const Vector grad = load(own.grad + t * w.width + j);
                    weight = fma(grad, load(own.standard + t * w.width + j), weight);
                    bias += grad;
                }
                store(sums.norm_weight + j, weight);
                store(sums.norm_bias + j, bias);
            }
        }
        for (int64_t t = 0; t < rows; ++t) {
            float* grad = own.grad + t * w.width;
            const float* standard = own.standard + t * w.width;
            Vector total = {};
            Vector along = {};
            for (int64_t j = 0; j < w.width; j += kLanes) {
                const Vector one = load(grad + j) * load(w.norm_weight + j);
                total += one;
                along = fma(one, load(standard + j), along);
            }
            const Vector mean = broadcast(sum(total) * inverse_width);
            const Vector slope = broadcast(sum(along) * inverse_width);
            const float scale = own.inverse_std[t];
            float* unit = own.unit + t * w.width;
            for (int64_t j = 0; j < w.width; j += kLanes) {
                const Vector centred = load(grad + j) * load(w.norm_weight + j) - mean;
                const Vector token = (centred - load(standard + j) * slope) * scale;
                store(grad + j, token);
                store(unit + j, s == 0 ? token : load(unit + j) + token);
            }
        }
        if (b.grad_token_weight != nullptr) {
            multiply<Onto::c>(p.segment_length, rows, p.width, Strided{activity + s * p.segment_length, 1, context},
                              own.grad, w.width, sums.token_weight, w.width);
        }
        if (b.grad_x != nullptr) {
            multiply<Onto::zero>(rows, p.width, p.segment_length, Strided{own.grad, w.width, 1}, packed_token_weight,
                                 length, own.grad_x, length);
            for (int64_t t = 0; t < rows; ++t) {
                std::memcpy(b.grad_x + (first + t) * context + s * p.segment_length, own.grad_x + t * length,
                            static_cast<size_t>(p.segment_length) * sizeof(float));
            }
        }
    }
    if (p.segments == 0) clear(own.unit, rows * w.width);
    if (b.grad_token_bias != nullptr) {
        for (int64_t t = 0; t < rows; ++t) add_to(sums.token_bias, own.unit + t * w.width, w.width);
    }
    if (b.grad_unit_table != nullptr) {
        for (int64_t t = 0; t < rows; ++t) {
            std::memcpy(units.row(first + t), own.unit + t * w.width, static_cast<size_t>(p.width) * sizeof(float));
        }
    }
}

// Sum of `parts` rows of `count` floats, `stride` apart, in their order, into [rows, d] from [rows, width].
inline void write_sums(const float* parts, int64_t count, int64_t stride, int64_t rows, int64_t width, int64_t padded,
                       float* sums, float* to) {
    if (to == nullptr) return;
    clear(sums, rows * padded);
    for (int64_t i = 0; i < count; ++i) add_to(sums, parts + i * stride, rows * padded);
    for (int64_t r = 0; r < rows; ++r) {
        std::memcpy(to + r * width, sums + r * padded, static_cast<size_t>(width) * sizeof(float));
    }
}

template <typename T>
inline void latent_pool_backward(const LatentPoolBackward<T>& b) {
    const LatentPool<T>& p = b.forward;
    PoolPlan plan = pool_plan(p);
    const int64_t width = round_up(p.width);
    const int64_t length = round_up(p.segment_length);
    const int64_t threads = p.threads < 1 ? 1 : p.threads < plan.chunks ? p.threads : plan.chunks;
    const bool shared = p.query_windows <= 1;
    const int64_t queries_size = round_up(p.segments * p.latents * width);
    const int64_t sums_size = round_up(pool_gradients_size(p));
    // Of each thread: scratch, the window, recent sums, and those of a piece's queries. Whole cache lines each.
    const int64_t scratch_size = round_up(round_up(pool_scratch_size(p)), kPoolLine);
    const int64_t window_size = round_up(pool_window_size(p), kPoolLine);
    const int64_t own_size =
        scratch_size + window_size + round_up(sums_size, kPoolLine) + round_up(queries_size, kPoolLine);
    Workspace workspace(pool_plan_bytes(p, plan) + pool_weights_bytes(p) +
                        Workspace::bytes_of(p.width * length, sizeof(float)) +
                        Workspace::bytes_of(threads * own_size, sizeof(float)) +
                        Workspace::bytes_of(plan.chunks * sums_size, sizeof(float)) +
                        Workspace::bytes_of(shared ? 0 : plan.slots * queries_size, sizeof(float)) +
                        Workspace::bytes_of(sums_size, sizeof(float)));
    list_pool_plan(p, workspace, plan);
    const PoolWeights weights = pack_pool_weights(p, workspace);
    const auto floats = [&](int64_t count) {
        return static_cast<float*>(workspace.take(Workspace::bytes_of(count, sizeof(float))));
    };
    float* token_weight = floats(p.width * length);
    copy_padded(p.width, p.segment_length, p.token_weight, token_weight, length);
    float* own = floats(threads * own_size);
    float* totals = floats(plan.chunks * sums_size);
    float* slots = floats(shared ? 0 : plan.slots * queries_size);
    float* reduced = floats(sums_size);
    UnitSums units(p.unit_index, p.rows, p.units, p.width, b.grad_unit_table);

    parallel_for(plan.chunks, static_cast<int>(threads), [&](int64_t chunk, int worker) {
        float* mine = own + worker * own_size;
        const PoolScratch scratch = pool_scratch(p, mine);
        const PoolWindow window = pool_window(p, mine + scratch_size);
        float* recent = mine + scratch_size + window_size;
        float* own_queries = recent + round_up(sums_size, kPoolLine);
        const PoolGradients sums = pool_gradients(p, recent);
        float* total = totals + chunk * sums_size;
        const int64_t rest = p.segments * p.latents * width;  // where the sums that are not of the queries begin
        clear(total, sums_size);
        clear(recent, sums_size);
        for (int64_t i = plan.chunk_piece[chunk]; i < plan.chunk_piece[chunk + 1]; ++i) {
            const PoolPiece& piece = plan.piece[i];
            float* queries = shared ? total : piece.slot < 0 ? own_queries : slots + piece.slot * queries_size;
            if (!shared) clear(queries, queries_size);
            if (piece.first < piece.last) pack_pool_window(b, piece.window, window);
            for (int64_t first = piece.first; first < piece.last; first += kPoolFold) {
                const int64_t last = first + kPoolFold < piece.last ? first + kPoolFold : piece.last;
                for (int64_t row = first; row < last; row += kPoolTile) {
                    const int64_t rows = row + kPoolTile < last ? kPoolTile : last - row;
                    pool_tile_backward(b, weights, token_weight, window, row, rows, scratch, sums, units);
                }
                add_to(queries, recent, rest);
                add_to(total + rest, recent + rest, sums_size - rest);
                clear(recent, sums_size);
            }
            if (!shared && piece.slot < 0 && b.grad_queries != nullptr) {
                float* to = b.grad_queries + piece.window * p.segments * p.latents * p.width;
                for (int64_t r = 0; r < p.segments * p.latents; ++r) {
                    std::memcpy(to + r * p.width, queries + r * width, static_cast<size_t>(p.width) * sizeof(float));
                }
            }
        }
    });

    units.finish(p.threads);
    const PoolGradients first = pool_gradients(p, totals);
    if (shared) {
        write_sums(first.queries, plan.chunks, sums_size, p.segments * p.latents, p.width, width, reduced,
                   b.grad_queries);
    } else if (b.grad_queries != nullptr) {
        for (int64_t w = 0; w < p.windows; ++w) {
            const int64_t begin = plan.window_piece[w];
            const int64_t count = plan.window_piece[w + 1] - begin;
            if (count < 2) continue;
            write_sums(slots + plan.piece[begin].slot * queries_size, count, queries_size, p.segments * p.latents,
                       p.width, width, reduced, b.grad_queries + w * p.segments * p.latents * p.width);
        }
    }
    write_sums(first.token_bias, plan.chunks, sums_size, 1, p.width, width, reduced, b.grad_token_bias);
    write_sums(first.norm_weight, plan.chunks, sums_size, 1, p.width, width, reduced, b.grad_norm_weight);
    write_sums(first.norm_bias, plan.chunks, sums_size, 1, p.width, width, reduced, b.grad_norm_bias);
    if (b.grad_token_weight != nullptr) {
        clear(reduced, p.segment_length * width);
        for (int64_t i = 0; i < plan.chunks; ++i) {
            add_to(reduced, first.token_weight + i * sums_size, p.segment_length * width);
        }
        for (int64_t j = 0; j < p.width; ++j) {
            for (int64_t l = 0; l < p.segment_length; ++l) {
                b.grad_token_weight[j * p.segment_length + l] = reduced[l * width + j];
            }
        }
    }
}

}  // namespace
}  // namespace poco
