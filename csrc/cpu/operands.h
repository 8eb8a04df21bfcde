// How the products of pass 2 take their operands: in float32 as they are, or in bfloat16 where the instruction set that
// the including file is compiled for multiplies that. The pass itself reads the same for both.
//
// A product over features takes Weights times a plane; a sum over rows takes a plane times the lines of another (its
// rows, one after another). In float32 an OperandPlane is nothing but the plane. In bfloat16 it is what gemm_bf16.h
// takes: pairs of features for the former, plain rows of bfloat16 for the latter; lines are pairs of rows. What a lane
// behind the last row holds is finite, and 0 in the planes of gradients, so an odd row is in a pair with nothing.
#pragma once

#include "cpu/kernels.h"
#include "cpu/pieces.h"
#if defined(__AVX512BF16__)
#include "cpu/gemm_bf16.h"
#endif

namespace poco {
namespace {

// A vector in float32.
inline const float* in_float(const float* from, int64_t, Pieces&) {
    return from;
}

inline const float* in_float(const Bfloat16* from, int64_t count, Pieces& pieces) {
    float* const to = pieces.floats(count);
    for (int64_t i = 0; i < count && to != nullptr; ++i) to[i] = to_float(from[i]);
    return to;
}

#if defined(__AVX512BF16__)
using Weights = BfloatRows;
using Word = uint32_t;  // of a plane that is multiplied, and of lines
#else
using Weights = Strided;
using Word = float;
#endif

// Weights of equal size, `apart` elements from one to the next.
struct Stack {
    Weights first;
    int64_t apart;

    Weights from(int64_t i, int64_t k) const { return first.from(i, k); }
    Weights operator[](int64_t index) const {
        Weights one = first;
        one.at += index * apart;
        return one;
    }
};

// The lines of a plane of so many features, or of `count` planes. They are an odd number of cache lines apart: a few
// columns of all of them then spread over the whole first-level cache.
struct Lines {
    int64_t columns;  // rounded up
    int64_t apart;
    Word* words;

    Lines(int64_t features, Pieces& pieces, int64_t count = 1)
        : columns(round_up(features)),
          apart((round_up(features, kWords) / kWords | 1) * kWords),
          words(pieces.array<Word>(count * kTile * apart)) {}

    // Of one plane: what pads them enters sums that nobody reads, but odd numbers there would be slow.
    void clear() const { std::memset(words, 0, static_cast<size_t>(kTile * apart) * sizeof(Word)); }

    Lines of_plane(int64_t index) const {
        Lines one = *this;
        one.words += index * kTile * apart;
        return one;
    }

private:
    static constexpr int64_t kWords = 64 / sizeof(Word);  // of a cache line
};

// The same part of a block of memory that lies `bytes` on.
inline Lines moved(Lines lines, size_t bytes) {
    lines.words = reinterpret_cast<Word*>(reinterpret_cast<char*>(lines.words) + bytes);
    return lines;
}

#if defined(__AVX512BF16__)

// `count` weights [rows, columns].
inline Stack as_weights(int64_t count, int64_t rows, int64_t columns, const Bfloat16* from, Pieces& pieces) {
    if (columns % 2 == 0) return {{from, columns}, rows * columns};
    const int64_t lines = count * rows, row = columns + 1;
    Bfloat16* const to = pieces.array<Bfloat16>(lines * row);
    for (int64_t i = 0; i < lines && to != nullptr; ++i) {
        std::memcpy(to + i * row, from + i * columns, static_cast<size_t>(columns) * sizeof(Bfloat16));
        to[i * row + columns] = {0};
    }
    return {{to, row}, rows * row};
}

// From a row of so many columns to the next, for weights that are copied. Long ones are an odd number of cache lines
// apart, for the same reason as lines.
inline int64_t rows_apart(int64_t columns) {
    constexpr int64_t kNumbers = 64 / sizeof(Bfloat16);
    return columns < 2 * kNumbers ? round_up(columns, 2) : (round_up(columns, kNumbers) / kNumbers | 1) * kNumbers;
}

// to[j][i] = from[i][j] for i < rows, j < columns; lines of `to` are whole pairs, the last half of which is 0 if rows
// are odd.
inline void transpose(int64_t rows, int64_t columns, const BfloatRows& from, Bfloat16* to, int64_t to_row) {
    constexpr int64_t kPairs = 16, kColumns = 64;  // at once, so that cache lines are filled
    Word pairs[kPairs][kColumns];
    for (int64_t j = 0; j < columns; j += kColumns) {
        const int64_t width = smaller(kColumns, columns - j);
        for (int64_t i = 0; i < rows; i += 2 * kPairs) {
            const int64_t height = smaller(kPairs, (rows - i + 1) / 2);
            for (int64_t pair = 0; pair < height; ++pair) {
                const BfloatRows low = from.from(i + 2 * pair, j);
                const bool both = i + 2 * pair + 1 < rows;
                for (int64_t k = 0; k < width; ++k) {
                    pairs[pair][k] = low.at[k].bits | (both ? Word{low.at[low.row + k].bits} << 16 : 0);
                }
            }
            transpose_words(height, width, [&](int64_t pair) { return pairs[pair]; }, to + j * to_row + i, 2 * to_row);
        }
    }
}

// `count` weights [rows, columns], each transposed.
inline Stack transposed(int64_t count, int64_t rows, int64_t columns, const Stack& from, Pieces& pieces) {
    const int64_t row = rows_apart(rows), size = count * columns * row;
    Bfloat16* const to = pieces.array<Bfloat16>(size + 1);
    if (to != nullptr) to[size] = {0};
    for (int64_t one = 0; one < count && to != nullptr; ++one) {
        Bfloat16* const out = to + one * columns * row;
        for (int64_t j = 0; j < columns; ++j) {  // products from an odd element on read it, and take it 0 times
            std::memset(out + j * row + rows, 0, static_cast<size_t>(row - rows) * sizeof(Bfloat16));
        }
        transpose(rows, columns, from[one], out, row);
    }
    return {{to, row}, columns * row};
}

struct OperandPlane {
    Word* pairs;      // [features / 2][kTile]; nullptr where no product over features needs it
    Bfloat16* plain;  // [features][kTile]; nullptr where no sum over rows needs it

    const Word* over_features() const { return pairs; }
    OperandPlane from(int64_t feature) const {
        return {pairs == nullptr ? nullptr : pairs + feature / 2 * kTile,
                plain == nullptr ? nullptr : plain + feature * kTile};
    }
    BfloatRows over_rows() const { return {plain, kTile}; }
    Vector value(int64_t at) const { return load(plain + at); }  // `at` is an offset into the plane
};

inline OperandPlane operand_at(int64_t features, bool over_rows, Word* pairs, Pieces& pieces) {
    return {pairs, over_rows ? pieces.plane<Bfloat16>(round_up(features, 2)) : nullptr};
}

// The operand that takes the place of `plane`.
inline OperandPlane operand_in_place(float* plane, int64_t features, bool over_rows, Pieces& pieces) {
    return operand_at(features, over_rows, reinterpret_cast<Word*>(plane), pieces);
}

// The operand of a plane that is needed further.
inline OperandPlane operand_beside(float*, int64_t features, bool over_rows, Pieces& pieces) {
    return operand_at(features, over_rows, pieces.plane<Word>(round_up(features, 2) / 2), pieces);
}

// In place too, plain alone: for sums over rows.
inline OperandPlane plain_operand_in_place(float*, int64_t features, Pieces& pieces) {
    return operand_at(features, true, nullptr, pieces);
}

// The same with memory of its own.
inline OperandPlane plain_plane(int64_t features, Pieces& pieces) {
    return operand_at(features, true, nullptr, pieces);
}

// A plane that is kept for sums over rows, as the operand of a product over features as well; `room` is a plane.
inline OperandPlane with_room(const OperandPlane& kept, float* room) {
    return {reinterpret_cast<Word*>(room), kept.plain};
}

// The same part of a block of memory that lies `bytes` on.
inline OperandPlane moved(const OperandPlane& kept, size_t bytes) {
    return {nullptr, reinterpret_cast<Bfloat16*>(reinterpret_cast<char*>(kept.plain) + bytes)};
}

// Makes operands of what f(offset into the planes, feature, values) puts into values[kCount]. It may read the planes
// that they take the place of.
template <int kCount, typename F>
inline void make_operands(int64_t features, int64_t lanes, const OperandPlane (&to)[kCount], const F& f) {
    for (int64_t i = 0; i < features; i += 2) {
        for (int64_t lane = 0; lane < lanes; lane += kLanes) {
            Vector low[kCount], high[kCount] = {};
            f(i * kTile + lane, i, low);
            if (i + 1 < features) f((i + 1) * kTile + lane, i + 1, high);
            POCO_UNROLL
            for (int n = 0; n < kCount; ++n) {
                if (to[n].pairs != nullptr) {
                    const WordVector pairs = to_pairs(low[n], high[n]);
                    std::memcpy(to[n].pairs + i / 2 * kTile + lane, &pairs, sizeof pairs);
                }
                if (to[n].plain == nullptr) continue;
                const __m512bh both = _mm512_cvtne2ps_pbh(high[n], low[n]);
                std::memcpy(to[n].plain + i * kTile + lane, &both, sizeof both / 2);
                std::memcpy(to[n].plain + (i + 1) * kTile + lane, reinterpret_cast<const char*>(&both) + 32, 32);
            }
        }
    }
}

// The operand of a plane as it is.
inline void make_operand_of(int64_t features, int64_t lanes, const float* plane, const OperandPlane& to) {
    make_operands<1>(features, lanes, {to}, [=](int64_t at, int64_t, Vector* value) { *value = load(plane + at); });
}

// The lines of a plane; what is behind their ends stays.
inline void make_lines(int64_t rows, int64_t features, const OperandPlane& plane, const Lines& lines) {
    transpose_words(
        features, (rows + 1) / 2, [=](int64_t i) { return plane.plain + i * kTile; }, lines.words, 4 * lines.apart);
}

// c (+)= the sum over rows first, ..., last - 1 of plane[feature][row] * lines[row]; `operand` and `room`, a line, are
// room. If `first` or `last` is odd, a row of another run shares a pair with one of this: it is 0 meanwhile, so that a
// NaN stays where it is; the one before `first` remains 0, as runs go in order.
template <Onto kOnto>
inline void multiply_some_rows(int64_t features, int64_t first, int64_t last, const float* plane,
                               const OperandPlane& operand, const Lines& lines, Word* room, float* c) {
    const int64_t even = first / 2 * 2, columns = lines.columns;
    for (int64_t i = 0; i < features; ++i) {
        for (int64_t lane = first / kLanes * kLanes; lane < last; lane += kLanes) {
            const Vector value = lanes_between(first - lane, last - lane) ? load(plane + i * kTile + lane) : Vector{};
            const __m256bh half = _mm512_cvtneps_pbh(value);
            std::memcpy(operand.plain + i * kTile + lane, &half, sizeof half);
        }
    }
    Word* const head = lines.words + first / 2 * lines.apart;
    Word* const tail = lines.words + last / 2 * lines.apart;
    const size_t bytes = static_cast<size_t>(columns) * sizeof(Word);
    for (int64_t j = 0; j < columns && first % 2 != 0; ++j) head[j] &= 0xffff0000u;
    if (last % 2 != 0) std::memcpy(room, tail, bytes);
    for (int64_t j = 0; j < columns && last % 2 != 0; ++j) tail[j] &= 0xffffu;
    multiply<kOnto>(features, last - even, columns, operand.over_rows().from(0, even),
                    lines.words + even / 2 * lines.apart, lines.apart, c, columns);
    if (last % 2 != 0) std::memcpy(tail, room, bytes);
}

// The sum of every feature over the rows: f(feature, sum).
template <typename F>
inline void sum_rows(int64_t features, int64_t lanes, const OperandPlane& plane, const F& f) {
    const __m512bh ones = bits_as<__m512bh>(broadcast(uint32_t{0x3f803f80}));
    for (int64_t i = 0; i < features; ++i) {
        Vector total = {};
        int64_t lane = 0;
        for (; lane + 2 * kLanes <= lanes; lane += 2 * kLanes) {
            __m512bh two;
            std::memcpy(&two, plane.plain + i * kTile + lane, sizeof two);
            total = _mm512_dpbf16_ps(total, ones, two);
        }
        if (lane < lanes) total += load(plane.plain + i * kTile + lane);
        f(i, sum(total));
    }
}

#else

struct AmxTiles {  // nothing to load
    AmxTiles() {}
};

template <typename T>
inline Stack as_weights(int64_t count, int64_t rows, int64_t columns, const T* from, Pieces& pieces) {
    return {{in_float(from, count * rows * columns, pieces), columns, 1}, rows * columns};
}

inline Stack transposed(int64_t, int64_t, int64_t, const Stack& from, Pieces&) {
    return {{from.first.at, from.first.column, from.first.row}, from.apart};
}

struct OperandPlane {
    float* plane;

    const float* over_features() const { return plane; }
    OperandPlane from(int64_t feature) const { return {plane + feature * kTile}; }
    Strided over_rows() const { return {plane, kTile, 1}; }
    Vector value(int64_t at) const { return load(plane + at); }
};

inline OperandPlane operand_in_place(float* plane, int64_t, bool, Pieces&) {
    return {plane};
}

inline OperandPlane operand_beside(float* plane, int64_t, bool, Pieces&) {
    return {plane};
}

inline OperandPlane plain_operand_in_place(float* plane, int64_t, Pieces&) {
    return {plane};
}

inline OperandPlane plain_plane(int64_t features, Pieces& pieces) {
    return {pieces.plane(features)};
}

inline OperandPlane with_room(const OperandPlane& kept, float*) {
    return kept;
}

inline OperandPlane moved(const OperandPlane& kept, size_t bytes) {
    return {reinterpret_cast<float*>(reinterpret_cast<char*>(kept.plane) + bytes)};
}

template <int kCount, typename F>
inline void make_operands(int64_t features, int64_t lanes, const OperandPlane (&to)[kCount], const F& f) {
    for_vectors(features, lanes, [&](int64_t at, int64_t i) {
        Vector values[kCount];
        f(at, i, values);
        POCO_UNROLL
        for (int n = 0; n < kCount; ++n) store(to[n].plane + at, values[n]);
    });
}

inline void make_operand_of(int64_t, int64_t, const float*, const OperandPlane&) {}

inline void make_lines(int64_t rows, int64_t features, const OperandPlane& plane, const Lines& lines) {
    plane_to_rows(rows, features, plane.plane, lines.words, lines.apart);
}

template <Onto kOnto>
inline void multiply_some_rows(int64_t features, int64_t first, int64_t last, const float* plane, const OperandPlane&,
                               const Lines& lines, Word*, float* c) {
    multiply<kOnto>(features, last - first, lines.columns, {plane + first, kTile, 1}, lines.words + first * lines.apart,
                    lines.apart, c, lines.columns);
}

template <typename F>
inline void sum_rows(int64_t features, int64_t lanes, const OperandPlane& plane, const F& f) {
    for (int64_t i = 0; i < features; ++i) {
        f(i, sum_lanes(lanes, plane.plane + i * kTile));
    }
}

#endif

// standard * weight + bias.
inline void scale_and_shift(int64_t features, int64_t lanes, const float* standard, const float* weight,
                            const float* bias, const OperandPlane& to) {
    make_operands<1>(features, lanes, {to}, [=](int64_t at, int64_t i, Vector* value) {
        *value = fma(load(standard + at), broadcast(weight[i]), broadcast(bias[i]));
    });
}

}  // namespace
}  // namespace poco
