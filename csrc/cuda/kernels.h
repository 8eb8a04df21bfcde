// The CUDA kernels of a forecast: what a thread does in each of them. calls.h says what they take. Every sum is taken
// in one order, so a forecast is the same bit for bit each time. Blocks are of kThreads threads.
//
// Whoever includes this brings before it CUDA's own names, block_memory(), which the threads of a block share, and for
// bfloat16 what is here for float: wide, narrow and tile_product. kernels.cu does so for nvcc, and a test for a
// processor, which goes through the threads one after another.
#pragma once

#include "cuda/calls.h"

namespace poco {
namespace cuda {

__device__ inline float wide(float value) {
    return value;
}

__device__ inline void narrow(float value, float& to) {
    to = value;
}

// ---- Sums of a warp, every lane gets them, and of a block.

__device__ inline float warp_sum(float value) {
    for (int lane = 16; lane > 0; lane /= 2) value += __shfl_xor_sync(0xffffffffu, value, lane);
    return value;
}

__device__ inline float warp_most(float value) {
    for (int lane = 16; lane > 0; lane /= 2) value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, lane));
    return value;
}

// Of a block, whose threads meet here: every one gets it. `of_warps` is shared, a number of each warp.
__device__ inline float block_sum(float value, float* of_warps) {
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    value = warp_sum(value);
    if (lane == 0) of_warps[warp] = value;
    __syncthreads();
    float sum = 0;
    for (int w = 0; w < kWarps; ++w) sum += of_warps[w];
    return sum;
}

struct Normal {
    float mean, inverse_std;
};

// Of a row, by one warp.
__device__ inline Normal normal_of(const float* row, int width, float eps) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    float sum = 0;
    for (int j = lane; j < width; j += 32) sum += row[j];
    const float mean = warp_sum(sum) / static_cast<float>(width);
    float squares = 0;
    for (int j = lane; j < width; j += 32) squares += (row[j] - mean) * (row[j] - mean);
    return {mean, rsqrtf(warp_sum(squares) / static_cast<float>(width) + eps)};
}

// The exact GELU.
__device__ inline float gelu(float v) {
    return 0.5f * v * (1.0f + erff(v * 0.70710678118654752f));
}

// ---- Pass 1.

template <typename T>
__device__ void pool_parts(const PoolParts<T>& c) {
    const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
    const int part = static_cast<int>(blockIdx.x), segment = static_cast<int>(blockIdx.y);
    const int d = c.width, latents = c.latents, row = d + 1;
    float* const tokens = reinterpret_cast<float*>(block_memory());
    float* const weights = tokens + c.rows * row;
    float* const most = weights + c.rows * latents;
    float* const sum = most + latents;
    float* const factor = sum + latents;
    float* const pooled = factor + latents;
    for (int i = thread; i < latents * d; i += kThreads) pooled[i] = 0;
    for (int q = thread; q < latents; q += kThreads) {
        most[q] = -INFINITY;
        sum[q] = 0;
    }
    const int blocks = (c.units + c.rows - 1) / c.rows;
    const int end = static_cast<int>(static_cast<long long>(blocks) * (part + 1) / c.parts);
    for (int block = static_cast<int>(static_cast<long long>(blocks) * part / c.parts); block < end; ++block) {
        const int first = block * c.rows, count = c.units - first < c.rows ? c.units - first : c.rows;
        __syncthreads();
        for (int i = thread; i < count * d; i += kThreads) {
            const int r = i / d, j = i % d;
            const long long unit = first + r;
            const T* const x = c.x + unit * c.context + segment * c.length;
            float token = c.token_bias[j] + wide(c.table[unit * d + j]);
            for (int l = 0; l < c.length; ++l) token += wide(c.token_weight[l * d + j]) * wide(x[l]);
            tokens[r * row + j] = token;
        }
        __syncthreads();
        for (int r = warp; r < count; r += kWarps) {
            float* const token = tokens + r * row;
            const Normal normal = normal_of(token, d, c.eps);
            for (int j = lane; j < d; j += 32)
                token[j] = (token[j] - normal.mean) * normal.inverse_std * c.norm_weight[j] + c.norm_bias[j];
        }
        __syncthreads();
        const float* const queries = c.queries + static_cast<long long>(segment) * d * latents;
        for (int i = thread; i < count * latents; i += kThreads) {
            const int r = i / latents, q = i % latents;
            float score = 0;
            for (int j = 0; j < d; ++j) score += tokens[r * row + j] * queries[j * latents + q];
            weights[i] = c.seen[first + r] != 0 ? score : -INFINITY;
        }
        __syncthreads();
        for (int q = thread; q < latents; q += kThreads) {
            float now = most[q];
            for (int r = 0; r < count; ++r) now = fmaxf(now, weights[r * latents + q]);
            const float from = now == -INFINITY ? 0 : now;  // so far nobody was seen: every weight is 0
            factor[q] = expf(most[q] - from);
            float total = sum[q] * factor[q];
            for (int r = 0; r < count; ++r) {
                const float weight = expf(weights[r * latents + q] - from);
                weights[r * latents + q] = weight;
                total += weight;
            }
            most[q] = now;
            sum[q] = total;
        }
        __syncthreads();
        for (int i = thread; i < latents * d; i += kThreads) {
            const int q = i / d, j = i % d;
            float total = pooled[i] * factor[q];
            for (int r = 0; r < count; ++r) total += weights[r * latents + q] * tokens[r * row + j];
            pooled[i] = total;
        }
    }
    const long long place = static_cast<long long>(part) * c.segments + segment;
    for (int q = thread; q < latents; q += kThreads) {
        c.most[place * latents + q] = most[q];
        c.sum[place * latents + q] = sum[q];
    }
    for (int i = thread; i < latents * d; i += kThreads) c.pooled[place * latents * d + i] = pooled[i];
}

// A block merges one latent of one segment.
__device__ inline void pool_merge(const PoolMerge& c) {
    const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
    const int latent = static_cast<int>(blockIdx.x), segment = static_cast<int>(blockIdx.y);
    const int places = c.parts * c.segments;
    float* const counts = reinterpret_cast<float*>(block_memory());
    float* const of_warps = counts + places;
    float most = -INFINITY;
    for (int p = lane; p < places; p += 32) most = fmaxf(most, c.most[static_cast<long long>(p) * c.latents + latent]);
    most = warp_most(most);
    if (most == -INFINITY) most = 0;
    float total = 0;
    for (int p = thread; p < places; p += kThreads) {
        const long long at = static_cast<long long>(p) * c.latents + latent;
        counts[p] = expf(c.most[at] - most);
        total += counts[p] * c.sum[at];
    }
    total = block_sum(total, of_warps);
    const float scale = total > 0 ? 1.0f / total : 0.0f;
    for (int j = thread; j < c.width; j += kThreads) {
        float sum = 0;
        for (int part = 0; part < c.parts; ++part) {
            const int place = part * c.segments + segment;
            sum += counts[place] * c.part[(static_cast<long long>(place) * c.latents + latent) * c.width + j];
        }
        c.pooled[(segment * c.latents + latent) * c.width + j] = sum * scale;
    }
}

// ---- Between the passes.

template <typename T>
__device__ void token_product(const TokenProduct<T>& c) {
    const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
    const int first = static_cast<int>(blockIdx.y) * kTokensAtOnce, column = static_cast<int>(blockIdx.x) * 32 + lane;
    const int count = c.tokens - first < kTokensAtOnce ? c.tokens - first : kTokensAtOnce;
    float* const normals = reinterpret_cast<float*>(block_memory());
    float* const sums = normals + 2 * kTokensAtOnce;
    if (c.norm_weight != nullptr) {
        for (int t = warp; t < count; t += kWarps) {
            const Normal normal = normal_of(c.in + static_cast<long long>(first + t) * c.in_row, c.inner, c.eps);
            normals[2 * t] = normal.mean;
            normals[2 * t + 1] = normal.inverse_std;
        }
    }
    __syncthreads();
    float value[kTokensAtOnce] = {}, gate[kTokensAtOnce] = {};
    for (int i = warp; i < c.inner; i += kWarps) {
        const T* const weights = c.weight + static_cast<long long>(i) * c.weight_row + column;
        const float of_value = wide(weights[0]), of_gate = c.gate > 0 ? wide(weights[c.gate]) : 0;
        for (int t = 0; t < kTokensAtOnce; ++t) {
            if (t >= count) break;
            float in = c.in[static_cast<long long>(first + t) * c.in_row + i];
            if (c.norm_weight != nullptr)
                in = (in - normals[2 * t]) * normals[2 * t + 1] * c.norm_weight[i] + c.norm_bias[i];
            value[t] += in * of_value;
            gate[t] += in * of_gate;
        }
    }
    const auto over_warps = [&](const float* own, int t) {
        float sum = 0;
        for (int w = 0; w < kWarps; ++w) sum += own[(w * kTokensAtOnce + t) * 32 + lane];
        return sum;
    };
    for (int t = 0; t < kTokensAtOnce; ++t) sums[(warp * kTokensAtOnce + t) * 32 + lane] = value[t];
    __syncthreads();
    float made = over_warps(sums, warp);  // a warp goes on with one token
    if (c.bias != nullptr) made += column < c.columns ? c.bias[column] : 0;
    if (c.gate > 0) {
        __syncthreads();
        for (int t = 0; t < kTokensAtOnce; ++t) sums[(warp * kTokensAtOnce + t) * 32 + lane] = gate[t];
        __syncthreads();
        float of_gate = over_warps(sums, warp);
        if (c.bias != nullptr) of_gate += column < c.columns ? c.bias[c.gate + column] : 0;
        made *= gelu(of_gate);
    }
    if (warp >= count || column >= c.columns) return;
    const long long at = static_cast<long long>(first + warp) * c.out_row + column;
    c.out[at] = c.base != nullptr ? made + c.base[at] : made;
}

// A thread makes one pair, or one of the second half, which does not turn.
__device__ inline void turned_sum(const TurnedSum& c) {
    const int pairs = c.head_width / 4, each = c.head_width - pairs;
    const int i = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
    if (i >= c.latents * each) return;
    const int m = i / each, part = i % each;
    float first = 0, second = 0;
    for (int s = 0; s < c.segments; ++s) {
        const int token = s * c.latents + m;
        const float* const in = c.in + static_cast<long long>(token) * c.in_row;
        if (part < pairs) {
            const float cosine = c.cosine[token * pairs + part], sine = c.way * c.sine[token * pairs + part];
            first += in[2 * part] * cosine - in[2 * part + 1] * sine;
            second += in[2 * part + 1] * cosine + in[2 * part] * sine;
        } else {
            first += in[part + pairs];
        }
    }
    float* const out = c.out + m * c.head_width;
    if (part < pairs) {
        out[2 * part] = c.factor * first;
        out[2 * part + 1] = c.factor * second;
    } else {
        out[part + pairs] = c.factor * first;
    }
}

// Value j of a head vector, turned.
__device__ inline float turned(const float* head, int j, int pairs, const float* cosine, const float* sine, float way) {
    if (j >= 2 * pairs) return head[j];
    const float s = way * sine[j / 2];
    return head[j] * cosine[j / 2] + (j % 2 == 0 ? -head[j + 1] : head[j - 1]) * s;
}

__device__ inline void attend(const Attend& c) {
    const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
    const int m = static_cast<int>(blockIdx.x), head = static_cast<int>(blockIdx.y);
    const int dh = c.head_width, pairs = dh / 4, part = c.heads * dh, row = 3 * part;
    float* const weights = reinterpret_cast<float*>(block_memory());
    float* const query = weights + c.latents;
    float* const attended = query + dh;
    float* const of_warps = attended + dh;
    const float* const in = c.in + head * dh;
    for (int j = thread; j < dh; j += kThreads)
        query[j] = turned(in + static_cast<long long>(m) * row, j, pairs, c.cosine + m * pairs, c.sine + m * pairs, 1);
    __syncthreads();
    const float scale = rsqrtf(static_cast<float>(dh));
    for (int n = warp; n < c.latents; n += kWarps) {
        const float* const key = in + static_cast<long long>(n) * row + part;
        float score = 0;
        for (int j = lane; j < dh; j += 32)
            score += query[j] * turned(key, j, pairs, c.cosine + n * pairs, c.sine + n * pairs, 1);
        score = warp_sum(score);
        if (lane == 0) weights[n] = score * scale;
    }
    __syncthreads();
    float most = -INFINITY;
    for (int n = lane; n < c.latents; n += 32) most = fmaxf(most, weights[n]);
    most = warp_most(most);
    __syncthreads();
    float total = 0;
    for (int n = thread; n < c.latents; n += kThreads) {
        weights[n] = expf(weights[n] - most);
        total += weights[n];
    }
    total = block_sum(total, of_warps);
    for (int j = thread; j < dh; j += kThreads) {
        float sum = 0;
        for (int n = 0; n < c.latents; ++n) {
            const float* const value = in + static_cast<long long>(n) * row + 2 * part;
            sum += weights[n] * turned(value, j, pairs, c.cosine + n * pairs, c.sine + n * pairs, 1);
        }
        attended[j] = sum / total;
    }
    __syncthreads();
    for (int j = thread; j < dh; j += kThreads) {
        c.out[(static_cast<long long>(m) * c.heads + head) * dh + j] =
            turned(attended, j, pairs, c.cosine + m * pairs, c.sine + m * pairs, -1);
    }
}

// ---- Pass 2.

// A tile by a warp in float32: a lane makes 4 x 4 of it.
__device__ inline void tile_product(const float* a, int a_row, const float* b, int b_row, float* c, int c_row,
                                    int inner, bool more) {
    struct alignas(16) Four {
        float of[4];
    };
    const int lane = static_cast<int>(threadIdx.x) % 32, down = lane / 8, across = lane % 8 * 4;
    float sum[4][4];
    for (int i = 0; i < 4; ++i) {
        for (int j = 0; j < 4; ++j) sum[i][j] = more ? c[(down + 4 * i) * c_row + across + j] : 0;
    }
    for (int k = 0; k < inner; ++k) {
        const Four of_b = *reinterpret_cast<const Four*>(b + static_cast<long long>(k) * b_row + across);
        for (int i = 0; i < 4; ++i) {
            const float of_a = a[(down + 4 * i) * a_row + k];
            for (int j = 0; j < 4; ++j) sum[i][j] += of_a * of_b.of[j];
        }
    }
    for (int i = 0; i < 4; ++i) {
        for (int j = 0; j < 4; ++j) c[(down + 4 * i) * c_row + across + j] = sum[i][j];
    }
}

// c[rows, columns] = a[rows, inner] b[inner, columns], or more of it; by all warps of a block, a tile each. a and c are
// shared, b is not. rows are whole kTileRows, columns and inner whole kTiles.
template <typename T>
__device__ void block_product(const T* a, int a_row, const T* b, int b_row, float* c, int c_row, int rows, int columns,
                              int inner, bool more) {
    const int across = columns / kTile, tiles = rows / kTileRows * across;
    for (int tile = static_cast<int>(threadIdx.x) / 32; tile < tiles; tile += kWarps) {
        const int row = tile / across * kTileRows, column = tile % across * kTile;
        tile_product(a + row * a_row, a_row, b + column, b_row, c + row * c_row + column, c_row, inner, more);
    }
}

// Rows of the state as operands of a product, normalised if there is a weight. A warp takes a row.
template <typename T>
__device__ void operands(const float* state, int state_row, T* to, int rows, int width, const float* norm_weight,
                         const float* norm_bias, float eps) {
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    for (int r = warp; r < rows; r += kWarps) {
        const float* const from = state + r * state_row;
        const Normal normal = norm_weight == nullptr ? Normal{0, 1} : normal_of(from, width, eps);
        for (int j = lane; j < state_row - kRoom; j += 32) {
            float value = 0;  // behind the width
            if (j < width) {
                value = (from[j] - normal.mean) * normal.inverse_std;
                if (norm_weight != nullptr) value = value * norm_weight[j] + norm_bias[j];
            }
            narrow(value, to[r * state_row + j]);
        }
    }
}

// ---- A wide layer of two halves and what follows it, panel by panel.

template <typename T>
struct Half {
    const T* operand;  // [rows, inner], shared
    int row, inner;    // of it
    const T* weight;   // [inner, width]
};

template <typename T>
struct Panels {
    int rows, row;        // of the panels
    float *left, *right;  // [rows, kPanel]
    T* combined;          // [rows, kPanel]
};

// onto [rows, columns] += combined out_weight, with combine(left, right, column) of both halves, `width` columns each.
// By all threads of a block.
template <typename T, typename Combine>
__device__ void wide_layer(const Panels<T>& p, int width, const Half<T>& left, const Half<T>& right,
                           const Combine& combine, const T* out_weight, float* onto, int onto_row, int columns) {
    for (int first = 0; first < width; first += kPanel) {
        block_product(left.operand, left.row, left.weight + first, width, p.left, p.row, p.rows, kPanel, left.inner,
                      false);
        block_product(right.operand, right.row, right.weight + first, width, p.right, p.row, p.rows, kPanel,
                      right.inner, false);
        __syncthreads();
        for (int i = static_cast<int>(threadIdx.x); i < p.rows * kPanel; i += kThreads) {
            const int j = i % kPanel, place = i / kPanel * p.row + j;
            narrow(combine(p.left[place], p.right[place], first + j), p.combined[place]);
        }
        __syncthreads();
        block_product(p.combined, p.row, out_weight + static_cast<long long>(first) * columns, columns, onto, onto_row,
                      p.rows, columns, kPanel, true);
    }
}

template <typename T>
__device__ void film_forecast(const Film<T>& c) {
    const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32;
    const int rows = c.rows, d = c.width, latents = c.latents;
    const FilmPlaces at(rows, c.context, c.horizon, d, latents, static_cast<int>(sizeof(T)));
    unsigned char* const memory = block_memory();
    float* const state = reinterpret_cast<float*>(memory);                   // [rows, d]
    T* const normed = reinterpret_cast<T*>(memory + at.normed);              // [rows, d]
    T* const activity = reinterpret_cast<T*>(memory + at.activity);          // [rows, C]
    T* const panel = reinterpret_cast<T*>(memory + at.panel);                // [rows, kPanel]
    float* const left = reinterpret_cast<float*>(memory + at.left);          // [rows, kPanel]
    float* const right = reinterpret_cast<float*>(memory + at.right);        // [rows, kPanel]
    float* const forecast = reinterpret_cast<float*>(memory + at.forecast);  // [rows, H]
    float* const weights = reinterpret_cast<float*>(memory + at.weights);    // [rows, Q]
    const long long first = static_cast<long long>(blockIdx.x) * rows;
    const int count = c.units - first < rows ? static_cast<int>(c.units - first) : rows;  // the others are of zeros
    const int d_whole = whole(d, kTile), c_whole = whole(c.context, kTile), h_whole = whole(c.horizon, kTile);
    const int f_whole = whole(c.ffn_width, kPanel), k_whole = whole(c.film_width, kPanel);

    for (int i = thread; i < rows * d; i += kThreads) {
        const int r = i / d, j = i % d;
        state[r * at.state_row + j] = r < count ? wide(c.table[(first + r) * d + j]) : 0;
    }
    for (int i = thread; i < rows * c_whole; i += kThreads) {
        const int r = i / c_whole, t = i % c_whole;
        T value;
        narrow(0, value);
        if (r < count && t < c.context) value = c.x[(first + r) * c.context + t];
        activity[r * at.activity_row + t] = value;
    }
    __syncthreads();

    // Attention to the latents: of a row by a warp.
    for (int r = warp; r < rows; r += kWarps) {
        float* const own = state + r * at.state_row;
        float* const scores = weights + r * at.weights_row;
        const Normal normal = normal_of(own, d, c.eps);
        float most = -INFINITY;
        for (int q = 0; q < latents; ++q) {
            float score = 0;
            for (int j = lane; j < d; j += 32) {
                const float query = (own[j] - normal.mean) * normal.inverse_std * c.query_norm_weight[j];
                score += (query + c.query_norm_bias[j]) * c.keys[static_cast<long long>(q) * d + j];
            }
            score = warp_sum(score);
            if (lane == 0) scores[q] = score;
            most = fmaxf(most, score);
        }
        __syncwarp();
        float total = 0;
        for (int q = lane; q < latents; q += 32) {
            scores[q] = expf(scores[q] - most);
            total += scores[q];
        }
        total = warp_sum(total);
        __syncwarp();
        for (int j = lane; j < d; j += 32) {
            float sum = 0;
            for (int q = 0; q < latents; ++q) sum += scores[q] * c.values[static_cast<long long>(q) * d + j];
            own[j] += sum / total + c.attention_bias[j];
        }
    }
    __syncthreads();

    operands(state, at.state_row, normed, rows, d, c.ffn_norm_weight, c.ffn_norm_bias, c.eps);
    __syncthreads();
    for (int i = thread; i < rows * d_whole; i += kThreads) {
        const int r = i / d_whole, j = i % d_whole;
        float& value = state[r * at.state_row + j];
        value = j < d ? value + c.ffn_out_bias[j] : 0;
    }
    const Panels<T> panels{rows, at.panel_row, left, right, panel};
    wide_layer(
        panels, f_whole, Half<T>{normed, at.state_row, d_whole, c.value_weight},
        Half<T>{normed, at.state_row, d_whole, c.gate_weight},
        [&](float value, float gate, int f) { return (value + c.value_bias[f]) * gelu(gate + c.gate_bias[f]); },
        c.ffn_out_weight, state, at.state_row, d_whole);
    __syncthreads();

    operands<T>(state, at.state_row, normed, rows, d, nullptr, nullptr, 0);
    __syncthreads();
    block_product(normed, at.state_row, c.shift_weight, h_whole, forecast, at.forecast_row, rows, h_whole, d_whole,
                  false);
    wide_layer(
        panels, k_whole, Half<T>{activity, at.activity_row, c_whole, c.in_weight},
        Half<T>{normed, at.state_row, d_whole, c.scale_weight},
        [&](float own, float scale, int k) { return fmaxf(own + c.in_bias[k], 0.0f) * (scale + c.scale_bias[k]); },
        c.out_weight, forecast, at.forecast_row, h_whole);
    __syncthreads();
    for (int i = thread; i < count * c.horizon; i += kThreads) {
        const int r = i / c.horizon, h = i % c.horizon;
        narrow(forecast[r * at.forecast_row + h] + c.shift_bias[h], c.forecast[(first + r) * c.horizon + h]);
    }
}

}  // namespace cuda
}  // namespace poco
