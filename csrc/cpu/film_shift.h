// The shift of FiLM folded through the output: weight = W_out W_shift, bias = W_out b_shift + b_out.
#pragma once

#include "core/thread_pool.h"
#include "core/workspace.h"
#include "cpu/gemm.h"
#include "cpu/kernels.h"
#include "cpu/tile.h"

namespace poco {
namespace {

constexpr int64_t kShiftRows = 64;               // of W_shift taken at a time
constexpr int64_t kShiftColumns = kTileColumns;  // that a thread takes, whole register tiles

// to[i][j] = from[i][j], in rows that have room for whole vectors, 0 behind their end.
template <typename T>
inline void copy_columns(int64_t rows, int64_t columns, const T* from, int64_t from_row, float* to, int64_t to_row) {
    for (int64_t i = 0; i < rows; ++i) {
        for (int64_t j = 0; j < columns; j += kLanes) {
            store(to + i * to_row + j, load_at_most(from + i * from_row + j, columns - j));
        }
    }
}

inline void put_row(int64_t count, const float* from, float* to) {
    std::memcpy(to, from, static_cast<size_t>(count) * sizeof(float));
}

inline void put_row(int64_t count, const float* from, Bfloat16* to) {
    for (int64_t j = 0; j < count; ++j) to[j] = to_bfloat16(from[j]);
}

template <typename T>
inline void film_shift(const FilmShift<T>& call) {
    const int64_t d = call.width, film = call.film_width, horizon = call.horizon;
    if (horizon == 0) return;
    const int64_t film_row = round_up(film);
    const size_t output_bytes = Workspace::bytes_of(horizon * film_row, sizeof(float));
    const size_t block_bytes = Workspace::bytes_of((kShiftRows + horizon) * kShiftColumns, sizeof(float));
    const int64_t parts = (d + kShiftColumns - 1) / kShiftColumns;
    const int threads = threads_for(call.threads, parts);
    Workspace workspace(output_bytes + block_bytes * static_cast<size_t>(threads));
    auto* output = static_cast<float*>(workspace.take(output_bytes));
    auto* blocks = static_cast<char*>(workspace.take(block_bytes * static_cast<size_t>(threads)));
    copy_columns(horizon, film, call.output_weight, film, output, film_row);

    for (int64_t h = 0; h < horizon; ++h) {
        Vector total = {};
        for (int64_t k = 0; k < film; k += kLanes) {
            total = fma(load(output + h * film_row + k), load_at_most(call.shift_bias + k, film - k), total);
        }
        const float bias = sum(total) + to_float(call.output_bias[h]);
        put_row(1, &bias, call.bias + h);
    }

    parallel_for(parts, threads, [&](int64_t part, int worker) {
        const int64_t first = part * kShiftColumns, columns = smaller(kShiftColumns, d - first);
        auto* block = reinterpret_cast<float*>(blocks + static_cast<size_t>(worker) * block_bytes);
        float* sums = block + kShiftRows * kShiftColumns;
        for (int64_t i = 0; i < horizon * kShiftColumns; i += kLanes) store(sums + i, Vector{});
        for (int64_t k = 0; k < film; k += kShiftRows) {
            const int64_t rows = smaller(kShiftRows, film - k);
            copy_columns(rows, columns, call.shift_weight + k * d + first, d, block, kShiftColumns);
            multiply<Onto::c>(horizon, rows, columns, {output + k, film_row, 1}, block, kShiftColumns, sums,
                              kShiftColumns);
        }
        for (int64_t h = 0; h < horizon; ++h) {
            put_row(columns, sums + h * kShiftColumns, call.weight + h * d + first);
        }
    });
}

}  // namespace
}  // namespace poco
