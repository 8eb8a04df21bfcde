// Pass 1: what is known of the tokens of a tile of rows, without the tokens.
//
// The token of a row and segment is W x + v, x the segment's activity, v the row's unit with the bias. The layer
// normalisation removes its mean, so W and v are taken without theirs, and d times its variance is
// x' G x + 2 x' (W' v) + |v|^2, G = W' W. Products with normalised tokens are linear in x and v:
// <k, y> = inverse_std (<c, v> + <W' c, x>) + <k, norm_bias> with c = centred(norm_weight * k). So all that is d wide
// is one product of the tile's v with W and all c of the window; the rest is as narrow as a segment.
#pragma once

#include "cpu/latent_pool_plan.h"

namespace poco {
namespace {

// Below this share of what it is the difference of, a variance is summed up feature by feature: rounding errors would
// be too large a part of it.
constexpr float kPoolCancelled = 1.0f / 16;

// multiply() as a function of its own: where GCC inlines it among other code it leaves the sums in memory.
template <Onto kOnto>
__attribute__((noinline)) void product(int64_t rows, int64_t inner, int64_t columns, Strided a, const float* b,
                                       int64_t b_row, float* c, int64_t c_row) {
    multiply<kOnto>(rows, inner, columns, a, b, b_row, c, c_row);
}

inline void clear(float* at, int64_t count) {
    std::memset(at, 0, static_cast<size_t>(count) * sizeof(float));
}

// Takes the mean over the first `count` from them; what is behind stays.
inline void centre(float* row, int64_t count) {
    double mean = 0;
    for (int64_t j = 0; j < count; ++j) mean += static_cast<double>(row[j]);
    mean /= static_cast<double>(count);
    for (int64_t j = 0; j < count; ++j) row[j] = static_cast<float>(static_cast<double>(row[j]) - mean);
}

// ---- Weights in float32, in rows of whole vectors, 0 behind d.

struct PoolWeights {
    int64_t width;        // d in whole vectors
    int64_t length;       // L in whole vectors
    float* token_weight;  // [L, width], centred
    float* token_bias;    // [width], centred
    float* norm_weight;   // [width]
    float* norm_bias;     // [width]
    float* products;      // G [L, length]
    float size = 0;       // mean of G's diagonal

    template <typename T>
    PoolWeights(const LatentPool<T>& p, Pieces& memory)
        : width(round_up(p.width)),
          length(round_up(p.segment_length)),
          token_weight(memory.floats(p.segment_length * width)),
          token_bias(memory.floats(width)),
          norm_weight(memory.floats(width)),
          norm_bias(memory.floats(width)),
          products(memory.floats(p.segment_length * length)) {}

    template <typename T>
    void fill(const LatentPool<T>& p) {
        for (int64_t j = 0; j < width; j += kLanes) {
            store(token_bias + j, load_at_most(p.token_bias + j, p.width - j));
            store(norm_weight + j, load_at_most(p.norm_weight + j, p.width - j));
            store(norm_bias + j, load_at_most(p.norm_bias + j, p.width - j));
        }
        centre(token_bias, p.width);
        clear(token_weight, p.segment_length * width);
        clear(products, p.segment_length * length);
        for (int64_t l = 0; l < p.segment_length; ++l) {
            float* row = token_weight + l * width;
            for (int64_t j = 0; j < p.width; ++j) row[j] = to_float(p.token_weight[j * p.segment_length + l]);
            centre(row, p.width);
            for (int64_t k = 0; k <= l; ++k) {
                Vector along = {};
                for (int64_t j = 0; j < width; j += kLanes) {
                    along = fma(load(row + j), load(token_weight + k * width + j), along);
                }
                products[l * length + k] = products[k * length + l] = sum(along);
            }
            size += products[l * length + l] / static_cast<float>(p.segment_length);
        }
    }
};

// ---- The vectors whose products with the tokens of a window are wanted: as many for each segment.

struct PoolVectors {
    int64_t each, all;   // of a segment, of all segments
    int64_t columns;     // L + all in whole vectors
    float* lines;        // [L + all, width]: the token weights, then the vectors times norm_weight, centred
    float* table;        // [d, columns]: the same transposed
    float* on_activity;  // [all, length]: lines times token weights
    float* offset;       // [all]: vectors times norm_bias

    template <typename T>
    PoolVectors(const LatentPool<T>& p, int64_t of_a_segment, Pieces& memory)
        : each(of_a_segment),
          all(p.segments * each),
          columns(round_up(p.segment_length + all)),
          lines(memory.floats((p.segment_length + all) * round_up(p.width))),
          table(memory.floats(p.width * columns)),
          on_activity(memory.floats(all * round_up(p.segment_length))),
          offset(memory.floats(all)) {}

    // Takes vectors [S, Q, d] as number at, ..., at + Q - 1 of their segments.
    template <typename T, typename V>
    void take(const LatentPool<T>& p, const PoolWeights& w, const V* vectors, int64_t at) const {
        const float share = 1.0f / static_cast<float>(p.width);
        for (int64_t i = 0; i < p.segments * p.latents; ++i) {
            const int64_t number = i / p.latents * each + at + i % p.latents;
            const V* from = vectors + i * p.width;
            float* line = lines + (p.segment_length + number) * w.width;
            Vector total = {};
            Vector along = {};
            for (int64_t j = 0; j < w.width; j += kLanes) {
                const Vector one = load_at_most(from + j, p.width - j);
                const Vector scaled = one * load(w.norm_weight + j);
                along = fma(one, load(w.norm_bias + j), along);
                total += scaled;
                store(line + j, scaled);
            }
            offset[number] = sum(along);
            const float mean = sum(total) * share;
            for (int64_t j = 0; j < w.width; j += kLanes) {
                const Vector centred = load(line + j) - mean;
                store(line + j, j + kLanes <= p.width || lanes_between(0, p.width - j) ? centred : Vector{});
            }
        }
    }

    // When all are there.
    template <typename T>
    void finish(const LatentPool<T>& p, const PoolWeights& w) const {
        const int64_t rows = p.segment_length + all;
        std::memcpy(lines, w.token_weight, static_cast<size_t>(p.segment_length * w.width) * sizeof(float));
        if (rows < columns) {
            for (int64_t j = 0; j < p.width; ++j) clear(table + j * columns + rows, columns - rows);
        }
        transpose(rows, p.width, lines, w.width, table, columns);
        product<Onto::zero>(all, p.width, p.segment_length, Strided{lines + p.segment_length * w.width, w.width, 1},
                            table, columns, on_activity, w.length);
    }
};

// ---- A tile.

// Planes are [features][kPoolTile], lanes are rows; what is behind the last row is finite, but means nothing.
struct PoolTile {
    int64_t rows = 0;
    int64_t lanes = 0;   // rows in whole vectors
    float* v;            // [tile, width]: centred units with the bias, 0 behind d
    float* x;            // [tile, C], and room for a vector
    float* squares;      // [tile]: |v|^2
    float* products;     // [tile, columns] of v with the vectors' table
    float* x_plane;      // [C]
    float* wv_plane;     // [L]: W' v
    float* gx_plane;     // [C]: G x
    float* inverse_std;  // plane [S]
    float* shares;       // plane [L]: room for the backward pass; behind it `on`
    float* on;           // plane [all]: (<k, y> - <k, norm_bias>) / inverse_std for all vectors k

    template <typename T>
    PoolTile(const LatentPool<T>& p, const PoolVectors& vectors, Pieces& memory) {
        const int64_t context = p.segments * p.segment_length;
        v = memory.floats(kPoolTile * round_up(p.width));
        x = memory.floats(kPoolTile * context + kLanes);
        squares = memory.floats(kPoolTile);
        products = memory.floats(kPoolTile * vectors.columns);
        x_plane = memory.floats(kPoolTile * context);
        wv_plane = memory.floats(kPoolTile * p.segment_length);
        gx_plane = memory.floats(kPoolTile * context);
        inverse_std = memory.floats(kPoolTile * p.segments);
        static_assert(Workspace::bytes_of(kPoolTile, sizeof(float)) == kPoolTile * sizeof(float),
                      "no hole before `on`");
        shares = memory.floats(kPoolTile * p.segment_length);
        on = memory.floats(kPoolTile * vectors.all);
    }

    // Fills everything but `shares`.
    template <typename T>
    void fill(const LatentPool<T>& p, const PoolWeights& w, const PoolVectors& vectors, int64_t first, int64_t count) {
        const int64_t length = p.segment_length;
        const int64_t context = p.segments * length;
        rows = count;
        lanes = round_up(count);
        take_activity(p.x + first * context, rows * context);
        take_units(p, w, first);
        product<Onto::zero>(rows, p.width, length + vectors.all, Strided{v, w.width, 1}, vectors.table, vectors.columns,
                            products, vectors.columns);
        if (rows < lanes) {
            clear(squares + rows, lanes - rows);
            clear(x_plane, context * kPoolTile);
            clear(wv_plane, length * kPoolTile);
            clear(on, vectors.all * kPoolTile);
        }
        transpose(rows, context, x, context, x_plane, kPoolTile);
        transpose(rows, length, products, vectors.columns, wv_plane, kPoolTile);
        transpose(rows, vectors.all, products + length, vectors.columns, on, kPoolTile);
        for (int64_t s = 0; s < p.segments; ++s) {
            const float* activity = x_plane + s * length * kPoolTile;
            product<Onto::zero>(length, length, lanes, Strided{w.products, w.length, 1}, activity, kPoolTile,
                                gx_plane + s * length * kPoolTile, kPoolTile);
            product<Onto::c>(vectors.each, length, lanes,
                             Strided{vectors.on_activity + s * vectors.each * w.length, w.length, 1}, activity,
                             kPoolTile, on + s * vectors.each * kPoolTile, kPoolTile);
            take_variance(p, w, s);
        }
    }

private:
    template <typename T>
    void take_activity(const T* from, int64_t count) const {
        for (int64_t i = 0; i < count; i += kLanes) {
            store(x + i, load_at_most(from + i, count - i));
        }
    }

    // Rows of the next tile are asked for meanwhile: they often come from far away.
    template <typename T>
    void take_units(const LatentPool<T>& p, const PoolWeights& w, int64_t first) const {
        constexpr int64_t line = 64 / sizeof(T);
        const int64_t context = p.segments * p.segment_length;
        const int64_t whole = p.width / kLanes * kLanes;
        const IntVector in_tail = lanes_between(0, p.width - whole);
        const float share = 1.0f / static_cast<float>(p.width);
        for (int64_t t = 0; t < rows; ++t) {
            const T* unit = p.unit_table + p.unit_index[first + t] * p.width;
            float* row = v + t * w.width;
            const int64_t ahead = first + t + rows;
            if (ahead < p.rows) {
                const T* next_x = p.x + ahead * context;
                for (int64_t j = 0; j < context; j += line) __builtin_prefetch(next_x + j, 0, 2);
                const T* next = p.unit_table + p.unit_index[ahead] * p.width;
                for (int64_t j = 0; j < p.width; j += line) __builtin_prefetch(next + j, 0, 2);
            }
            Vector tail = {};
            if (whole < p.width) tail = load_some(unit + whole, p.width - whole);
            Vector total = tail;
            for (int64_t j = 0; j < whole; j += kLanes) total += load(unit + j);
            const Vector mean = broadcast(sum(total) * share);
            Vector square = {};
            for (int64_t j = 0; j < whole; j += kLanes) {
                const Vector centred = (load(unit + j) - mean) + load(w.token_bias + j);
                store(row + j, centred);
                square = fma(centred, centred, square);
            }
            if (whole < p.width) {
                const Vector centred = in_tail ? (tail - mean) + load(w.token_bias + whole) : Vector{};
                store(row + whole, centred);
                square = fma(centred, centred, square);
            }
            squares[t] = sum(square);
        }
    }

    template <typename T>
    void take_variance(const LatentPool<T>& p, const PoolWeights& w, int64_t segment) const {
        const float share = 1.0f / static_cast<float>(p.width);
        const float* activity = x_plane + segment * p.segment_length * kPoolTile;
        const float* gx = gx_plane + segment * p.segment_length * kPoolTile;
        for (int64_t lane = 0; lane < lanes; lane += kLanes) {
            const Vector square = load(squares + lane);
            Vector total = square;
            Vector size = {};
            for (int64_t l = 0; l < p.segment_length; ++l) {
                const int64_t at = l * kPoolTile + lane;
                const Vector one = load(activity + at);
                total = fma(one, fma(load(wv_plane + at), broadcast(2.0f), load(gx + at)), total);
                size = fma(one, one, size);
            }
            const Vector least = fma(size, broadcast(w.size), square) * kPoolCancelled;
            if (sum(total < least ? broadcast(1.0f) : Vector{}) > 0) {
                for (int64_t i = 0; i < kLanes && lane + i < rows; ++i) {
                    if (total[i] < least[i]) total[i] = token_square(p, w, segment, lane + i);
                }
            }
            store(inverse_std + segment * kPoolTile + lane,
                  1.0f / sqrt(fma(max(Vector{}, total), broadcast(share), broadcast(p.eps))));
        }
    }

    // |W x + v|^2 of a row.
    template <typename T>
    float token_square(const LatentPool<T>& p, const PoolWeights& w, int64_t segment, int64_t t) const {
        const float* activity = x + (t * p.segments + segment) * p.segment_length;
        Vector square = {};
        for (int64_t j = 0; j < w.width; j += kLanes) {
            Vector token = load(v + t * w.width + j);
            for (int64_t l = 0; l < p.segment_length; ++l) {
                token = fma(broadcast(activity[l]), load(w.token_weight + l * w.width + j), token);
            }
            square = fma(token, token, square);
        }
        return sum(square);
    }
};

}  // namespace
}  // namespace poco
