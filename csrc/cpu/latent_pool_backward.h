// Backward of pass 1. Tile by tile the scores are made again, and with the weights straight from the logsumexp what
// every token's gradient is made of: a share of each query and of each gradient of pooled, of the token itself and of
// the centring. So the gradients of a tile's rows are one product, and the sums over rows that the parameters need
// are as in the forward pass; what they come to is worked out once for each piece of a window.
#pragma once

#include "cpu/latent_pool.h"
#include "cpu/unit_sums.h"

namespace poco {
namespace {

constexpr int64_t kPoolMostRows = 1024;  // of a piece: what waits for other pieces is the smaller

inline void add_to(float* to, const float* from, int64_t count) {
    for (int64_t i = 0; i < count; i += kLanes) store(to + i, load(to + i) + load(from + i));
}

// Sums over rows, all in one piece of memory; `all` vectors are, for each segment, Q queries and Q gradients of pooled.
// A share is the gradient of the score or the attention weight.
struct PoolRowSums {
    int64_t size;              // floats of all of them
    float* v = nullptr;        // [L + all, width]: of v times minus the pull of x, then of v times share * inverse_std
    float* x = nullptr;        // [all, length]: of x times share * inverse_std
    float* squares = nullptr;  // [L, length]: of x times minus the pull of x
    float* shares = nullptr;   // [all, kLanes]: of shares, by lanes
    float* token_bias = nullptr;  // [width]

    template <typename T>
    PoolRowSums(const LatentPool<T>& p, const PoolVectors& vectors, Pieces& memory) {
        const int64_t width = round_up(p.width);
        const int64_t length = round_up(p.segment_length);
        const int64_t v_size = (p.segment_length + vectors.all) * width;
        size = v_size + (vectors.all + p.segment_length) * length + vectors.all * kLanes + width;
        v = memory.floats(size);
        if (v == nullptr) return;  // memory is only counted
        x = v + v_size;
        squares = x + vectors.all * length;
        shares = squares + p.segment_length * length;
        token_bias = shares + vectors.all * kLanes;
    }
};

// Sums over rows of gradients of the parameters, all in one piece of memory.
struct PoolGradients {
    int64_t size;                   // floats of all of them
    float* token_weight = nullptr;  // [L, width]
    float* token_bias = nullptr;    // [width]
    float* norm_weight = nullptr;   // [width]
    float* norm_bias = nullptr;     // [width]
    float* queries = nullptr;       // [S * Q, width]

    template <typename T>
    PoolGradients(const LatentPool<T>& p, Pieces& memory) {
        const int64_t width = round_up(p.width);
        size = (p.segment_length + 3 + p.segments * p.latents) * width;
        token_weight = memory.floats(size);
        if (token_weight == nullptr) return;  // memory is only counted
        token_bias = token_weight + p.segment_length * width;
        norm_weight = token_bias + width;
        norm_bias = norm_weight + width;
        queries = norm_bias + width;
    }
};

// Memory of one thread.
struct PoolBackwardWorker {
    PoolVectors vectors;  // of a window: for each segment queries, then gradients of pooled
    PoolTile tile;
    float* logsumexp;  // [Q]
    float* mean;       // [Q]: sum_s <grad_pooled, pooled> - grad_logsumexp
    float* pull;       // plane [1]: how much of the token goes from its gradient; all segments
    float* pulled;     // plane [L]: minus the pull of x; one segment
    float* grad;       // [tile, width]: of v
    PoolRowSums recent, piece;
    float* queries;  // [S * Q, width]: their gradient from a window of one piece

    template <typename T>
    PoolBackwardWorker(const LatentPool<T>& p, Pieces& memory)
        : vectors(p, 2 * p.latents, memory),
          tile(p, vectors, memory),
          logsumexp(memory.floats(p.latents)),
          mean(memory.floats(p.latents)),
          pull(memory.floats(kPoolTile)),
          pulled(memory.floats(kPoolTile * p.segment_length)),
          grad(memory.floats(kPoolTile * round_up(p.width))),
          recent(p, vectors, memory),
          piece(p, vectors, memory),
          queries(memory.floats(p.segments * p.latents * round_up(p.width))) {}
};

template <typename T>
inline const T* queries_of(const LatentPool<T>& p, int64_t window) {
    return p.queries + (p.query_windows > 1 ? window : 0) * p.segments * p.latents * p.width;
}

template <typename T>
inline void pack_pool_window(const LatentPoolBackward<T>& b, const PoolWeights& w, int64_t window,
                             const PoolBackwardWorker& own) {
    const LatentPool<T>& p = b.forward;
    const int64_t size = p.segments * p.latents * p.width;
    const float* grad = b.grad_pooled + window * size;
    const float* pooled = p.pooled + window * size;
    own.vectors.take(p, w, queries_of(p, window), 0);
    own.vectors.take(p, w, grad, p.latents);
    own.vectors.finish(p, w);
    for (int64_t m = 0; m < p.latents; ++m) {
        double along = 0;
        for (int64_t s = 0; s < p.segments; ++s) {
            const int64_t at = (s * p.latents + m) * p.width;
            for (int64_t j = 0; j < p.width; ++j) {
                along += static_cast<double>(grad[at + j]) * static_cast<double>(pooled[at + j]);
            }
        }
        own.mean[m] = static_cast<float>(along - static_cast<double>(b.grad_logsumexp[window * p.latents + m]));
        own.logsumexp[m] = p.logsumexp[window * p.latents + m];
    }
}

// Whether the gradient of any parameter is wanted.
template <typename T>
inline bool wants_sums(const LatentPoolBackward<T>& b) {
    return b.grad_token_weight != nullptr || b.grad_token_bias != nullptr || b.grad_norm_weight != nullptr ||
           b.grad_norm_bias != nullptr || b.grad_queries != nullptr;
}

// Of one segment of a tile: from products to shares * inverse_std, which stay in the tile's plane `on`, and what is
// pulled.
template <typename T>
inline void pool_shares(const LatentPoolBackward<T>& b, int64_t s, const PoolBackwardWorker& own,
                        const PoolRowSums* sums) {
    const LatentPool<T>& p = b.forward;
    const PoolTile& tile = own.tile;
    const int64_t length = p.segment_length;
    const int64_t first = s * 2 * p.latents;
    const float inverse_width = 1.0f / static_cast<float>(p.width);
    for (int64_t lane = 0; lane < tile.lanes; lane += kLanes) {
        const Vector inverse_std = load(tile.inverse_std + s * kPoolTile + lane);
        const IntVector there = lanes_between(0, tile.rows - lane);
        Vector slope = {};
        for (int64_t m = 0; m < p.latents; ++m) {
            const int64_t query = first + m;
            const int64_t grad = query + p.latents;
            float* query_plane = tile.on + query * kPoolTile + lane;
            float* grad_plane = tile.on + grad * kPoolTile + lane;
            const Vector on_query = load(query_plane) * inverse_std;
            const Vector on_grad = load(grad_plane) * inverse_std;
            const float score_offset = own.vectors.offset[query] - own.logsumexp[m];
            const float grad_offset = own.vectors.offset[grad] - own.mean[m];
            const Vector weight = there ? exp(on_query + score_offset) : Vector{};
            const Vector grad_score = weight * (on_grad + grad_offset);
            slope = fma(weight, on_grad, fma(grad_score, on_query, slope));
            store(query_plane, grad_score * inverse_std);
            store(grad_plane, weight * inverse_std);
            if (sums != nullptr) {
                float* query_sum = sums->shares + query * kLanes;
                float* grad_sum = sums->shares + grad * kLanes;
                store(query_sum, load(query_sum) + grad_score);
                store(grad_sum, load(grad_sum) + weight);
            }
        }
        const Vector pull = slope * inverse_width * inverse_std * inverse_std;
        store(own.pull + lane, load(own.pull + lane) + pull);
        for (int64_t l = 0; l < length; ++l) {
            const int64_t at = l * kPoolTile + lane;
            const Vector pulled = -pull * load(tile.x_plane + s * length * kPoolTile + at);
            store(own.pulled + at, pulled);
            store(tile.shares + at, load(tile.shares + at) + pulled);
        }
        if (b.grad_x == nullptr) continue;
        for (int64_t l = 0; l < length; ++l) {
            float* grad_x = tile.gx_plane + (s * length + l) * kPoolTile + lane;
            store(grad_x, -pull * (load(grad_x) + load(tile.wv_plane + l * kPoolTile + lane)));
        }
    }
}

// Gradients of the tile's v, as rows.
template <typename T>
inline void pool_unit_gradients(const LatentPool<T>& p, const PoolWeights& w, const PoolBackwardWorker& own) {
    const PoolTile& tile = own.tile;
    for (int64_t t = 0; t < tile.rows; ++t) {
        const Vector pull = broadcast(-own.pull[t]);
        for (int64_t j = 0; j < w.width; j += kLanes) {
            store(own.grad + t * w.width + j, pull * load(tile.v + t * w.width + j));
        }
    }
    product<Onto::c>(tile.rows, p.segment_length + own.vectors.all, p.width, Strided{tile.shares, 1, kPoolTile},
                     own.vectors.lines, w.width, own.grad, w.width);
}

// Takes the tile that starts at row `first`; `sums` may be nullptr.
template <typename T>
inline void pool_tile_backward(const LatentPoolBackward<T>& b, const PoolWeights& w, const PoolBackwardWorker& own,
                               int64_t first, const PoolRowSums* sums, const UnitSums& units) {
    const LatentPool<T>& p = b.forward;
    const PoolTile& tile = own.tile;
    const PoolVectors& vectors = own.vectors;
    const int64_t length = p.segment_length;
    const int64_t context = p.segments * length;
    clear(own.pull, kPoolTile);
    clear(tile.shares, length * kPoolTile);
    for (int64_t s = 0; s < p.segments; ++s) {
        pool_shares(b, s, own, sums);
        const int64_t i = s * vectors.each;
        const float* shares = tile.on + i * kPoolTile;
        if (b.grad_x != nullptr) {
            product<Onto::c>(length, vectors.each, tile.lanes, Strided{vectors.on_activity + i * w.length, 1, w.length},
                             shares, kPoolTile, tile.gx_plane + s * length * kPoolTile, kPoolTile);
        }
        if (sums != nullptr) {
            const float* activity = tile.x + s * length;
            product<Onto::c>(vectors.each, tile.rows, length, Strided{shares, kPoolTile, 1}, activity, context,
                             sums->x + i * w.length, w.length);
            product<Onto::c>(length, tile.rows, length, Strided{own.pulled, kPoolTile, 1}, activity, context,
                             sums->squares, w.length);
        }
    }
    if (b.grad_x != nullptr) {
        transpose(context, tile.rows, tile.gx_plane, kPoolTile, b.grad_x + first * context, context);
    }
    if (sums != nullptr) {
        product<Onto::c>(length + vectors.all, tile.rows, p.width, Strided{tile.shares, kPoolTile, 1}, tile.v, w.width,
                         sums->v, w.width);
    }
    if (b.grad_unit_table == nullptr && b.grad_token_bias == nullptr) return;
    pool_unit_gradients(p, w, own);
    if (b.grad_token_bias != nullptr) {
        for (int64_t t = 0; t < tile.rows; ++t) add_to(sums->token_bias, own.grad + t * w.width, w.width);
    }
    if (b.grad_unit_table != nullptr) {
        for (int64_t t = 0; t < tile.rows; ++t) {
            std::memcpy(units.row(first + t), own.grad + t * w.width, static_cast<size_t>(p.width) * sizeof(float));
        }
    }
}

// Adds to `total` what the sums over rows of a piece come to, to `queries` the gradients of the queries. Overwrites
// the sums.
template <typename T>
inline void finish_piece(const LatentPoolBackward<T>& b, const PoolWeights& w, const PoolVectors& vectors,
                         int64_t window, const PoolRowSums& sums, const PoolGradients& total, float* queries) {
    const LatentPool<T>& p = b.forward;
    const int64_t length = p.segment_length;
    add_to(total.token_weight, sums.v, length * w.width);
    product<Onto::c>(length, length, p.width, Strided{sums.squares, w.length, 1}, w.token_weight, w.width,
                     total.token_weight, w.width);
    product<Onto::c>(length, vectors.all, p.width, Strided{sums.x, 1, w.length}, vectors.lines + length * w.width,
                     w.width, total.token_weight, w.width);
    add_to(total.token_bias, sums.token_bias, w.width);

    // The sums of standardised tokens times shares.
    float* standard = sums.v + length * w.width;
    product<Onto::c>(vectors.all, length, p.width, Strided{sums.x, w.length, 1}, w.token_weight, w.width, standard,
                     w.width);
    const T* query_rows = queries_of(p, window);
    const float* grad_rows = b.grad_pooled + window * p.segments * p.latents * p.width;
    for (int64_t i = 0; i < p.segments * p.latents; ++i) {
        const int64_t query = i / p.latents * vectors.each + i % p.latents;
        const int64_t grad = query + p.latents;
        const Vector query_share = broadcast(sum(load(sums.shares + query * kLanes)));
        const Vector grad_share = broadcast(sum(load(sums.shares + grad * kLanes)));
        for (int64_t j = 0; j < w.width; j += kLanes) {
            const Vector one = load_at_most(query_rows + i * p.width + j, p.width - j);
            const Vector other = load_at_most(grad_rows + i * p.width + j, p.width - j);
            const Vector of_query = load(standard + query * w.width + j);
            const Vector of_grad = load(standard + grad * w.width + j);
            store(total.norm_weight + j, fma(one, of_query, fma(other, of_grad, load(total.norm_weight + j))));
            store(total.norm_bias + j, fma(one, query_share, fma(other, grad_share, load(total.norm_bias + j))));
            const Vector y = fma(of_query, load(w.norm_weight + j), query_share * load(w.norm_bias + j));
            store(queries + i * w.width + j, load(queries + i * w.width + j) + y);
        }
    }
}

// Whether the piece's window begins in an earlier one. Only the first piece of a chunk does.
template <typename T>
inline bool continues(const LatentPool<T>& p, const PoolPiece& piece) {
    return piece.first > p.window_offsets[piece.window];
}

// Takes a piece with rows. The gradient of a window's queries is written by the window's first piece; that of another
// piece waits in `total`. A thread that is alone adds the gradients of units while they are in the cache.
template <typename T>
inline void pool_piece_backward(const LatentPoolBackward<T>& b, const PoolWeights& w, const PoolPiece& piece,
                                PoolBackwardWorker& own, bool with_sums, bool alone, const PoolGradients& total,
                                UnitSums& units) {
    const LatentPool<T>& p = b.forward;
    pack_pool_window(b, w, piece.window, own);
    for (int64_t first = piece.first; first < piece.last; first += kPoolFold) {
        const PoolRowSums& into = first == piece.first ? own.piece : own.recent;
        if (with_sums) clear(into.v, into.size);
        for_tiles(first, smaller(first + kPoolFold, piece.last), [&](int64_t row, int64_t rows) {
            own.tile.fill(p, w, own.vectors, row, rows);
            pool_tile_backward(b, w, own, row, with_sums ? &into : nullptr, units);
            if (alone) units.add(row + rows, 1);
        });
        if (with_sums && first > piece.first) add_to(own.piece.v, own.recent.v, into.size);
    }
    if (!with_sums) return;
    const int64_t query_rows = p.segments * p.latents;
    if (p.query_windows <= 1 || continues(p, piece)) {
        finish_piece(b, w, own.vectors, piece.window, own.piece, total, total.queries);
        return;
    }
    clear(own.queries, query_rows * w.width);
    finish_piece(b, w, own.vectors, piece.window, own.piece, total, own.queries);
    copy_lines(query_rows, p.width, own.queries, w.width,
               b.grad_queries == nullptr ? nullptr : b.grad_queries + piece.window * query_rows * p.width);
}

// The row at which a chunk begins, or all rows behind the last chunk.
inline int64_t first_row(const PoolPlan& plan, int64_t chunk, int64_t rows) {
    const int64_t piece = plan.chunk_piece[chunk];
    return piece < plan.pieces ? plan.piece[piece].first : rows;
}

// Chunks go in waves, a few for each thread; sums over all chunks are put together after each wave, in the order of the
// chunks. So memory does not grow with the rows.
template <typename T>
inline void latent_pool_backward(const LatentPoolBackward<T>& b) {
    const LatentPool<T>& p = b.forward;
    PoolPlan plan = pool_plan(p, kPoolMostRows);
    const int threads = threads_for(p.threads, plan.chunks);
    const bool alone = threads == 1;
    const int64_t wave = alone ? 1 : smaller(4 * threads, plan.chunks);
    const bool shared = p.query_windows <= 1;
    const bool with_sums = wants_sums(b);
    const int64_t width = round_up(p.width);
    const int64_t query_rows = p.segments * p.latents;
    Pieces weights_size, worker_size, total_size;
    static_cast<void>(PoolWeights(p, weights_size));
    static_cast<void>(PoolBackwardWorker(p, worker_size));
    static_cast<void>(PoolGradients(p, total_size));
    const size_t worker_bytes = worker_size.used() * static_cast<size_t>(threads);
    const size_t total_bytes = total_size.used() * static_cast<size_t>(wave + 1);
    Workspace workspace(pool_plan_bytes(p, plan) + weights_size.used() + worker_bytes + total_bytes);
    list_pool_plan(p, workspace, plan);
    Pieces weights_memory(static_cast<char*>(workspace.take(weights_size.used())));
    PoolWeights weights(p, weights_memory);
    weights.fill(p);
    char* workers = static_cast<char*>(workspace.take(worker_bytes));
    char* totals = static_cast<char*>(workspace.take(total_bytes));
    const auto total_of = [&](int64_t number) {  // of a chunk of the wave; behind these of all chunks
        Pieces memory(totals + total_size.used() * static_cast<size_t>(number));
        return PoolGradients(p, memory);
    };
    const PoolGradients all = total_of(wave);
    clear(all.token_weight, all.size);
    UnitSums units(p.unit_index, p.rows, p.units, p.width, b.grad_unit_table, p.threads,
                   alone ? kPoolTile : (wave + 1) * plan.piece_rows);

    for (int64_t window = 0; b.grad_queries != nullptr && !shared && window < p.windows; ++window) {
        if (p.window_offsets[window + 1] > p.window_offsets[window]) continue;
        clear(b.grad_queries + window * query_rows * p.width, query_rows * p.width);
    }
    for (int64_t begin = 0; begin < plan.chunks; begin += wave) {
        const int64_t end = smaller(begin + wave, plan.chunks);
        parallel_for(end - begin, threads, [&](int64_t number, int worker) {
            Pieces memory(workers + worker_size.used() * static_cast<size_t>(worker));
            PoolBackwardWorker own(p, memory);
            const PoolGradients total = total_of(number);
            clear(total.token_weight, total.size);
            for (int64_t i = plan.chunk_piece[begin + number]; i < plan.chunk_piece[begin + number + 1]; ++i) {
                const PoolPiece& piece = plan.piece[i];
                if (piece.first < piece.last)
                    pool_piece_backward(b, weights, piece, own, with_sums, alone, total, units);
            }
        });
        units.add(first_row(plan, end, p.rows), p.threads);
        for (int64_t chunk = begin; with_sums && chunk < end; ++chunk) {
            const PoolGradients total = total_of(chunk - begin);
            add_to(all.token_weight, total.token_weight, all.size);
            const int64_t i = plan.chunk_piece[chunk];
            if (shared || b.grad_queries == nullptr || i == plan.chunk_piece[chunk + 1]) continue;
            if (continues(p, plan.piece[i])) {
                float* to = b.grad_queries + plan.piece[i].window * query_rows * p.width;
                for (int64_t r = 0; r < query_rows; ++r) {
                    for (int64_t j = 0; j < p.width; ++j) to[r * p.width + j] += total.queries[r * width + j];
                }
            }
        }
    }

    if (shared) copy_lines(query_rows, p.width, all.queries, width, b.grad_queries);
    copy_lines(1, p.width, all.token_bias, width, b.grad_token_bias);
    copy_lines(1, p.width, all.norm_weight, width, b.grad_norm_weight);
    copy_lines(1, p.width, all.norm_bias, width, b.grad_norm_bias);
    if (b.grad_token_weight != nullptr) {
        transpose(p.segment_length, p.width, all.token_weight, width, b.grad_token_weight, p.segment_length);
    }
}

}  // namespace
}  // namespace poco
