// A forecaster on the ground, one window: the latents of the population, then every unit. poco/ground says what is
// computed. A tile of units goes through the whole chain without leaving the cache; what is read once for each unit are
// its coefficients.
#pragma once

#include "core/thread_pool.h"
#include "cpu/operands.h"

namespace poco {
namespace {

constexpr int64_t kGroundPanel = 128;    // hidden units of a residual that are made, used and forgotten together
constexpr int64_t kGroundChunks = 16;    // parts of the population whose sums are made side by side
constexpr float kLeastVariance = 0.05f;  // poco.ground.networks.LEAST_VARIANCE

// out [K, C] = loadings^T x, without the units that are not seen. Always summed in the same order.
inline void ground_latents(const GroundLatents& call) {
    const int64_t tiles = (call.units + kTile - 1) / kTile, chunks = smaller(kGroundChunks, tiles);
    const int64_t line = round_up(call.context), size = call.latents * line;
    if (call.latents == 0) return;
    std::memset(call.out, 0, static_cast<size_t>(call.latents * call.context) * sizeof(float));
    if (chunks == 0) return;
    const int threads = threads_for(call.threads, chunks);
    Pieces sizes;
    sizes.floats(size * chunks);
    const size_t rows_bytes = Workspace::bytes_of(kTile * line, sizeof(float));
    const size_t bytes = sizes.used() + rows_bytes * static_cast<size_t>(threads);
    Workspace workspace(bytes);
    char* const memory = static_cast<char*>(workspace.take(bytes));
    float* const sums = reinterpret_cast<float*>(memory);
    parallel_for(chunks, threads, [&](int64_t chunk, int worker) {
        float* const rows = reinterpret_cast<float*>(memory + sizes.used() + static_cast<size_t>(worker) * rows_bytes);
        float* const sum = sums + chunk * size;
        std::memset(sum, 0, static_cast<size_t>(size) * sizeof(float));
        std::memset(rows, 0, static_cast<size_t>(kTile * line) * sizeof(float));
        for (int64_t tile = chunk * tiles / chunks; tile < (chunk + 1) * tiles / chunks; ++tile) {
            const int64_t first = tile * kTile, count = smaller(kTile, call.units - first);
            for (int64_t i = 0; i < count; ++i) {
                float* const to = rows + i * line;
                const size_t length = static_cast<size_t>(call.context) * sizeof(float);
                if (call.seen[first + i] != 0) {
                    std::memcpy(to, call.x + (first + i) * call.context, length);
                } else {
                    std::memset(to, 0, length);
                }
            }
            const Strided loadings{call.loadings + first * call.latents, 1, call.latents};
            multiply<Onto::c>(call.latents, count, call.context, loadings, rows, line, sum, line);
        }
    });
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
        for (int64_t k = 0; k < call.latents; ++k) {
            const float* const from = sums + chunk * size + k * line;
            for (int64_t t = 0; t < call.context; ++t) call.out[k * call.context + t] += from[t];
        }
    }
}

// out [H] += gain * sum_i features[i] * coefficients[i, H].
inline void add_terms(int64_t count, int64_t horizon, const float* features, const float* coefficients, float gain,
                      float* out) {
    if (count == 0) return;
    for (int64_t h = 0; h < horizon; h += kLanes) {
        const int64_t width = smaller(kLanes, horizon - h);
        const float* const from = coefficients + h;
        Vector total = {};
        if (width == kLanes) {
            for (int64_t i = 0; i < count; ++i) {
                total = fma(broadcast(features[i]), load(from + i * horizon), total);
            }
        } else {
            for (int64_t i = 0; i < count; ++i) {
                total = fma(broadcast(features[i]), load_some(from + i * horizon, width), total);
            }
        }
        store_some(out + h, fma(total, broadcast(gain), load_some(out + h, width)), width);
    }
}

// What a worker keeps of the tile it is at.
struct GroundPlanes {
    float *x, *own, *own_rows, *condition_rows, *condition, *e, *left, *right, *term, *forecast, *size;

    GroundPlanes(const GroundForecast& call, Pieces& pieces)
        : x(pieces.plane(call.context)),
          own(pieces.plane(call.own_features[0] + call.own_features[1])),
          own_rows(pieces.floats(kTile * (call.own_features[0] + call.own_features[1]))),
          condition_rows(pieces.floats(kTile * 2 * call.horizon)),
          condition(pieces.plane(2 * call.horizon)),
          e(pieces.plane(2 * call.horizon)),
          left(pieces.plane(kGroundPanel)),
          right(pieces.plane(kGroundPanel)),
          term(pieces.plane(call.horizon)),
          forecast(pieces.plane(call.horizon)),
          size(pieces.plane(1)) {}
};

inline Vector clip(Vector v, float most) {
    return min(broadcast(most), max(broadcast(-most), v));
}

// The size of each window once its mean is taken off.
inline void window_sizes(int64_t context, int64_t lanes, const float* x, float* size) {
    const float share = 1.0f / static_cast<float>(context);
    for (int64_t lane = 0; lane < lanes; lane += kLanes) {
        Vector mean = {};
        for (int64_t t = 0; t < context; ++t) mean += load(x + t * kTile + lane);
        mean *= share;
        Vector square = {};
        for (int64_t t = 0; t < context; ++t) {
            const Vector off = load(x + t * kTile + lane) - mean;
            square = fma(off, off, square);
        }
        store(size + lane, sqrt(square * share + kLeastVariance));
    }
}

// forecast += gain * the residual's term, for a tile.
inline void add_residual(const GroundForecast& call, const GroundResidual& residual, int64_t lanes,
                         const GroundPlanes& t) {
    const int64_t conditions = 2 * call.horizon;
    const bool of_shape = residual.of_shape;
    const auto size = [&](int64_t at) { return of_shape ? load(t.size + at % kTile) : broadcast(1.0f); };
    for_vectors(conditions, lanes, [&](int64_t at, int64_t i) {
        const Vector scaled = load(t.condition + at) / (size(at) * residual.condition_scale[i]);
        store(t.e + at, clip(scaled, call.clip));
    });
    multiply<Onto::bias>(call.horizon, conditions, lanes, Strided{residual.skip, conditions, 1}, t.e, kTile, t.term,
                         kTile, residual.out_bias);
    for (int64_t k = 0; k < residual.width; k += kGroundPanel) {
        const int64_t count = smaller(kGroundPanel, residual.width - k);
        multiply<Onto::zero>(count, call.context, lanes,
                             Strided{residual.in_weight + k * call.context, call.context, 1}, t.x, kTile, t.left,
                             kTile);
        for_vectors(count, lanes, [&](int64_t at, int64_t i) {
            store(t.left + at, load(t.left + at) / size(at) + residual.in_bias[k + i]);
        });
        const auto rows = [&](const float* weight) { return Strided{weight + k * conditions, conditions, 1}; };
        multiply<Onto::c>(count, conditions, lanes, rows(residual.shift), t.e, kTile, t.left, kTile);
        multiply<Onto::zero>(count, conditions, lanes, rows(residual.scale), t.e, kTile, t.right, kTile);
        for_vectors(count, lanes, [&](int64_t at, int64_t) {
            store(t.left + at, max(Vector{}, load(t.left + at)) * (load(t.right + at) + 1.0f));
        });
        multiply<Onto::c>(call.horizon, count, lanes, Strided{residual.out_weight + k, residual.width, 1}, t.left,
                          kTile, t.term, kTile);
    }
    for_vectors(call.horizon, lanes, [&](int64_t at, int64_t) {
        store(t.forecast + at, fma(load(t.term + at) * size(at), broadcast(residual.gain), load(t.forecast + at)));
    });
}

inline void ground_forecast_tile(const GroundForecast& call, int64_t first, int64_t count, const GroundPlanes& t) {
    const int64_t lanes = round_up(count), horizon = call.horizon, own = call.own_features[0] + call.own_features[1];
    rows_to_plane(count, call.context, call.x + first * call.context, t.x);
    multiply<Onto::zero>(horizon, call.context, lanes, Strided{call.base, call.context, 1}, t.x, kTile, t.forecast,
                         kTile);
    multiply<Onto::zero>(own, call.context, lanes, Strided{call.own_map, call.context, 1}, t.x, kTile, t.own, kTile);
    for_vectors(own, lanes, [&](int64_t at, int64_t) { store(t.own + at, clip(load(t.own + at), call.clip)); });
    plane_to_rows(count, own, t.own, t.own_rows, own);
    std::memset(t.condition_rows, 0, static_cast<size_t>(count * 2 * horizon) * sizeof(float));
    for (int64_t i = 0; i < count; ++i) {
        const float* features = t.own_rows + i * own;
        float* const to = t.condition_rows + i * 2 * horizon;
        for (int f = 0; f < 2; ++f) {
            const int64_t of_unit = call.own_features[f], of_population = call.population_features[f];
            const float* const given = call.coefficients[f] + (first + i) * (of_unit + of_population) * horizon;
            if (call.gains[f] == 0) {
                features += of_unit;
                continue;
            }
            add_terms(of_unit, horizon, features, given, call.gains[f], to);
            add_terms(of_population, horizon, call.population[f], given + of_unit * horizon, call.gains[f],
                      to + horizon);
            features += of_unit;
        }
    }
    rows_to_plane(count, 2 * horizon, t.condition_rows, t.condition);
    for_vectors(horizon, lanes, [&](int64_t at, int64_t) {
        const Vector said = load(t.condition + at) + load(t.condition + horizon * kTile + at);
        store(t.forecast + at, fma(said, broadcast(call.share), load(t.forecast + at)));
    });
    window_sizes(call.context, lanes, t.x, t.size);
    for (int64_t r = 0; r < call.residual_count; ++r) {
        if (call.residuals[r].gain != 0) add_residual(call, call.residuals[r], lanes, t);
    }
    plane_to_rows(count, horizon, t.forecast, call.forecast + first * horizon, horizon);
}

inline void ground_forecast(const GroundForecast& call) {
    const int64_t tiles = (call.units + kTile - 1) / kTile;
    if (tiles == 0) return;
    const int threads = threads_for(call.threads, tiles);
    Pieces sizes;
    static_cast<void>(GroundPlanes(call, sizes));
    const size_t bytes = sizes.used() * static_cast<size_t>(threads);
    Workspace workspace(bytes);
    char* const memory = static_cast<char*>(workspace.take(bytes));
    parallel_for(tiles, threads, [&](int64_t tile, int worker) {
        Pieces pieces(memory + static_cast<size_t>(worker) * sizes.used());
        const int64_t first = tile * kTile;
        ground_forecast_tile(call, first, smaller(kTile, call.units - first), GroundPlanes(call, pieces));
    });
}

constexpr GroundKernels built_ground{ground_latents, ground_forecast};

}  // namespace
}  // namespace poco
