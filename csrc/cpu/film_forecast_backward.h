// Backward of pass 2. A tile of rows goes forward again, then back, in the cache. Sums over rows are kept for each of a
// number of chunks of tiles that does not depend on the threads, and are put together in the order of the chunks.
#pragma once

#include "cpu/film_forecast.h"
#include "cpu/film_sums.h"
#include "cpu/unit_sums.h"

namespace poco {
namespace {

constexpr int64_t kMostChunks = 64;
constexpr int64_t kSumBytes = int64_t{24} << 20;  // about what all copies of the parameters' gradients may take

// Into how many chunks the tiles go. Each has `sum_bytes` of sums, so there are few if these are large or rows are few;
// but more than the threads of most machines, so that one late thread does not keep the others waiting.
inline int64_t chunk_count(int64_t tiles, int64_t sum_bytes) {
    const int64_t most = sum_bytes == 0 ? kMostChunks : larger(8, smaller(kMostChunks, kSumBytes / sum_bytes));
    const int64_t wanted = sum_bytes == 0 ? tiles : round_up(tiles / 6, 4);
    return larger(1, smaller(smaller(wanted, tiles), most));  // one even without tiles: it clears the sums
}

// --- one tile ----------------------------------------------------------------------------------------------

// What a worker keeps of the tile it is at, besides what the forward needs. Lines are rows of whole vectors.
struct FilmBackwardPlanes : FilmPlanes {
    float *unit_standard, *unit_inverse_std, *query, *standard;
    float *gelu_of_gate, *slope_times_value, *gated;  // of all hidden columns, with dropout
    float *grad, *grad_state, *grad_normed, *grad_scores, *grad_activity, *grad_panel;
    float *left_lines, *right_lines, *activity_lines, *grad_lines;
    size_t line_bytes;

    FilmBackwardPlanes(const FilmForecast<float>& call, Pieces& pieces)
        : FilmPlanes(call, pieces),
          unit_standard(pieces.plane(call.width)),
          unit_inverse_std(pieces.plane(1)),
          query(pieces.plane(call.width)),
          standard(pieces.plane(call.width)),
          gelu_of_gate(pieces.plane(call.ffn_width)),
          slope_times_value(pieces.plane(call.ffn_width)),
          gated(pieces.plane(call.ffn_width)),
          grad(pieces.plane(call.horizon)),
          grad_state(pieces.plane(call.width)),
          grad_normed(pieces.plane(call.width)),
          grad_scores(pieces.plane(call.latents)),
          grad_activity(pieces.plane(call.context)),
          grad_panel(pieces.plane(kPanel)) {
        const size_t before = pieces.used();
        left_lines = pieces.floats(kTile * round_up(call.width));
        right_lines = pieces.floats(kTile * round_up(call.width));
        activity_lines = pieces.floats(kTile * round_up(call.context));
        grad_lines = pieces.floats(kTile * round_up(call.horizon));
        line_bytes = pieces.used() - before;
    }

    // What pads the lines enters sums that nobody reads, but odd numbers there would be slow.
    void clear_lines() const { std::memset(left_lines, 0, line_bytes); }
};

inline void clear_plane(int64_t features, float* plane) {
    std::memset(plane, 0, static_cast<size_t>(features * kTile) * sizeof(float));
}

// The forward again up to `state`, keeping what the way back needs.
inline void film_tile_again(const TileRows& tile, const FilmBackwardPlanes& t) {
    const FilmForecast<float>& call = tile.call;
    const FilmParameters<const float>& p = call.parameters;
    const int64_t d = call.width, lanes = tile.lanes();

    gather_to_plane(tile.count, d, call.unit_table, call.unit_index + tile.first, t.state);
    standardise(d, lanes, call.eps, t.state, t.unit_standard, t.unit_inverse_std);
    scale_and_shift(d, lanes, t.unit_standard, p.query_norm_weight, p.query_norm_bias, t.query);
    attend(tile, t.query, t.weights, t.state, t.scratch);

    standardise(d, lanes, call.eps, t.state, t.standard, t.inverse_std);
    scale_and_shift(d, lanes, t.standard, p.ffn_norm_weight, p.ffn_norm_bias, t.normed);
    add_to_features(d, lanes, p.ffn_out_bias, t.state);
    for (int64_t f = 0; f < call.ffn_width; f += kPanel) {
        const int64_t count = smaller(kPanel, call.ffn_width - f);
        feed_forward_panel(call, lanes, t.normed, f, count, t.left, t.right);
        if (call.dropout > 0) film_dropout(call).fill(tile.first, lanes, f, count, t.mask);
        float* gelu_of_gate = t.gelu_of_gate + f * kTile;
        float* slope_times_value = t.slope_times_value + f * kTile;
        float* gated = t.gated + f * kTile;
        for_vectors(count, lanes, [&](int64_t at, int64_t) {
            Vector activation, slope;
            gelu_and_slope(load(t.right + at), activation, slope);
            Vector value = load(t.left + at);
            if (call.dropout > 0) {
                const Vector mask = load(t.mask + at);
                activation *= mask;
                slope *= mask;
            }
            store(gelu_of_gate + at, activation);
            store(slope_times_value + at, slope * value);
            store(gated + at, activation * value);
        });
        multiply<Onto::c>(d, count, lanes, {p.ffn_out_weight + f, call.ffn_width, 1}, gated, kTile, t.state, kTile);
    }
}

// FiLM and output: from `grad` to the gradients of `state` and of the activity.
inline void film_backward(const TileRows& tile, const FilmBackwardPlanes& t, bool wants_x, FilmSums* sums) {
    const FilmForecast<float>& call = tile.call;
    const FilmParameters<const float>& p = call.parameters;
    const int64_t d = call.width, lanes = tile.lanes(), context = call.context, horizon = call.horizon;

    rows_to_plane(tile.count, context, call.x + tile.first * context, t.activity);
    multiply<Onto::zero>(d, horizon, lanes, {p.shift_weight, 1, d}, t.grad, kTile, t.grad_state, kTile);
    if (wants_x) clear_plane(context, t.grad_activity);
    if (sums != nullptr) {
        plane_to_rows(tile.count, d, t.state, t.left_lines, sums->width);
        plane_to_rows(tile.count, context, t.activity, t.activity_lines, sums->context);
        plane_to_rows(tile.count, horizon, t.grad, t.grad_lines, sums->horizon);
        sums->add_products(horizon, tile.count, sums->width, t.grad, t.left_lines, sums->shift_weight);
        sums->add(horizon, lanes, t.grad, sums->shift_bias);
    }
    for (int64_t k = 0; k < call.film_width; k += kPanel) {
        const int64_t count = smaller(kPanel, call.film_width - k);
        film_panel(call, lanes, t.activity, t.state, k, count, t.left, t.right);
        multiply<Onto::zero>(count, horizon, lanes, {p.out_weight + k, 1, call.film_width}, t.grad, kTile, t.grad_panel,
                             kTile);
        // left, right, grad_panel: from what the activity makes, the scale and the gradient of their product to the
        // gradients of the two and their product.
        for_vectors(count, lanes, [&](int64_t at, int64_t) {
            const Vector made = load(t.left + at), scale = load(t.right + at), g = load(t.grad_panel + at);
            const Vector hidden = max(Vector{}, made);
            store(t.left + at, made <= 0.0f ? Vector{} : g * scale);
            store(t.right + at, g * hidden);
            store(t.grad_panel + at, hidden * scale);
        });
        multiply<Onto::c>(d, count, lanes, {p.scale_weight + k * d, 1, d}, t.right, kTile, t.grad_state, kTile);
        if (wants_x) {
            multiply<Onto::c>(context, count, lanes, {p.in_weight + k * context, 1, context}, t.left, kTile,
                              t.grad_activity, kTile);
        }
        if (sums != nullptr) {
            sums->add_products(count, tile.count, sums->context, t.left, t.activity_lines,
                               sums->in_weight + k * sums->context);
            sums->add_products(count, tile.count, sums->width, t.right, t.left_lines,
                               sums->scale_weight + k * sums->width);
            sums->add_products(count, tile.count, sums->horizon, t.grad_panel, t.grad_lines,
                               sums->out_weight_t + k * sums->horizon);
            sums->add(count, lanes, t.left, sums->in_bias + k);
            sums->add(count, lanes, t.right, sums->scale_bias + k);
        }
    }
}

// The feed-forward layer: `grad_state` from the gradient of what it gives to that of what it took.
inline void feed_forward_backward(const TileRows& tile, const FilmBackwardPlanes& t, FilmSums* sums) {
    const FilmForecast<float>& call = tile.call;
    const FilmParameters<const float>& p = call.parameters;
    const int64_t d = call.width, lanes = tile.lanes(), hidden = call.ffn_width;

    clear_plane(d, t.grad_normed);
    if (sums != nullptr) {
        plane_to_rows(tile.count, d, t.normed, t.left_lines, sums->width);
        plane_to_rows(tile.count, d, t.grad_state, t.right_lines, sums->width);
        sums->add(d, lanes, t.grad_state, sums->ffn_out_bias);
    }
    for (int64_t f = 0; f < hidden; f += kPanel) {
        const int64_t count = smaller(kPanel, hidden - f);
        multiply<Onto::zero>(count, d, lanes, {p.ffn_out_weight + f, 1, hidden}, t.grad_state, kTile, t.left, kTile);
        const float* gelu_of_gate = t.gelu_of_gate + f * kTile;
        const float* slope_times_value = t.slope_times_value + f * kTile;
        for_vectors(count, lanes, [&](int64_t at, int64_t) {
            const Vector g = load(t.left + at);
            store(t.left + at, g * load(gelu_of_gate + at));
            store(t.right + at, g * load(slope_times_value + at));
        });
        multiply<Onto::c>(d, count, lanes, {p.ffn_in_weight + f * d, 1, d}, t.left, kTile, t.grad_normed, kTile);
        multiply<Onto::c>(d, count, lanes, {p.ffn_in_weight + (hidden + f) * d, 1, d}, t.right, kTile, t.grad_normed,
                          kTile);
        if (sums != nullptr) {
            sums->add_products(count, tile.count, sums->width, t.left, t.left_lines,
                               sums->ffn_in_weight + f * sums->width);
            sums->add_products(count, tile.count, sums->width, t.right, t.left_lines,
                               sums->ffn_in_weight + (hidden + f) * sums->width);
            sums->add_products(count, tile.count, sums->width, t.gated + f * kTile, t.right_lines,
                               sums->ffn_out_weight_t + f * sums->width);
            sums->add(count, lanes, t.left, sums->ffn_in_bias + f);
            sums->add(count, lanes, t.right, sums->ffn_in_bias + hidden + f);
        }
    }
    if (sums != nullptr) {
        sums->add(d, lanes, t.grad_normed, sums->ffn_norm_weight, t.standard);
        sums->add(d, lanes, t.grad_normed, sums->ffn_norm_bias);
    }
    standardise_backward(d, lanes, t.grad_normed, t.standard, t.inverse_std, p.ffn_norm_weight, t.grad_state);
}

// Attention: `grad_state` becomes the gradient of the units.
inline void attention_backward(const TileRows& tile, const FilmBackwardPlanes& t, FilmSums* sums, WindowSums& windows) {
    const FilmForecast<float>& call = tile.call;
    const FilmParameters<const float>& p = call.parameters;
    const int64_t d = call.width, lanes = tile.lanes(), latents = call.latents, padded = round_up(d);

    if (sums != nullptr) sums->add(d, lanes, t.grad_state, sums->attention_bias);
    plane_to_rows(tile.count, d, t.query, t.left_lines, padded);
    plane_to_rows(tile.count, d, t.grad_state, t.right_lines, padded);
    tile.for_runs([&](const Run& run) {
        const Strided values{call.values + run.window * latents * d, d, 1};
        multiply_run<false>(run, latents, d, values, t.grad_state, t.grad_scores, t.scratch);
    });
    softmax_backward(latents, lanes, t.weights, t.grad_scores);
    tile.for_runs([&](const Run& run) {
        const Strided keys{call.keys + run.window * latents * d, 1, d};
        multiply_run<false>(run, d, latents, keys, t.grad_scores, t.grad_normed, t.scratch);
        windows.add(run, t.grad_scores, t.left_lines, t.weights, t.right_lines);
    });
    if (sums != nullptr) {
        sums->add(d, lanes, t.grad_normed, sums->query_norm_weight, t.unit_standard);
        sums->add(d, lanes, t.grad_normed, sums->query_norm_bias);
    }
    standardise_backward(d, lanes, t.grad_normed, t.unit_standard, t.unit_inverse_std, p.query_norm_weight,
                         t.grad_state);
}

inline void film_backward_tile(const FilmForecastBackward<float>& back, const TileRows& tile,
                               const FilmBackwardPlanes& t, FilmSums* sums, WindowSums& windows,
                               const UnitSums& units) {
    const FilmForecast<float>& call = tile.call;
    film_tile_again(tile, t);
    rows_to_plane(tile.count, call.horizon, back.grad + tile.first * call.horizon, t.grad);
    film_backward(tile, t, back.grad_x != nullptr, sums);
    feed_forward_backward(tile, t, sums);
    attention_backward(tile, t, sums, windows);
    if (sums != nullptr) sums->empty = false;

    if (back.grad_x != nullptr) {
        plane_to_rows(tile.count, call.context, t.grad_activity, back.grad_x + tile.first * call.context, call.context);
    }
    if (back.grad_unit_table != nullptr) {
        const int64_t padded = round_up(call.width);
        plane_to_rows(tile.count, call.width, t.grad_state, t.left_lines, padded);
        for (int64_t row = 0; row < tile.count; ++row) {
            std::memcpy(units.row(tile.first + row), t.left_lines + row * padded,
                        static_cast<size_t>(call.width) * sizeof(float));
        }
    }
}

// --- all tiles ---------------------------------------------------------------------------------------------

inline bool wants_parameters(const FilmParameters<float>& g) {
    const float* const all[] = {g.attention_bias, g.query_norm_weight, g.query_norm_bias, g.ffn_norm_weight,
                                g.ffn_norm_bias,  g.ffn_in_weight,     g.ffn_in_bias,     g.ffn_out_weight,
                                g.ffn_out_bias,   g.scale_weight,      g.scale_bias,      g.shift_weight,
                                g.shift_bias,     g.in_weight,         g.in_bias,         g.out_weight};
    for (const float* one : all) {
        if (one != nullptr) return true;
    }
    return false;
}

inline void clear_empty_windows(const FilmForecastBackward<float>& back) {
    const FilmForecast<float>& call = back.forward;
    const int64_t size = call.latents * call.width;
    float* const gradients[] = {back.grad_keys, back.grad_values};
    for (int64_t w = 0; w < call.windows; ++w) {
        if (call.window_offsets[w + 1] > call.window_offsets[w]) continue;
        for (float* gradient : gradients) {
            if (gradient != nullptr) std::memset(gradient + w * size, 0, static_cast<size_t>(size) * sizeof(float));
        }
    }
}

inline void film_forecast_backward(const FilmForecastBackward<float>& back) {
    const FilmForecast<float>& call = back.forward;
    const bool with_parameters = wants_parameters(back.grad_parameters);
    const int64_t tiles = (call.rows + kTile - 1) / kTile;

    Pieces plane_size, sum_size, window_size;
    static_cast<void>(FilmBackwardPlanes(call, plane_size));
    static_cast<void>(FilmSums(call, sum_size));
    static_cast<void>(WindowSums(back, window_size));
    const size_t worker_bytes = plane_size.used();
    const size_t sum_bytes = with_parameters ? sum_size.used() : 0;
    const int64_t chunks = chunk_count(tiles, static_cast<int64_t>(sum_bytes));
    const int threads = static_cast<int>(smaller(call.threads, chunks));
    const size_t chunk_bytes = sum_bytes + window_size.used();
    const size_t bytes = worker_bytes * static_cast<size_t>(threads) + chunk_bytes * static_cast<size_t>(chunks);
    Workspace workspace(bytes);
    char* const chunk_memory = static_cast<char*>(workspace.take(bytes));
    char* const worker_memory = chunk_memory + chunk_bytes * static_cast<size_t>(chunks);

    clear_empty_windows(back);
    UnitSums units(call.unit_index, call.rows, call.units, call.width, back.grad_unit_table);
    int64_t head_window[kMostChunks];
    const auto memory_of = [&](int64_t chunk) { return chunk_memory + static_cast<size_t>(chunk) * chunk_bytes; };
    parallel_for(chunks, threads, [&](int64_t chunk, int worker) {
        Pieces worker_pieces(worker_memory + static_cast<size_t>(worker) * worker_bytes);
        const FilmBackwardPlanes planes(call, worker_pieces);
        planes.clear_lines();
        Pieces sum_pieces(memory_of(chunk)), window_pieces(memory_of(chunk) + sum_bytes);
        FilmSums sums(call, sum_pieces);
        WindowSums windows(back, window_pieces);
        const int64_t first = tiles * chunk / chunks, last = tiles * (chunk + 1) / chunks;
        windows.begin(first * kTile);
        for (int64_t index = first; index < last; ++index) {
            film_backward_tile(back, TileRows(call, index), planes, with_parameters ? &sums : nullptr, windows, units);
        }
        if (with_parameters && first == last) std::memset(memory_of(chunk), 0, sum_bytes);
        windows.end();
        head_window[chunk] = windows.head_window;
    });

    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        Pieces pieces(memory_of(chunk) + sum_bytes);
        WindowSums windows(back, pieces);
        windows.head_window = head_window[chunk];
        windows.add_head();
    }
    units.finish(call.threads);
    if (!with_parameters) return;
    constexpr int64_t kAtOnce = 4096;
    const int64_t count = static_cast<int64_t>(sum_bytes / sizeof(float));
    parallel_for((count + kAtOnce - 1) / kAtOnce, call.threads, [&](int64_t block, int) {
        float* onto = reinterpret_cast<float*>(memory_of(0));
        for (int64_t at = block * kAtOnce; at < smaller(count, (block + 1) * kAtOnce); at += 16) {  // a cache line
            for (int64_t chunk = 1; chunk < chunks; ++chunk) {
                const float* from = reinterpret_cast<const float*>(memory_of(chunk));
                for (int64_t i = at; i < at + 16; i += kLanes) store(onto + i, load(onto + i) + load(from + i));
            }
        }
    });
    Pieces pieces(memory_of(0));
    copy_sums(call, FilmSums(call, pieces), back.grad_parameters);
}

}  // namespace
}  // namespace poco
