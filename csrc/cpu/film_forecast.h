// Pass 2, latents to every unit: a tile of rows goes through attention over its window's latents, the feed-forward
// layer and FiLM without leaving the cache. The wide layers go by panels: kPanel columns at a time are made, used and
// forgotten. Within a panel they are made by bands, whose products are used before they leave the first-level cache.
// poco/ops/reference.py says what is computed.
#pragma once

#include "core/philox.h"
#include "core/thread_pool.h"
#include "cpu/film_weights.h"

namespace poco {
namespace {

constexpr int64_t kPanel = 128;
#if defined(__AMX_BF16__)
// By tiles of AMX the products take less time than the memory behind the first-level cache: bands and rows are as few
// as make all that a band needs stay in it.
constexpr int64_t kBand = 16;
constexpr int64_t kBlockRows = 64;
#else
constexpr int64_t kBand = 32;
constexpr int64_t kBlockRows = kTile;
#endif
static_assert(kPanel % kBand == 0 && kBand % 4 == 0, "whole bands, and whole random words, which are for 4 columns");
static_assert(kBlockRows <= kTile && kBlockRows % kLanes == 0, "no more rows than a plane has room for");

// Rows first, ..., last - 1 of a tile belong to one window.
struct Run {
    int64_t window, first, last;
    int64_t lanes;  // `last`, or all lanes in use for the last window of the tile: what lies there stays finite
    bool alone;     // no other window in this tile
};

// The rows of one tile.
template <typename T>
struct TileRows {
    const FilmForecast<T>& call;
    int64_t first, count;

    TileRows(const FilmForecast<T>& c, int64_t first_row, int64_t end)
        : call(c), first(first_row), count(smaller(end, c.rows) - first_row) {}

    int64_t lanes() const { return round_up(count); }

    // Calls f(run) for each window that has rows here, in order.
    template <typename F>
    void for_runs(const F& f) const {
        const int32_t* offsets = call.window_offsets;
        int64_t window = 0;  // the last one that begins at or before the first row
        for (int64_t end = call.windows; end - window > 1;) {
            const int64_t middle = (window + end) / 2;
            (offsets[middle] <= first ? window : end) = middle;
        }
        for (int64_t row = 0; row < count; ++window) {
            const int64_t end = smaller(offsets[window + 1] - first, count);
            if (end <= row) continue;
            f(Run{window, row, end, end == count ? lanes() : end, row == 0 && end == count});
            row = end;
        }
    }
};

// Rows cut into tiles that keep all threads busy to the end: whole ones, of kBlockRows, as long as there is one for
// every thread, then one each of what is left. No forecast depends on where it is cut.
struct TileCut {
    int64_t whole, vectors, parts;  // whole tiles; vectors of rows that are left, in so many parts

    TileCut(int64_t rows, int threads) : whole(rows / (kBlockRows * threads) * threads) {
        vectors = round_up(rows - whole * kBlockRows) / kLanes;
        parts = smaller(threads, vectors);
    }

    int64_t tiles() const { return whole + parts; }
    int64_t first_row(int64_t tile) const {
        const int64_t left = tile - whole;
        return left <= 0 ? tile * kBlockRows : whole * kBlockRows + left * vectors / parts * kLanes;
    }
};

// c (+)= A b for the lanes of one run; `scratch` is a plane like c. Sums do not depend on who else is in the tile.
template <bool kAdd>
inline void multiply_run(const Run& run, int64_t rows, int64_t inner, Weights a, const Word* b, float* c,
                         float* scratch) {
    constexpr Onto onto = kAdd ? Onto::c : Onto::zero;
    if (run.alone) {
        multiply<onto>(rows, inner, run.lanes, a, b, kTile, c, kTile);
        return;
    }
    const int64_t from = run.first / kLanes * kLanes;
    const auto for_lanes = [&](const auto& f) {
        for (int64_t i = 0; i < rows; ++i) {
            for (int64_t lane = from; lane < run.lanes; lane += kLanes) f(i * kTile + lane, lane);
        }
    };
    if (kAdd) for_lanes([=](int64_t at, int64_t) { store(scratch + at, load(c + at)); });
    multiply<onto>(rows, inner, run.lanes - from, a, b + from, kTile, scratch + from, kTile);
    for_lanes([=](int64_t at, int64_t lane) {
        const IntVector inside = lanes_between(run.first - lane, run.lanes - lane);
        store(c + at, inside ? load(scratch + at) : load(c + at));
    });
}

// What a worker keeps of the tile it is at. Where operands of products take the place of a plane, it has no name.
struct FilmPlanes {
    float *state, *weights, *scratch, *forecast, *left, *right, *mask, *inverse_std, *activity;
    OperandPlane normed, state_operand, weights_operand, activity_operand, panel;

    // `over_rows`: sums over rows will be needed.
    template <typename T>
    FilmPlanes(const FilmForecast<T>& call, Pieces& pieces, bool over_rows = false)
        : state(pieces.plane(call.width)),
          weights(pieces.plane(call.latents)),
          scratch(pieces.plane(larger(call.width, call.latents))),
          forecast(pieces.plane(call.horizon)),
          left(pieces.plane(kBand)),
          right(pieces.plane(kBand)),
          mask(pieces.plane(call.dropout > 0 ? kBand : 0)),
          inverse_std(pieces.plane(1)),
          activity(pieces.plane(call.context)),
          normed(operand_in_place(pieces.plane(call.width), call.width, over_rows, pieces)),
          state_operand(operand_beside(state, call.width, over_rows, pieces)),
          weights_operand(operand_beside(weights, call.latents, over_rows, pieces)),
          activity_operand(operand_in_place(activity, call.context, over_rows, pieces)),
          panel(operand_in_place(pieces.plane(kPanel), kPanel, over_rows, pieces)) {}
};

// Dropout with this probability.
inline Dropout dropout_of(uint64_t seed, double p) {
    return {seed, dropout_threshold(p), 1.0f / static_cast<float>(1 - p)};
}

inline void add_to_features(int64_t features, int64_t lanes, const float* bias, float* plane) {
    for_vectors(features, lanes, [=](int64_t at, int64_t i) { store(plane + at, load(plane + at) + bias[i]); });
}

// state: units plus what they take from their window's latents. `query` is what attends.
template <typename T>
inline void attend(const TileRows<T>& tile, const FilmWeights& w, const OperandPlane& query, const FilmPlanes& t) {
    const int64_t d = tile.call.width, latents = tile.call.latents;
    tile.for_runs([&](const Run& run) {
        multiply_run<false>(run, latents, d, w.keys[run.window], query.over_features(), t.weights, t.scratch);
    });
    softmax(latents, tile.lanes(), t.weights);
    make_operand_of(latents, tile.lanes(), t.weights, t.weights_operand);
    tile.for_runs([&](const Run& run) {
        multiply_run<true>(run, d, latents, w.values_t[run.window], t.weights_operand.over_features(), t.state,
                           t.scratch);
    });
    add_to_features(d, tile.lanes(), w.attention_bias, t.state);
}

// Calls f(first, count) for the bands of a panel from column `begin` on, of a layer with `columns`; returns how many
// columns the panel has.
template <typename F>
inline int64_t for_bands(int64_t begin, int64_t columns, const F& f) {
    const int64_t count = smaller(kPanel, columns - begin);
    for (int64_t first = 0; first < count; first += kBand) f(begin + first, smaller(kBand, count - first));
    return count;
}

// One band of two layers that are multiplied with each other: their products, to which biases are added as they are
// read, when they are in registers anyway.
struct Band {
    const float *left_plane, *left_bias, *right_plane, *right_bias;

    // At an offset into the planes, that of feature i.
    Vector left(int64_t at, int64_t i) const { return load(left_plane + at) + left_bias[i]; }
    Vector right(int64_t at, int64_t i) const { return load(right_plane + at) + right_bias[i]; }
};

// One band of the wide layers of the feed-forward: values (left) and gates of hidden columns first, ..., first + count
// - 1.
template <typename T>
inline Band feed_forward_band(const FilmForecast<T>& call, const FilmWeights& w, int64_t lanes, int64_t first,
                              int64_t count, const FilmPlanes& t) {
    const int64_t d = call.width, gates = call.ffn_width + first;
    const Word* const normed = t.normed.over_features();
    multiply<Onto::zero>(count, d, lanes, w.ffn_in.from(first, 0), normed, kTile, t.left, kTile);
    multiply<Onto::zero>(count, d, lanes, w.ffn_in.from(gates, 0), normed, kTile, t.right, kTile);
    return {t.left, w.ffn_in_bias + first, t.right, w.ffn_in_bias + gates};
}

// One band of FiLM: what the activity makes (left, before its ReLU) and by what it is scaled.
template <typename T>
inline Band film_band(const FilmForecast<T>& call, const FilmWeights& w, int64_t lanes, int64_t first, int64_t count,
                      const FilmPlanes& t) {
    multiply<Onto::zero>(count, call.context, lanes, w.in.from(first, 0), t.activity_operand.over_features(), kTile,
                         t.left, kTile);
    multiply<Onto::zero>(count, call.width, lanes, w.scale.from(first, 0), t.state_operand.over_features(), kTile,
                         t.right, kTile);
    return {t.left, w.in_bias + first, t.right, w.scale_bias + first};
}

template <typename T>
inline void film_forecast_tile(const TileRows<T>& tile, const FilmWeights& w, const FilmPlanes& t) {
    const FilmForecast<T>& call = tile.call;
    const int64_t d = call.width, lanes = tile.lanes();

    gather_to_plane(tile.count, d, call.unit_table, call.unit_index + tile.first, t.state);
    if (w.unit_shift != nullptr) add_to_features(d, lanes, w.unit_shift, t.state);
    standardise(d, lanes, call.eps, t.state, t.scratch, t.inverse_std);
    scale_and_shift(d, lanes, t.scratch, w.query_norm_weight, w.query_norm_bias, t.normed);
    attend(tile, w, t.normed, t);

    standardise(d, lanes, call.eps, t.state, t.scratch, t.inverse_std);
    scale_and_shift(d, lanes, t.scratch, w.ffn_norm_weight, w.ffn_norm_bias, t.normed);
    add_to_features(d, lanes, w.ffn_out_bias, t.state);
    for (int64_t f = 0; f < call.ffn_width; f += kPanel) {
        const int64_t count = for_bands(f, call.ffn_width, [&](int64_t first, int64_t columns) {
            const Band band = feed_forward_band(call, w, lanes, first, columns, t);
            const auto gated = [=](int64_t at, int64_t i) { return band.left(at, i) * gelu(band.right(at, i)); };
            const OperandPlane to = t.panel.from(first - f);
            if (call.dropout > 0) {
                dropout_of(call.seed, call.dropout).fill(tile.first, lanes, first, columns, t.mask);
                make_operands<1>(columns, lanes, {to}, [&](int64_t at, int64_t i, Vector* value) {
                    *value = gated(at, i) * load(t.mask + at);
                });
            } else {
                make_operands<1>(columns, lanes, {to},
                                 [=](int64_t at, int64_t i, Vector* value) { *value = gated(at, i); });
            }
        });
        multiply<Onto::c>(d, count, lanes, w.ffn_out.from(0, f), t.panel.over_features(), kTile, t.state, kTile);
    }

    rows_to_plane(tile.count, call.context, call.x + tile.first * call.context, t.activity);
    make_operand_of(call.context, lanes, t.activity, t.activity_operand);
    make_operand_of(d, lanes, t.state, t.state_operand);
    multiply<Onto::bias>(call.horizon, d, lanes, w.shift.first, t.state_operand.over_features(), kTile, t.forecast,
                         kTile, w.shift_bias);
    for (int64_t k = 0; k < call.film_width; k += kPanel) {
        const int64_t count = for_bands(k, call.film_width, [&](int64_t first, int64_t columns) {
            const Band band = film_band(call, w, lanes, first, columns, t);
            make_operands<1>(columns, lanes, {t.panel.from(first - k)}, [=](int64_t at, int64_t i, Vector* value) {
                *value = max(Vector{}, band.left(at, i)) * band.right(at, i);
            });
        });
        multiply<Onto::c>(call.horizon, count, lanes, w.out.from(0, k), t.panel.over_features(), kTile, t.forecast,
                          kTile);
    }
    finish_plane(tile.count, call.horizon, t.forecast, call.forecast + tile.first * call.horizon);
}

template <typename T>
inline void film_forecast(const FilmForecast<T>& call) {
    if (call.rows == 0) return;
    const TileCut cut(call.rows, call.threads < 1 ? 1 : call.threads);
    const int threads = threads_for(call.threads, cut.tiles());
    Pieces plane_size, weight_size;
    static_cast<void>(FilmPlanes(call, plane_size));
    static_cast<void>(FilmWeights(call, weight_size));
    const size_t worker_bytes = plane_size.used();
    const size_t bytes = weight_size.used() + worker_bytes * static_cast<size_t>(threads);
    Workspace workspace(bytes);
    char* const weight_memory = static_cast<char*>(workspace.take(bytes));
    char* const memory = weight_memory + weight_size.used();
    Pieces weight_pieces(weight_memory);
    const FilmWeights weights(call, weight_pieces);
    parallel_for(cut.tiles(), threads, [&](int64_t index, int worker) {
        Pieces pieces(memory + static_cast<size_t>(worker) * worker_bytes);
        const AmxTiles amx;
        const TileRows<T> tile(call, cut.first_row(index), cut.first_row(index + 1));
        film_forecast_tile(tile, weights, FilmPlanes(call, pieces));
    });
}

}  // namespace
}  // namespace poco
