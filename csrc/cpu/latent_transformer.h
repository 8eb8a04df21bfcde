// Between the passes: a few latents read what was pooled, attend to each other, and become keys and values of the
// units. poco/ops/model_reference.py says what is computed.
//
// There are few tokens, so the weights are what costs: each is read once for a group of windows. A group goes from step
// to step together; the wide layers of a step are cut into parts that threads share.
#pragma once

#include "core/thread_pool.h"
#include "core/workspace.h"
#include "cpu/kernels.h"
#include "cpu/latent_turns.h"
#include "cpu/token_rows.h"

namespace poco {
namespace {

constexpr int64_t kGroupTokens = 64;  // at most, unless one window has more
constexpr int64_t kHiddenPart = 32;   // columns of the feed-forward layer that one thread makes: whole steps
constexpr int64_t kOutputPart = 16;   // columns of what is added to the latents: a cache line
static_assert(kHiddenPart % Product<float>::kStep == 0 && kHiddenPart % Product<Bfloat16>::kStep == 0, "whole steps");

struct LatentTurns {
    Turns apart;   // [S, Q]: by the time from segment to latent
    Turns latent;  // [Q]: by the latent's own
    Turns ahead;   // [Q]: by the time from the units' question to the latent
};

// ---- What a group of windows keeps of its tokens, and what a thread needs for one part of a step.

template <typename T>
struct LatentRows {
    int64_t row, hidden_row, head_row, inner_row;  // from one token to the next
    float* state;                                  // [tokens, row]: the latents
    Activation<T>* normed;                         // [tokens, row]
    Activation<T>* gated;                          // [tokens, hidden_row]
    Activation<T>* attended;                       // [tokens, inner_row]

    LatentRows(const LatentTransformer<T>& call, int64_t tokens, Pieces& pieces)
        : row(row_of<T>(call.width)),
          hidden_row(row_of<T>(call.ffn_width)),
          head_row(round_up(call.head_width)),
          inner_row(row_of<T>(call.heads * call.head_width)),
          state(pieces.floats(tokens * row)),
          normed(activations<T>(pieces, tokens * row)),
          gated(activations<T>(pieces, tokens * hidden_row)),
          attended(activations<T>(pieces, call.layers > 0 ? tokens * inner_row : 0)) {}
};

template <typename T>
struct ReadRows {
    Activation<T>*pooled, *summed;
    float *values, *sums;

    ReadRows(const LatentTransformer<T>& call, Pieces& pieces)
        : pooled(activations<T>(pieces, call.segments * call.latents * row_of<T>(call.width))),
          summed(activations<T>(pieces, call.latents * row_of<T>(call.head_width))),
          values(pieces.floats(call.segments * call.latents * round_up(call.head_width))),
          sums(pieces.floats(call.latents * round_up(call.head_width))) {}
};

struct HiddenRows {
    float *value, *gate;

    HiddenRows(int64_t tokens, Pieces& pieces)
        : value(pieces.floats(tokens * kHiddenPart)), gate(pieces.floats(tokens * kHiddenPart)) {}
};

template <typename T>
struct HeadRows {
    float *query, *key, *value, *weights;

    HeadRows(const LatentTransformer<T>& call, int64_t tokens, Pieces& pieces)
        : query(pieces.floats(tokens * round_up(call.head_width))),
          key(pieces.floats(tokens * round_up(call.head_width))),
          value(pieces.floats(tokens * round_up(call.head_width))),
          weights(pieces.floats(call.latents * round_up(call.latents))) {}
};

template <typename T>
struct WriteRows {
    float *key, *value;
    Activation<T>* narrow;

    WriteRows(const LatentTransformer<T>& call, Pieces& pieces)
        : key(pieces.floats(call.latents * round_up(call.head_width))),
          value(pieces.floats(call.latents * round_up(call.head_width))),
          narrow(activations<T>(pieces, call.latents * row_of<T>(call.head_width))) {}
};

template <typename T>
inline size_t scratch_bytes(const LatentTransformer<T>& call, int64_t tokens) {
    Pieces read, hidden, head, write;
    ReadRows<T>(call, read);
    HiddenRows(tokens, hidden);
    HeadRows<T>(call, tokens, head);
    WriteRows<T>(call, write);
    size_t most = read.used();
    for (const size_t one : {hidden.used(), head.used(), write.used()}) most = one > most ? one : most;
    return most;
}

// ---- The steps. Each is for windows or tokens of one group, whose first window is `first`.

// The latents of a window after reading what was pooled.
template <typename T>
inline void read_pooled(const LatentTransformer<T>& call, const Turns& apart, int64_t window, float* state,
                        const LatentRows<T>& rows, Pieces scratch) {
    const int64_t d = call.width, latents = call.latents, tokens = call.segments * latents, head_row = rows.head_row;
    const int64_t narrow_row = row_of<T>(call.head_width);
    const ReadRows<T> r(call, scratch);
    to_activations(tokens, d, call.pooled + window * tokens * d, d, r.pooled, rows.row);
    project(call.head_width, d, call.read_value_weight, tokens, r.pooled, rows.row, r.values, head_row);
    std::memset(r.sums, 0, static_cast<size_t>(latents * head_row) * sizeof(float));
    for (int64_t t = 0; t < tokens; ++t) {
        turn(apart, t, -1, r.values + t * head_row);
        float* onto = r.sums + t % latents * head_row;
        for (int64_t j = 0; j < head_row; j += kLanes)
            store(onto + j, load(onto + j) + load(r.values + t * head_row + j));
    }
    to_activations(latents, call.head_width, r.sums, head_row, r.summed, narrow_row);
    widen_rows(latents, d, call.initial + (call.initial_windows > 1 ? window : 0) * latents * d, state, rows.row);
    multiply_tokens<T>(d, call.head_width, call.read_output_weight, call.head_width, latents, r.summed, narrow_row,
                       call.read_output_bias, add_to(state, rows.row));
}

// Columns first, ... of the gated feed-forward layer.
template <typename T>
inline void make_hidden(const LatentTransformer<T>& call, const FeedForward<T>& ffn, int64_t tokens, int64_t first,
                        const LatentRows<T>& rows, Pieces scratch) {
    const int64_t d = call.width, count = smaller(kHiddenPart, call.ffn_width - first);
    const HiddenRows h(tokens, scratch);
    const auto half = [&](int64_t column, float* to) {
        multiply_tokens<T>(count, d, ffn.in_weight + column * d, d, tokens, rows.normed, rows.row, ffn.in_bias + column,
                           [=](int64_t t, int64_t i, QuarterVector v) { store_quarter(to + t * kHiddenPart + i, v); });
    };
    half(first, h.value);
    half(call.ffn_width + first, h.gate);
    for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t j = 0; j < row_of<T>(count); j += kLanes) {
            const float* at = h.value + t * kHiddenPart + j;
            const Vector gated = load(at) * gelu(load(h.gate + t * kHiddenPart + j));
            const Vector kept = lanes_between(0, count - j) ? gated : Vector{};
            put(rows.gated + t * rows.hidden_row + first + j, kept, kLanes);
        }
    }
}

// Adds columns first, ... of a product with its bias to the latents.
template <typename T>
inline void add_output(const LatentTransformer<T>& call, const T* weight, const T* bias, int64_t inner, int64_t tokens,
                       const Activation<T>* x, int64_t x_row, int64_t first, const LatentRows<T>& rows) {
    const int64_t count = smaller(kOutputPart, call.width - first);
    multiply_tokens<T>(count, inner, weight + first * inner, inner, tokens, x, x_row, bias + first,
                       add_to(rows.state + first, rows.row));
}

// One head of the self-attention.
template <typename T>
inline void attend_head(const LatentTransformer<T>& call, const LatentLayer<T>& layer, const Turns& latent,
                        int64_t tokens, int64_t head, const LatentRows<T>& rows, Pieces scratch) {
    const int64_t d = call.width, dh = call.head_width, latents = call.latents, head_row = rows.head_row;
    const int64_t weights_row = round_up(latents);
    const HeadRows<T> h(call, tokens, scratch);
    float* const parts[3] = {h.query, h.key, h.value};
    for (int64_t part = 0; part < 3; ++part) {
        const T* weight = layer.query_key_value_weight + (part * call.heads + head) * dh * d;
        project(dh, d, weight, tokens, rows.normed, rows.row, parts[part], head_row);
        for (int64_t t = 0; t < tokens; ++t) turn(latent, t % latents, 1, parts[part] + t * head_row);
    }
    const float scale = score_scale(dh);
    for (int64_t t = 0; t < tokens; t += latents) {
        float* query = h.query + t * head_row;
        multiply_tokens<float>(
            latents, head_row, query, head_row, latents, h.key + t * head_row, head_row, nullptr,
            [=](int64_t n, int64_t m, QuarterVector v) { store_quarter(h.weights + n * weights_row + m, v * scale); });
        softmax_down(latents, latents, h.weights, weights_row);
        for (int64_t m = 0; m < latents; ++m) {
            for (int64_t j = 0; j < head_row; j += kLanes) {
                Vector sum = {};
                for (int64_t n = 0; n < latents; ++n) {
                    sum = fma(broadcast(h.weights[n * weights_row + m]), load(h.value + (t + n) * head_row + j), sum);
                }
                store(query + m * head_row + j, sum);
            }
            turn(latent, m, -1, query + m * head_row);
            for (int64_t j = 0; j < dh; j += kLanes) {
                put(rows.attended + (t + m) * rows.inner_row + head * dh + j, load(query + m * head_row + j), dh - j);
            }
        }
    }
}

// Keys and values of a window from its normalised latents.
template <typename T>
inline void write_keys_and_values(const LatentTransformer<T>& call, const Turns& ahead, int64_t window,
                                  const Activation<T>* normed, const LatentRows<T>& rows, Pieces scratch) {
    const int64_t d = call.width, dh = call.head_width, latents = call.latents, head_row = rows.head_row;
    const int64_t narrow_row = row_of<T>(dh);
    const WriteRows<T> w(call, scratch);
    project(dh, d, call.write_key_weight, latents, normed, rows.row, w.key, head_row);
    for (int64_t m = 0; m < latents; ++m) turn(ahead, m, 1, w.key + m * head_row);
    multiply_tokens_transposed(dh, d, call.write_query_weight, latents, w.key, head_row, score_scale(dh),
                               call.keys + window * latents * d);
    project(dh, d, call.write_value_weight, latents, normed, rows.row, w.value, head_row);
    to_activations(latents, dh, w.value, head_row, w.narrow, narrow_row);
    T* values = call.values + window * latents * d;
    multiply_tokens<T>(d, dh, call.write_output_weight, dh, latents, w.narrow, narrow_row, nullptr,
                       [=](int64_t t, int64_t i, QuarterVector v) {
                           for (int64_t k = 0; k < smaller(kRowsAtOnce, d - i); ++k)
                               values[t * d + i + k] = from_float<T>(v[k]);
                       });
}

// ---- All steps for one group of windows.

template <typename T>
class LatentGroup {
public:
    LatentGroup(const LatentTransformer<T>& call, const LatentTurns& turns, int64_t first, int64_t windows)
        : call_(call), turns_(turns), first_(first), windows_(windows), tokens_(windows * call.latents) {}

    void run(int threads) const {
        Pieces size;
        LatentRows<T>(call_, tokens_, size);
        const size_t shared = size.used(), each = scratch_bytes(call_, tokens_);
        const int steps = static_cast<int>(kBefore + kInLayer * call_.layers + kAfter);
        size_t all = shared + each * static_cast<size_t>(threads);
        all += Workspace::bytes_of(steps + 1, sizeof(int64_t));
        Workspace workspace(all);
        Pieces pieces(static_cast<char*>(workspace.take(shared)));
        const LatentRows<T> rows(call_, tokens_, pieces);
        char* scratch = static_cast<char*>(workspace.take(each * static_cast<size_t>(threads)));
        auto* first = static_cast<int64_t*>(workspace.take(static_cast<size_t>(steps + 1) * sizeof(int64_t)));
        first[0] = 0;
        for (int step = 0; step < steps; ++step) first[step + 1] = first[step] + parts(kind(step));
        clear_behind(rows);
        parallel_phases(steps, first, threads, [&](int step, int64_t index, int worker) {
            run_part(step, index - first[step], rows, Pieces(scratch + static_cast<size_t>(worker) * each));
        });
    }

private:
    enum class Kind { read, attention_norm, heads, attention_output, ffn_norm, hidden, ffn_output, write_norm, write };
    static constexpr int kBefore = 4, kInLayer = 6, kAfter = 2;  // steps: see kind()

    Kind kind(int step) const {
        constexpr Kind before[kBefore] = {Kind::read, Kind::ffn_norm, Kind::hidden, Kind::ffn_output};
        constexpr Kind in_layer[kInLayer] = {Kind::attention_norm, Kind::heads,  Kind::attention_output,
                                             Kind::ffn_norm,       Kind::hidden, Kind::ffn_output};
        constexpr Kind after[kAfter] = {Kind::write_norm, Kind::write};
        if (step < kBefore) return before[step];
        step -= kBefore;
        if (step < kInLayer * call_.layers) return in_layer[step % kInLayer];
        return after[step - kInLayer * call_.layers];
    }

    // Into how many parts a step is cut.
    int64_t parts(Kind kind) const {
        switch (kind) {
            case Kind::heads:
                return call_.heads;
            case Kind::hidden:
                return (call_.ffn_width + kHiddenPart - 1) / kHiddenPart;
            case Kind::attention_output:
            case Kind::ffn_output:
                return (call_.width + kOutputPart - 1) / kOutputPart;
            default:
                return windows_;
        }
    }

    void run_part(int step, int64_t part, const LatentRows<T>& rows, Pieces scratch) const {
        const int64_t window = first_ + part, at = part * call_.latents * rows.row;  // where a part is a window
        const LatentLayer<T>* layer = nullptr;
        const FeedForward<T>* ffn = &call_.read_ffn;
        if (step >= kBefore && step < kBefore + kInLayer * call_.layers) {
            layer = call_.layer + (step - kBefore) / kInLayer;
            ffn = &layer->ffn;
        }
        const auto normalise = [&](const T* weight, const T* bias) {
            normalise_tokens(call_.latents, call_.width, call_.eps, rows.state + at, weight, bias, rows.normed + at,
                             rows.row);
        };
        switch (kind(step)) {
            case Kind::read:
                return read_pooled(call_, turns_.apart, window, rows.state + at, rows, scratch);
            case Kind::attention_norm:
                return normalise(layer->norm_weight, layer->norm_bias);
            case Kind::heads:
                return attend_head(call_, *layer, turns_.latent, tokens_, part, rows, scratch);
            case Kind::attention_output:
                return add_output(call_, layer->output_weight, layer->output_bias, call_.heads * call_.head_width,
                                  tokens_, rows.attended, rows.inner_row, part * kOutputPart, rows);
            case Kind::ffn_norm:
                return normalise(ffn->norm_weight, ffn->norm_bias);
            case Kind::hidden:
                return make_hidden(call_, *ffn, tokens_, part * kHiddenPart, rows, scratch);
            case Kind::ffn_output:
                return add_output(call_, ffn->out_weight, ffn->out_bias, call_.ffn_width, tokens_, rows.gated,
                                  rows.hidden_row, part * kOutputPart, rows);
            case Kind::write_norm:
                return normalise(call_.write_norm_weight, call_.write_norm_bias);
            case Kind::write:
                return write_keys_and_values(call_, turns_.ahead, window, rows.normed + at, rows, scratch);
        }
    }

    // Heads lie side by side in what was attended, so none of them ends its rows.
    void clear_behind(const LatentRows<T>& rows) const {
        const int64_t inner = call_.heads * call_.head_width;
        if (call_.layers == 0 || inner == rows.inner_row) return;
        for (int64_t t = 0; t < tokens_; ++t) {
            for (int64_t j = inner; j < rows.inner_row; ++j) rows.attended[t * rows.inner_row + j] = {};
        }
    }

    const LatentTransformer<T>& call_;
    const LatentTurns& turns_;
    int64_t first_, windows_, tokens_;
};

template <typename T>
inline void latent_transformer(const LatentTransformer<T>& call) {
    if (call.windows == 0) return;
    const int64_t most = call.latents < kGroupTokens ? kGroupTokens / call.latents : 1;
    const int64_t groups = (call.windows + most - 1) / most;

    const int64_t pairs = call.segments * call.latents;
    const int64_t many = turns_size(call.head_width, pairs), few = turns_size(call.head_width, call.latents);
    const size_t bytes = Workspace::bytes_of(many + 2 * few, sizeof(float));
    Workspace workspace(bytes);
    auto* memory = static_cast<float*>(workspace.take(bytes));
    const auto of_latents = [&](double ahead, float* at) {
        return make_turns(call.head_width, call.latents, call.frequencies, at,
                          [&](int64_t m) { return latent_time(m, call.latents, call.context) - ahead; });
    };
    const LatentTurns turns{turns_apart(call, memory), of_latents(0, memory + many),
                            of_latents(static_cast<double>(call.context), memory + many + few)};

    if (groups == 1) {
        LatentGroup<T>(call, turns, 0, call.windows).run(call.threads < 1 ? 1 : call.threads);
        return;
    }
    parallel_for(groups, call.threads, [&](int64_t group, int) {
        const int64_t first = group * call.windows / groups, end = (group + 1) * call.windows / groups;
        LatentGroup<T>(call, turns, first, end - first).run(1);
    });
}

}  // namespace
}  // namespace poco
