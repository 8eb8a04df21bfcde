// Backward of pass 2. Sums over rows are kept for each of a number of chunks of tiles that does not depend on the
// threads, and are put together in the order of the chunks. Chunks go in groups, a few for each thread, after each of
// which the gradients of its units are added up.
#pragma once

#include "core/thread_pool.h"
#include "cpu/film_backward_tile.h"

namespace poco {
namespace {

constexpr int64_t kMostChunks = 64;
constexpr int64_t kSumBytes = int64_t{26} << 20;  // about what all copies of the parameters' gradients may take

// Into how many chunks the rows go. Each has `sum_bytes` of sums, so there are few if these are large or rows are few;
// but more than the threads of most machines, so that one late thread does not keep the others waiting, and unless rows
// are very few a number that two and four threads share evenly. One without rows: it clears the sums.
inline int64_t chunk_count(int64_t rows, int64_t sum_bytes) {
    if (sum_bytes == 0) return larger(1, smaller(kMostChunks, (rows + kBlockRows - 1) / kBlockRows));
    const int64_t most = larger(8, smaller(kMostChunks, kSumBytes / sum_bytes / 4 * 4));
    const int64_t wanted = smaller((rows + 32) / 64, larger(4, round_up(rows / 384, 4)));
    return larger(1, smaller(wanted, most));
}

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

template <typename T>
inline void clear_empty_windows(const FilmForecastBackward<T>& back) {
    const FilmForecast<T>& call = back.forward;
    const int64_t size = call.latents * call.width;
    float* const gradients[] = {back.grad_keys, back.grad_values};
    for (int64_t w = 0; w < call.windows; ++w) {
        if (call.window_offsets[w + 1] > call.window_offsets[w]) continue;
        for (float* gradient : gradients) {
            if (gradient != nullptr) std::memset(gradient + w * size, 0, static_cast<size_t>(size) * sizeof(float));
        }
    }
}

template <typename T>
inline void film_forecast_backward(const FilmForecastBackward<T>& back) {
    const FilmForecast<T>& call = back.forward;
    const bool with_parameters = wants_parameters(back.grad_parameters);

    Pieces weight_size, plane_size, sum_size, window_size;
    static_cast<void>(FilmBackwardWeights(call, weight_size));
    static_cast<void>(FilmBackwardPlanes(call, plane_size));
    static_cast<void>(FilmSums(call, sum_size));
    static_cast<void>(WindowSums<T>(back, window_size));
    const size_t worker_bytes = plane_size.used();
    const size_t sum_bytes = with_parameters ? sum_size.used() : 0;
    const int64_t chunks = chunk_count(call.rows, static_cast<int64_t>(sum_bytes));
    const int threads = threads_for(call.threads, chunks);
    const size_t chunk_bytes = sum_bytes + window_size.used();
    const size_t bytes =
        weight_size.used() + worker_bytes * static_cast<size_t>(threads) + chunk_bytes * static_cast<size_t>(chunks);
    Workspace workspace(bytes);
    char* const weight_memory = static_cast<char*>(workspace.take(bytes));
    Pieces weight_pieces(weight_memory);
    const FilmBackwardWeights weights(call, weight_pieces);
    char* const chunk_memory = weight_memory + weight_size.used();
    char* const worker_memory = chunk_memory + chunk_bytes * static_cast<size_t>(chunks);

    clear_empty_windows(back);
    const int64_t together = threads <= 1 ? 1 : smaller(4 * threads, chunks);
    const int64_t vectors = round_up(call.rows) / kLanes;
    const auto first_row = [=](int64_t chunk) { return smaller(vectors * chunk / chunks * kLanes, call.rows); };
    UnitSums units(call.unit_index, call.rows, call.units, call.width, back.grad_unit_table, call.threads,
                   (vectors * together / chunks + 1) * kLanes);
    int64_t head_window[kMostChunks];
    double loss[kMostChunks] = {};
    const auto memory_of = [&](int64_t chunk) { return chunk_memory + static_cast<size_t>(chunk) * chunk_bytes; };
    const auto take_chunk = [&](int64_t chunk, int worker) {
        const FilmBlocks planes(call, worker_memory + static_cast<size_t>(worker) * worker_bytes);
        const AmxTiles amx;
        planes.whole().clear_lines();
        Pieces sum_pieces(memory_of(chunk)), window_pieces(memory_of(chunk) + sum_bytes);
        FilmSums sums(call, sum_pieces);
        WindowSums<T> windows(back, window_pieces);
        const int64_t first = first_row(chunk), last = first_row(chunk + 1);
        windows.begin(first);
        for (int64_t row = first; row < last; row += kBackwardRows) {
            const TileRows<T> tile(call, row, smaller(row + kBackwardRows, last));
            film_backward_tile(back, tile, weights, planes, with_parameters ? &sums : nullptr, windows, units,
                               loss + chunk);
        }
        if (with_parameters && first == last) std::memset(memory_of(chunk), 0, sum_bytes);
        windows.end();
        head_window[chunk] = windows.head_window;
    };
    for (int64_t begin = 0; begin < chunks; begin += together) {
        const int64_t end = smaller(begin + together, chunks);
        parallel_for(end - begin, threads, [&](int64_t number, int worker) { take_chunk(begin + number, worker); });
        units.add(first_row(end), call.threads);
    }

    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        Pieces pieces(memory_of(chunk) + sum_bytes);
        WindowSums<T> windows(back, pieces);
        windows.head_window = head_window[chunk];
        windows.add_head();
    }
    if (back.loss != nullptr) {
        *back.loss = 0;
        for (int64_t chunk = 0; chunk < chunks; ++chunk) *back.loss += loss[chunk];
    }
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
