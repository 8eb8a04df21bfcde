// The shift of FiLM folded through the output: weight = W_out W_shift, bias = W_out b_shift + b_out.
#pragma once

#include "core/thread_pool.h"
#include "core/workspace.h"
#include "cpu/kernels.h"
#include "cpu/operands.h"

namespace poco {
namespace {

constexpr int64_t kShiftRows = 64;             // of W_shift taken at a time
constexpr int64_t kShiftColumns = 2 * kLanes;  // that a thread takes
static_assert(kShiftRows % 2 == 0 && kShiftColumns <= kTile, "whole pairs, no wider than a plane");

inline void put_row(int64_t count, const float* from, float* to) {
    std::memcpy(to, from, static_cast<size_t>(count) * sizeof(float));
}

inline void put_row(int64_t count, const float* from, Bfloat16* to) {
    for (int64_t j = 0; j < count; ++j) to[j] = to_bfloat16(from[j]);
}

// What a worker keeps of its columns.
struct ShiftPlanes {
    float* sums;
    OperandPlane rows;

    template <typename T>
    ShiftPlanes(const FilmShift<T>& call, Pieces& pieces)
        : sums(pieces.plane(call.horizon)),
          rows(operand_in_place(pieces.plane(kShiftRows), kShiftRows, false, pieces)) {}
};

template <typename T>
inline void film_shift_columns(const FilmShift<T>& call, const Weights& output, int64_t first, const ShiftPlanes& t) {
    const int64_t d = call.width, film = call.film_width, columns = smaller(kShiftColumns, d - first);
    clear_plane(call.horizon, t.sums);
    for (int64_t k = 0; k < film; k += kShiftRows) {
        const int64_t rows = smaller(kShiftRows, film - k);
        const T* from = call.shift_weight + k * d + first;
        make_operands<1>(rows, columns, {t.rows}, [=](int64_t at, int64_t i, Vector* value) {
            const int64_t j = at - i * kTile;
            *value = load_at_most(from + i * d + j, columns - j);
        });
        multiply<Onto::c>(call.horizon, rows, columns, output.from(0, k), t.rows.over_features(), kTile, t.sums, kTile);
    }
    for (int64_t h = 0; h < call.horizon; ++h) {
        put_row(columns, t.sums + h * kTile, call.weight + h * d + first);
    }
}

template <typename T>
inline void film_shift_bias(const FilmShift<T>& call) {
    const int64_t film = call.film_width;
    for (int64_t h = 0; h < call.horizon; ++h) {
        Vector total = {};
        for (int64_t k = 0; k < film; k += kLanes) {
            const Vector weight = load_at_most(call.output_weight + h * film + k, film - k);
            total = fma(weight, load_at_most(call.shift_bias + k, film - k), total);
        }
        const float bias = sum(total) + to_float(call.output_bias[h]);
        put_row(1, &bias, call.bias + h);
    }
}

template <typename T>
inline void film_shift(const FilmShift<T>& call) {
    if (call.horizon == 0) return;
    const int64_t parts = (call.width + kShiftColumns - 1) / kShiftColumns;
    const int threads = threads_for(call.threads, parts);
    const auto output_weights = [&](Pieces& pieces) {
        return as_weights(1, call.horizon, call.film_width, call.output_weight, pieces).first;
    };
    Pieces weight_size, plane_size;
    static_cast<void>(output_weights(weight_size));
    static_cast<void>(ShiftPlanes(call, plane_size));
    const size_t bytes = weight_size.used() + plane_size.used() * static_cast<size_t>(threads);
    Workspace workspace(bytes);
    char* const memory = static_cast<char*>(workspace.take(bytes));
    Pieces weight_pieces(memory);
    const Weights output = output_weights(weight_pieces);
    film_shift_bias(call);
    parallel_for(parts, threads, [&](int64_t part, int worker) {
        Pieces pieces(memory + weight_size.used() + static_cast<size_t>(worker) * plane_size.used());
        const AmxTiles amx;
        film_shift_columns(call, output, part * kShiftColumns, ShiftPlanes(call, pieces));
    });
}

}  // namespace
}  // namespace poco
