// Pass 1: who does what. Windows are cut into pieces, and consecutive pieces make chunks of about the same number of
// rows, which go to the threads. None of it depends on their number, so sums do not either.
#pragma once

#include "cpu/kernels.h"
#include "cpu/pieces.h"

namespace poco {
namespace {

constexpr int64_t kPoolTile = 64;    // rows taken through everything at once
constexpr int64_t kPoolFold = 512;   // rows after which sums are added to longer ones: keeps rounding errors small
constexpr int64_t kPoolChunks = 64;  // parts of the population that threads can take, or more
constexpr int64_t kPoolLeast = 128;  // rows of a part at least
static_assert(kPoolTile % 16 == 0 && kPoolFold % kPoolTile == 0, "whole vectors, whole tiles");

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

// The sizes; the lists come with list_pool_plan. Pieces have at most `most_rows`, a multiple of kPoolTile.
template <typename T>
inline PoolPlan pool_plan(const LatentPool<T>& p, int64_t most_rows) {
    PoolPlan plan{};
    plan.piece_rows = smaller(round_up((p.rows + kPoolChunks - 1) / kPoolChunks, kPoolTile), most_rows);
    if (plan.piece_rows < kPoolLeast) plan.piece_rows = kPoolLeast;
    for (int64_t w = 0; w < p.windows; ++w) {
        const int64_t count = pool_pieces(p, w, plan.piece_rows);
        plan.pieces += count;
        if (count > 1) plan.slots += count;
    }
    plan.chunks = p.rows > 0 ? (p.rows + plan.piece_rows - 1) / plan.piece_rows : 1;
    return plan;
}

// How many pieces, chunks or slots to have memory for: fewer rows may be cut into more, and a stream that leaves units
// out must not take memory then.
template <typename T>
inline int64_t pool_room(const LatentPool<T>& p, int64_t count) {
    const bool most = p.windows == 1 && p.rows > kPoolChunks * kPoolLeast;
    return most && count < kPoolChunks ? kPoolChunks : count;
}

template <typename T>
inline size_t pool_plan_bytes(const LatentPool<T>& p, const PoolPlan& plan) {
    return Workspace::bytes_of(pool_room(p, plan.pieces), sizeof(PoolPiece)) +
           Workspace::bytes_of(p.windows + 1, sizeof(int64_t)) +
           Workspace::bytes_of(pool_room(p, plan.chunks) + 1, sizeof(int64_t));
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

// Calls f(first row, count) for the tiles of rows first, ..., last - 1.
template <typename F>
inline void for_tiles(int64_t first, int64_t last, const F& f) {
    for (; first < last; first += kPoolTile) f(first, smaller(kPoolTile, last - first));
}

}  // namespace
}  // namespace poco
