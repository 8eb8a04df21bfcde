// What the backward of the latent transformer keeps of a tile for the gradients of the parameters, and how these are
// made of all tiles: for a matrix planes of the one side of its products and lines of the other, for a vector the sum
// over the tile.
#pragma once

#include "cpu/film_sums.h"
#include "cpu/latent_tiles.h"

namespace poco {
namespace {

// onto[i] = the sum of a plane, or of a plane times another, over its lanes.
inline void sum_features(int64_t features, int64_t lanes, const float* plane, const float* other, float* onto) {
    for (int64_t i = 0; i < features; ++i) {
        onto[i] = sum_lanes(lanes, plane + i * kTile, other == nullptr ? nullptr : other + i * kTile);
    }
}

struct NormSums {
    Lines lines;  // of what the layer gave
    float *weight, *bias;

    NormSums(int64_t d, Pieces& pieces) : lines(d, pieces), weight(pieces.floats(d)), bias(pieces.floats(d)) {}
};

// Of the gradient of what is added to the state.
struct BranchSums {
    Lines lines;
    float* bias;

    BranchSums(int64_t d, Pieces& pieces) : lines(d, pieces), bias(pieces.floats(d)) {}
};

struct FeedForwardSums {
    BranchSums branch;
    NormSums norm;
    OperandPlane values, gates;  // gradients of the hidden columns
    float* in_bias;

    template <typename T>
    FeedForwardSums(const LatentTransformer<T>& call, Pieces& pieces)
        : branch(call.width, pieces),
          norm(call.width, pieces),
          values(plain_plane(call.ffn_width, pieces)),
          gates(plain_plane(call.ffn_width, pieces)),
          in_bias(pieces.floats(2 * call.ffn_width)) {}
};

struct LayerSums {
    BranchSums branch;
    NormSums norm;
    OperandPlane parts[3];  // gradients of queries, keys and values of all heads
    FeedForwardSums ffn;

    template <typename T>
    LayerSums(const LatentTransformer<T>& call, Pieces& pieces)
        : branch(call.width, pieces),
          norm(call.width, pieces),
          parts{plain_plane(call.heads * call.head_width, pieces), plain_plane(call.heads * call.head_width, pieces),
                plain_plane(call.heads * call.head_width, pieces)},
          ffn(call, pieces) {}
};

// What all layers have lies before them.
template <typename T>
class TileSums {
    const LatentTransformer<T>& call_;
    Pieces pieces_;

public:
    BranchSums read;
    FeedForwardSums read_ffn;
    NormSums write_norm;
    Lines pooled, grad_keys, grad_values;  // those of what was pooled for segment after segment
    OperandPlane read_value;               // gradients of what was read of each segment, [S][dh]
    OperandPlane key, value;               // gradients of what the latents write
    float* initial;                        // [latents, d], where all windows share them

    TileSums(const LatentTransformer<T>& call, char* block)
        : call_(call),
          pieces_(block),
          read(call.width, pieces_),
          read_ffn(call, pieces_),
          write_norm(call.width, pieces_),
          pooled(call.width, pieces_, call.segments),
          grad_keys(call.width, pieces_),
          grad_values(call.width, pieces_),
          read_value(plain_plane(call.segments * call.head_width, pieces_)),
          key(plain_plane(call.head_width, pieces_)),
          value(plain_plane(call.head_width, pieces_)),
          initial(pieces_.floats(call.latents * call.width)),
          layers_(block == nullptr ? nullptr : block + pieces_.used()) {}

    LayerSums layer(int64_t index) const {
        Pieces pieces(layers_ == nullptr ? nullptr : layers_ + static_cast<size_t>(index) * layer_bytes());
        return LayerSums(call_, pieces);
    }
    size_t bytes() const { return pieces_.used() + static_cast<size_t>(call_.layers) * layer_bytes(); }

private:
    size_t layer_bytes() const {
        Pieces size;
        static_cast<void>(LayerSums(call_, size));
        return size.used();
    }

    char* layers_;
};

// --- all tiles -----------------------------------------------------------------------------------------------

constexpr int64_t kSumRows = 32;  // of a matrix that are made at a time

// The gradient of a matrix: the sum over tiles of planes times lines; `to` is [features, d], or [d, features] if it is
// transposed. Planes and lines are those of the first tile.
struct MatrixSum {
    OperandPlane plane;
    size_t plane_apart;  // bytes from tile to tile
    Lines lines;
    int64_t features;
    int64_t times;  // so many planes and lines one after another belong to a tile
    bool transposed;
    float* to;
};

// The gradient of a vector: the sum over tiles of `from`.
struct VectorSum {
    const float* from;
    int64_t count;
    float* to;
};

// Lists all gradients of parameters; counts only, if the lists are nullptr.
template <typename T>
class LatentGradients {
public:
    int64_t matrices = 0, vectors = 0;

    LatentGradients(const LatentTransformer<T>& call, const KeptTile<T>& kept, const TileSums<T>& sums,
                    float* const* to, MatrixSum* matrix, VectorSum* vector)
        : call_(call), kept_bytes_(kept.bytes()), sum_bytes_(sums.bytes()), to_(to), matrix_(matrix), vector_(vector) {
        const int64_t dh = call.head_width, inner = call.heads * dh;
        matrix_of(sums.read_value, sum_bytes_, sums.pooled, dh, call.segments);
        kept_matrix(kept.summed, sums.read.lines, dh);
        vector_of(sums.read.bias, call.width);
        feed_forward(kept.read_ffn, sums.read_ffn);
        for (int64_t i = 0; i < call.layers; ++i) {
            const KeptLayer kept_layer = kept.layer(i);
            const LayerSums layer = sums.layer(i);
            norm(layer.norm);
            float* const projection = next();
            for (int64_t part = 0; part < 3; ++part) {
                matrix_into(projection == nullptr ? nullptr : projection + part * inner * call.width, layer.parts[part],
                            sum_bytes_, layer.norm.lines, inner, 1, false);
            }
            kept_matrix(kept_layer.attended, layer.branch.lines, inner);
            vector_of(layer.branch.bias, call.width);
            feed_forward(kept_layer.ffn, layer.ffn);
        }
        norm(sums.write_norm);
        matrix_of(sums.key, sum_bytes_, sums.write_norm.lines, dh, 1);
        matrix_of(sums.value, sum_bytes_, sums.write_norm.lines, dh, 1);
        matrix_of(kept.key, kept_bytes_, sums.grad_keys, dh, 1);
        kept_matrix(kept.value, sums.grad_values, dh);
    }

private:
    float* next() { return to_ == nullptr ? nullptr : *to_++; }

    void matrix_into(float* to, const OperandPlane& plane, size_t apart, const Lines& lines, int64_t features,
                     int64_t times, bool transposed) {
        if (matrix_ != nullptr) matrix_[matrices] = {plane, apart, lines, features, times, transposed, to};
        ++matrices;
    }
    void matrix_of(const OperandPlane& plane, size_t apart, const Lines& lines, int64_t features, int64_t times) {
        matrix_into(next(), plane, apart, lines, features, times, false);
    }
    void kept_matrix(const OperandPlane& plane, const Lines& lines, int64_t features) {
        matrix_into(next(), plane, kept_bytes_, lines, features, 1, true);
    }
    void vector_of(const float* from, int64_t count) {
        float* const to = next();
        if (vector_ != nullptr) vector_[vectors] = {from, count, to};
        ++vectors;
    }
    void norm(const NormSums& sums) {
        vector_of(sums.weight, call_.width);
        vector_of(sums.bias, call_.width);
    }
    void feed_forward(const KeptFeedForward& kept, const FeedForwardSums& sums) {
        const int64_t hidden = call_.ffn_width;
        norm(sums.norm);
        float* const in = next();
        matrix_into(in, sums.values, sum_bytes_, sums.norm.lines, hidden, 1, false);
        matrix_into(in == nullptr ? nullptr : in + hidden * call_.width, sums.gates, sum_bytes_, sums.norm.lines,
                    hidden, 1, false);
        vector_of(sums.in_bias, 2 * hidden);
        kept_matrix(kept.gated, sums.branch.lines, hidden);
        vector_of(sums.branch.bias, call_.width);
    }

    const LatentTransformer<T>& call_;
    size_t kept_bytes_, sum_bytes_;
    float* const* to_;
    MatrixSum* matrix_;
    VectorSum* vector_;
};

// Rows first, ... of the gradient of a matrix; `room` is for kSumRows of them.
template <typename T>
inline void sum_matrix(const LatentTraining<T>& training, const MatrixSum& m, size_t sum_bytes, int64_t tiles,
                       int64_t first, float* room) {
    const int64_t d = training.forward.width, row = round_up(d), count = smaller(kSumRows, m.features - first);
    const bool in_place = !m.transposed && row == d;
    float* const onto = in_place ? m.to + first * d : room;
    if (tiles == 0) std::memset(onto, 0, static_cast<size_t>(count * row) * sizeof(float));
    for (int64_t tile = 0; tile < tiles; ++tile) {
        const int64_t tokens = LatentTile<T>(training, tile, tiles).count;
        const OperandPlane plane = moved(m.plane, static_cast<size_t>(tile) * m.plane_apart);
        const Lines lines = moved(m.lines, static_cast<size_t>(tile) * sum_bytes);
        for (int64_t i = 0; i < m.times; ++i) {
            const auto a = plane.from(i * m.features + first).over_rows();
            const Word* const b = lines.of_plane(i).words;
            if (tile == 0 && i == 0) {
                multiply<Onto::zero>(count, tokens, row, a, b, lines.apart, onto, row);
            } else {
                multiply<Onto::c>(count, tokens, row, a, b, lines.apart, onto, row);
            }
        }
    }
    if (m.transposed) {
        transpose(count, d, room, row, m.to + first, m.features);
    } else if (!in_place) {
        copy_lines(count, d, room, row, m.to + first * d);
    }
}

inline void sum_vector(const VectorSum& v, size_t sum_bytes, int64_t tiles) {
    std::memset(v.to, 0, static_cast<size_t>(v.count) * sizeof(float));
    for (int64_t tile = 0; tile < tiles; ++tile) {
        const float* const from = reinterpret_cast<const float*>(reinterpret_cast<const char*>(v.from) +
                                                                 static_cast<size_t>(tile) * sum_bytes);
        for (int64_t i = 0; i < v.count; ++i) v.to[i] += from[i];
    }
}

}  // namespace
}  // namespace poco
