// Pass 2, latents to every unit: a tile of rows goes through attention over its window's latents, the feed-forward
// layer and FiLM without leaving the cache. The wide layers go by panels: kPanel columns at a time are made, used and
// forgotten. poco/ops/reference.py says what is computed.
#pragma once

#include "core/philox.h"
#include "core/thread_pool.h"
#include "core/workspace.h"
#include "cpu/kernels.h"
#include "cpu/tile.h"

namespace poco {
namespace {

constexpr int64_t kPanel = 128;  // a multiple of 4, as dropout is drawn for 4 columns at a time

// Rows first, ..., last - 1 of a tile belong to one window.
struct Run {
    int64_t window, first, last;
    int64_t lanes;  // `last`, or all lanes in use for the last window of the tile: what lies there stays finite
    bool alone;     // no other window in this tile
};

// The rows of one tile.
struct TileRows {
    const FilmForecast<float>& call;
    int64_t first, count;

    TileRows(const FilmForecast<float>& c, int64_t tile)
        : call(c), first(tile * kTile), count(smaller(kTile, c.rows - tile * kTile)) {}

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

// c (+)= A b for the lanes of one run; `scratch` is a plane like c.
template <bool kAdd>
inline void multiply_run(const Run& run, int64_t rows, int64_t inner, Strided a, const float* b, float* c,
                         float* scratch) {
    if (run.alone) {
        multiply<kAdd ? Onto::c : Onto::zero>(rows, inner, run.lanes, a, b, kTile, c, kTile);
        return;
    }
    const int64_t from = run.first / kLanes * kLanes;
    multiply<Onto::zero>(rows, inner, run.lanes - from, a, b + from, kTile, scratch + from, kTile);
    for (int64_t lane = from; lane < run.lanes; lane += kLanes) {
        const IntVector inside = lanes_between(run.first - lane, run.lanes - lane);
        for (int64_t i = 0; i < rows; ++i) {
            const Vector old = load(c + i * kTile + lane);
            const Vector made = load(scratch + i * kTile + lane);
            store(c + i * kTile + lane, inside ? (kAdd ? old + made : made) : old);
        }
    }
}

// Cuts a block of memory into arrays, each on a cache line; without a block it only counts.
class Pieces {
public:
    explicit Pieces(char* block = nullptr) : block_(block) {}

    float* floats(int64_t count) {
        float* piece = block_ == nullptr ? nullptr : reinterpret_cast<float*>(block_ + used_);
        used_ += Workspace::bytes_of(count, sizeof(float));
        return piece;
    }
    float* plane(int64_t features) { return floats(features * kTile); }
    size_t used() const { return used_; }

private:
    char* block_;
    size_t used_ = 0;
};

inline int64_t larger(int64_t a, int64_t b) {
    return a < b ? b : a;
}

// What a worker keeps of the tile it is at.
struct FilmPlanes {
    float *state, *normed, *weights, *scratch, *activity, *forecast, *left, *right, *mask, *inverse_std;

    FilmPlanes(const FilmForecast<float>& call, Pieces& pieces)
        : state(pieces.plane(call.width)),
          normed(pieces.plane(call.width)),
          weights(pieces.plane(call.latents)),
          scratch(pieces.plane(larger(call.width, call.latents))),
          activity(pieces.plane(call.context)),
          forecast(pieces.plane(call.horizon)),
          left(pieces.plane(kPanel)),
          right(pieces.plane(kPanel)),
          mask(pieces.plane(call.dropout > 0 ? kPanel : 0)),
          inverse_std(pieces.plane(1)) {}
};

inline Dropout film_dropout(const FilmForecast<float>& call) {
    return {call.seed, dropout_threshold(call.dropout), 1.0f / static_cast<float>(1 - call.dropout)};
}

inline void add_to_features(int64_t features, int64_t lanes, const float* bias, float* plane) {
    for_vectors(features, lanes, [=](int64_t at, int64_t i) { store(plane + at, load(plane + at) + bias[i]); });
}

// state: units plus what they take from their window's latents. `query` is what attends.
inline void attend(const TileRows& tile, const float* query, float* weights, float* state, float* scratch) {
    const FilmForecast<float>& call = tile.call;
    const int64_t d = call.width, latents = call.latents;
    tile.for_runs([&](const Run& run) {
        const Strided keys{call.keys + run.window * latents * d, d, 1};
        multiply_run<false>(run, latents, d, keys, query, weights, scratch);
    });
    softmax(latents, tile.lanes(), weights);
    tile.for_runs([&](const Run& run) {
        const Strided values{call.values + run.window * latents * d, 1, d};
        multiply_run<true>(run, d, latents, values, weights, state, scratch);
    });
    add_to_features(d, tile.lanes(), call.parameters.attention_bias, state);
}

// One panel of the wide layers of the feed-forward: values and gates of hidden columns first, ..., first + count - 1.
inline void feed_forward_panel(const FilmForecast<float>& call, int64_t lanes, const float* normed, int64_t first,
                               int64_t count, float* value, float* gate) {
    const FilmParameters<const float>& p = call.parameters;
    const int64_t d = call.width;
    const int64_t gates = call.ffn_width + first;
    multiply<Onto::bias>(count, d, lanes, {p.ffn_in_weight + first * d, d, 1}, normed, kTile, value, kTile,
                         p.ffn_in_bias + first);
    multiply<Onto::bias>(count, d, lanes, {p.ffn_in_weight + gates * d, d, 1}, normed, kTile, gate, kTile,
                         p.ffn_in_bias + gates);
}

// One panel of FiLM: what the activity makes (before its ReLU) and by what it is scaled.
inline void film_panel(const FilmForecast<float>& call, int64_t lanes, const float* activity, const float* state,
                       int64_t first, int64_t count, float* hidden, float* scale) {
    const FilmParameters<const float>& p = call.parameters;
    multiply<Onto::bias>(count, call.context, lanes, {p.in_weight + first * call.context, call.context, 1}, activity,
                         kTile, hidden, kTile, p.in_bias + first);
    multiply<Onto::bias>(count, call.width, lanes, {p.scale_weight + first * call.width, call.width, 1}, state, kTile,
                         scale, kTile, p.scale_bias + first);
}

inline void film_forecast_tile(const TileRows& tile, const FilmPlanes& t) {
    const FilmForecast<float>& call = tile.call;
    const FilmParameters<const float>& p = call.parameters;
    const int64_t d = call.width, lanes = tile.lanes();

    gather_to_plane(tile.count, d, call.unit_table, call.unit_index + tile.first, t.state);
    standardise(d, lanes, call.eps, t.state, t.normed, t.inverse_std);
    scale_and_shift(d, lanes, t.normed, p.query_norm_weight, p.query_norm_bias, t.normed);
    attend(tile, t.normed, t.weights, t.state, t.scratch);

    standardise(d, lanes, call.eps, t.state, t.normed, t.inverse_std);
    scale_and_shift(d, lanes, t.normed, p.ffn_norm_weight, p.ffn_norm_bias, t.normed);
    add_to_features(d, lanes, p.ffn_out_bias, t.state);
    for (int64_t f = 0; f < call.ffn_width; f += kPanel) {
        const int64_t count = smaller(kPanel, call.ffn_width - f);
        feed_forward_panel(call, lanes, t.normed, f, count, t.left, t.right);
        for_vectors(count, lanes,
                    [&](int64_t at, int64_t) { store(t.left + at, load(t.left + at) * gelu(load(t.right + at))); });
        if (call.dropout > 0) {
            film_dropout(call).fill(tile.first, lanes, f, count, t.mask);
            for_vectors(count, lanes,
                        [&](int64_t at, int64_t) { store(t.left + at, load(t.left + at) * load(t.mask + at)); });
        }
        multiply<Onto::c>(d, count, lanes, {p.ffn_out_weight + f, call.ffn_width, 1}, t.left, kTile, t.state, kTile);
    }

    rows_to_plane(tile.count, call.context, call.x + tile.first * call.context, t.activity);
    multiply<Onto::bias>(call.horizon, d, lanes, {p.shift_weight, d, 1}, t.state, kTile, t.forecast, kTile,
                         p.shift_bias);
    for (int64_t k = 0; k < call.film_width; k += kPanel) {
        const int64_t count = smaller(kPanel, call.film_width - k);
        film_panel(call, lanes, t.activity, t.state, k, count, t.left, t.right);
        for_vectors(count, lanes, [&](int64_t at, int64_t) {
            store(t.left + at, max(Vector{}, load(t.left + at)) * load(t.right + at));
        });
        multiply<Onto::c>(call.horizon, count, lanes, {p.out_weight + k, call.film_width, 1}, t.left, kTile, t.forecast,
                          kTile);
    }
    plane_to_rows(tile.count, call.horizon, t.forecast, call.forecast + tile.first * call.horizon, call.horizon);
}

inline void film_forecast(const FilmForecast<float>& call) {
    const int64_t tiles = (call.rows + kTile - 1) / kTile;
    if (tiles == 0) return;
    const int threads = static_cast<int>(smaller(call.threads, tiles));
    Pieces size;
    FilmPlanes(call, size);
    const size_t bytes = size.used();
    Workspace workspace(bytes * static_cast<size_t>(threads));
    char* memory = static_cast<char*>(workspace.take(bytes * static_cast<size_t>(threads)));
    parallel_for(tiles, threads, [&](int64_t index, int worker) {
        Pieces pieces(memory + static_cast<size_t>(worker) * bytes);
        film_forecast_tile(TileRows(call, index), FilmPlanes(call, pieces));
    });
}

}  // namespace
}  // namespace poco
