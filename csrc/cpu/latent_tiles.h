// The latent transformer in training, as its forward and its backward see it: a tile is the latents of some windows, a
// lane to a latent of a window ("token"). Parameters are taken as products want them, rotations lie in planes, and
// what the forward keeps of a tile has a place.
#pragma once

#include "cpu/film_forecast.h"
#include "cpu/kernels.h"
#include "cpu/latent_turns.h"

namespace poco {
namespace {

// --- parameters --------------------------------------------------------------------------------------------

struct NormWeights {
    const float *weight, *bias;

    template <typename T>
    NormWeights(int64_t d, const T* w, const T* b, Pieces& pieces)
        : weight(in_float(w, d, pieces)), bias(in_float(b, d, pieces)) {}
};

// A matrix and, where it is wanted, its transpose.
struct Matrix {
    Weights plain, turned;

    template <typename T>
    Matrix(int64_t rows, int64_t columns, const T* from, bool both, Pieces& pieces)
        : Matrix(rows, columns, as_weights(1, rows, columns, from, pieces), both, pieces) {}

private:
    Matrix(int64_t rows, int64_t columns, const Stack& stack, bool both, Pieces& pieces)
        : plain(stack.first), turned(both ? transposed(1, rows, columns, stack, pieces).first : Weights{}) {}
};

struct FeedForwardWeights {
    NormWeights norm;
    Matrix in, out;  // [2F, d], [d, F]
    const float *in_bias, *out_bias;

    template <typename T>
    FeedForwardWeights(int64_t d, int64_t hidden, const FeedForward<T>& p, bool back, Pieces& pieces)
        : norm(d, p.norm_weight, p.norm_bias, pieces),
          in(2 * hidden, d, p.in_weight, back, pieces),
          out(d, hidden, p.out_weight, back, pieces),
          in_bias(in_float(p.in_bias, 2 * hidden, pieces)),
          out_bias(in_float(p.out_bias, d, pieces)) {}
};

struct LayerWeights {
    NormWeights norm;
    Matrix projection, output;  // [3 heads dh, d], [d, heads dh]
    const float* output_bias;
    FeedForwardWeights ffn;

    template <typename T>
    LayerWeights(const LatentTransformer<T>& call, const LatentLayer<T>& p, bool back, Pieces& pieces)
        : norm(call.width, p.norm_weight, p.norm_bias, pieces),
          projection(3 * call.heads * call.head_width, call.width, p.query_key_value_weight, back, pieces),
          output(call.width, call.heads * call.head_width, p.output_weight, back, pieces),
          output_bias(in_float(p.output_bias, call.width, pieces)),
          ffn(call.width, call.ffn_width, p.ffn, back, pieces) {}
};

struct LatentWeights {
    Matrix read_value, read_output;  // [dh, d], [d, dh]
    const float* read_output_bias;
    FeedForwardWeights read_ffn;
    NormWeights write_norm;
    Matrix write_key, write_value, write_query, write_output;  // [dh, d], and the last [d, dh]
    LayerWeights* layers;

    // `back`: for the backward.
    template <typename T>
    LatentWeights(const LatentTransformer<T>& call, bool back, Pieces& pieces)
        : read_value(call.head_width, call.width, call.read_value_weight, back, pieces),
          read_output(call.width, call.head_width, call.read_output_weight, back, pieces),
          read_output_bias(in_float(call.read_output_bias, call.width, pieces)),
          read_ffn(call.width, call.ffn_width, call.read_ffn, back, pieces),
          write_norm(call.width, call.write_norm_weight, call.write_norm_bias, pieces),
          write_key(call.head_width, call.width, call.write_key_weight, back, pieces),
          write_value(call.head_width, call.width, call.write_value_weight, back, pieces),
          write_query(call.head_width, call.width, call.write_query_weight, true, pieces),
          write_output(call.width, call.head_width, call.write_output_weight, back, pieces),
          layers(pieces.array<LayerWeights>(call.layers)) {
        for (int64_t i = 0; i < call.layers; ++i) {
            const LayerWeights one(call, call.layer[i], back, pieces);
            if (layers != nullptr) std::memcpy(static_cast<void*>(layers + i), &one, sizeof one);
        }
    }
};

// --- rotations, the same in every tile -----------------------------------------------------------------------

struct PlaneTurn {
    const float *cosine, *sine;  // [dh / 4][kTile]
};

// Turns the features of a plane by (way 1) or against (way -1) the turn, and scales it.
inline void turn_plane(int64_t head_width, int64_t lanes, const PlaneTurn& by, float way, float scale, float* plane) {
    const int64_t half = head_width / 2;
    for (int64_t i = 0; i < half; i += 2) {
        float* const even = plane + i * kTile;
        float* const odd = even + kTile;
        for (int64_t lane = 0; lane < lanes; lane += kLanes) {
            const Vector c = load(by.cosine + i / 2 * kTile + lane) * scale;
            const Vector s = load(by.sine + i / 2 * kTile + lane) * (way * scale);
            const Vector a = load(even + lane), b = load(odd + lane);
            store(even + lane, fma(a, c, -(b * s)));
            store(odd + lane, fma(b, c, a * s));
        }
    }
    if (scale == 1) return;
    for (int64_t i = half; i < head_width; ++i) {
        for (int64_t at = i * kTile; at < i * kTile + lanes; at += kLanes) store(plane + at, load(plane + at) * scale);
    }
}

class PlaneTurns {
public:
    template <typename T>
    PlaneTurns(const LatentTransformer<T>& call, Pieces& pieces)
        : pairs_(call.head_width / 4), memory_(pieces.plane((call.segments + 2) * 2 * pairs_)) {
        const int64_t row = turns_row(call.head_width);
        float* const once = pieces.floats(2 * call.latents * row);
        if (memory_ == nullptr) return;
        const auto fill = [&](int64_t number, double minus) {
            const Turns turns = make_turns(call.head_width, call.latents, call.frequencies, once, [&](int64_t m) {
                return latent_time(m, call.latents, call.context) - minus;
            });
            float* const to = memory_ + number * 2 * pairs_ * kTile;
            for (int64_t i = 0; i < pairs_; ++i) {
                for (int64_t lane = 0; lane < kTile; ++lane) {
                    const int64_t from = lane % call.latents * row + 2 * i + 1;
                    to[i * kTile + lane] = turns.cosine[from];
                    to[(pairs_ + i) * kTile + lane] = turns.sine[from];
                }
            }
        };
        fill(0, 0);
        fill(1, static_cast<double>(call.context));
        for (int64_t s = 0; s < call.segments; ++s) {
            fill(2 + s, static_cast<double>(s * (call.context / call.segments)));
        }
    }

    PlaneTurn latent() const { return at(0); }                          // by a latent's own time
    PlaneTurn ahead() const { return at(1); }                           // by the time from the units' question to it
    PlaneTurn apart(int64_t segment) const { return at(2 + segment); }  // by the time from a segment to it

private:
    PlaneTurn at(int64_t number) const {
        const float* const from = memory_ + number * 2 * pairs_ * kTile;
        return {from, from + pairs_ * kTile};
    }

    int64_t pairs_;
    float* memory_;
};

// --- one tile ------------------------------------------------------------------------------------------------

template <typename T>
struct LatentTile {
    const LatentTraining<T>& call;
    int64_t window, windows;  // the first and how many
    int64_t count, lanes;     // tokens

    LatentTile(const LatentTraining<T>& c, int64_t tile, int64_t tiles)
        : call(c),
          window(tile * c.forward.windows / tiles),
          windows((tile + 1) * c.forward.windows / tiles - window),
          count(windows * c.forward.latents),
          lanes(round_up(count)) {}

    int64_t first_token() const { return window * call.forward.latents; }

    // The row of a token in arrays [W, latents, ...], and in [W, S, latents, ...].
    int64_t row(int64_t token) const { return first_token() + token; }
    int64_t row(int64_t token, int64_t segment) const {
        const int64_t latents = call.forward.latents;
        return ((window + token / latents) * call.forward.segments + segment) * latents + token % latents;
    }

    // Calls f(first lane) for each window.
    template <typename F>
    void for_windows(const F& f) const {
        for (int64_t lane = 0; lane < count; lane += call.forward.latents) f(lane);
    }
};

inline int64_t windows_of_tile(int64_t latents) {
    return latents < 1 ? kTile : kTile / latents;
}

inline int64_t latent_tile_count(int64_t windows, int64_t latents) {
    const int64_t most = windows_of_tile(latents);
    return (windows + most - 1) / most;
}

// c[i][first lane + j] = sum_k a(i, k) b[k][j] for j < columns. Columns behind them are of later windows, and those are
// written later; `room` [rows][round_up(columns)] is for the last one in a row.
inline void multiply_window(int64_t rows, int64_t inner, int64_t columns, Strided a, const float* b, int64_t b_row,
                            float* c, int64_t lane, float* room) {
    const int64_t row = round_up(columns);
    if (lane + row <= kTile) {
        multiply<Onto::zero>(rows, inner, columns, a, b, b_row, c + lane, kTile);
        return;
    }
    multiply<Onto::zero>(rows, inner, columns, a, b, b_row, room, row);
    for (int64_t i = 0; i < rows; ++i) {
        std::memcpy(c + i * kTile + lane, room + i * row, static_cast<size_t>(columns) * sizeof(float));
    }
}

// 0 in the lanes behind the last token: multiply_window may have left anything there.
template <typename T>
inline void clear_tail(const LatentTile<T>& tile, int64_t features, float* plane) {
    for (int64_t i = 0; i < features; ++i) {
        for (int64_t lane = tile.count; lane < tile.lanes; ++lane) plane[i * kTile + lane] = 0;
    }
}

// --- dropout -------------------------------------------------------------------------------------------------

// Where each layer that drops begins in the columns of the random words.
struct DropoutColumns {
    int64_t hidden, width;  // whole blocks of 4

    template <typename T>
    explicit DropoutColumns(const LatentTransformer<T>& call)
        : hidden(round_up(call.ffn_width, 4)), width(round_up(call.width, 4)) {}

    int64_t read_ffn() const { return 0; }
    int64_t attention_branch(int64_t layer) const { return hidden + layer * (hidden + 2 * width); }
    int64_t ffn(int64_t layer) const { return attention_branch(layer) + width; }
    int64_t ffn_branch(int64_t layer) const { return ffn(layer) + hidden; }
};

// Calls f(offset into a plane, mask) for a branch, whose first column of random words is `column`; `mask` is room.
template <typename T, typename F>
inline void for_masked(const LatentTile<T>& tile, int64_t column, float* mask, const F& f) {
    const int64_t d = tile.call.forward.width;
    if (!(tile.call.dropout > 0)) {
        for_vectors(d, tile.lanes, [&](int64_t at, int64_t) { f(at, broadcast(1.0f)); });
        return;
    }
    const Dropout dropout = dropout_of(tile.call.seed, tile.call.dropout);
    for (int64_t j = 0; j < d; j += kPanel) {
        const int64_t count = smaller(kPanel, d - j);
        dropout.fill(tile.first_token(), tile.lanes, column + j, count, mask);
        for_vectors(count, tile.lanes, [&](int64_t at, int64_t) { f(j * kTile + at, load(mask + at)); });
    }
}

// --- what is kept of a tile ----------------------------------------------------------------------------------

struct KeptNorm {
    float *standard, *inverse_std;

    KeptNorm(int64_t d, Pieces& pieces) : standard(pieces.plane(d)), inverse_std(pieces.plane(1)) {}
};

struct KeptFeedForward {
    KeptNorm norm;
    OperandPlane gated, gelu_of_gate, slope_times_value;  // all with dropout

    template <typename T>
    KeptFeedForward(const LatentTransformer<T>& call, Pieces& pieces)
        : norm(call.width, pieces),
          gated(plain_plane(call.ffn_width, pieces)),
          gelu_of_gate(plain_plane(call.ffn_width, pieces)),
          slope_times_value(plain_plane(call.ffn_width, pieces)) {}
};

struct KeptLayer {
    KeptNorm norm;
    float* parts[3];  // queries (scaled), keys and values of all heads, turned
    float* weights;   // [heads * latents]: of every head, keys down
    OperandPlane attended;
    KeptFeedForward ffn;

    template <typename T>
    KeptLayer(const LatentTransformer<T>& call, Pieces& pieces)
        : norm(call.width, pieces),
          parts{pieces.plane(call.heads * call.head_width), pieces.plane(call.heads * call.head_width),
                pieces.plane(call.heads * call.head_width)},
          weights(pieces.plane(call.heads * call.latents)),
          attended(plain_plane(call.heads * call.head_width, pieces)),
          ffn(call, pieces) {}
};

// What all layers have lies before them.
template <typename T>
class KeptTile {
    const LatentTransformer<T>& call_;
    Pieces pieces_;

public:
    OperandPlane summed;  // what the latents read, before the output
    KeptFeedForward read_ffn;
    KeptNorm write_norm;
    OperandPlane key, value;  // before they are absorbed

    KeptTile(const LatentTransformer<T>& call, char* block)
        : call_(call),
          pieces_(block),
          summed(plain_plane(call.head_width, pieces_)),
          read_ffn(call, pieces_),
          write_norm(call.width, pieces_),
          key(plain_plane(call.head_width, pieces_)),
          value(plain_plane(call.head_width, pieces_)),
          layers_(block == nullptr ? nullptr : block + pieces_.used()) {}

    KeptLayer layer(int64_t index) const {
        Pieces pieces(layers_ == nullptr ? nullptr : layers_ + static_cast<size_t>(index) * layer_bytes());
        return KeptLayer(call_, pieces);
    }
    size_t bytes() const { return pieces_.used() + static_cast<size_t>(call_.layers) * layer_bytes(); }

private:
    size_t layer_bytes() const {
        Pieces size;
        static_cast<void>(KeptLayer(call_, size));
        return size.used();
    }

    char* layers_;
};

template <typename T>
inline LatentTiles latent_tiles(const LatentTransformer<T>& call) {
    return {windows_of_tile(call.latents), static_cast<int64_t>(KeptTile<T>(call, nullptr).bytes())};
}

}  // namespace
}  // namespace poco
