// The backward of pass 2 for one tile. It goes forward again, then back, in the cache: from a given gradient of the
// forecast, or from the error of the forecast made on the way. What rows do on their own goes by blocks of the tile, as
// many rows as go forward together; sums over rows are over all of the tile, so that they are touched less often.
#pragma once

#include <utility>

#include "cpu/film_forecast.h"
#include "cpu/film_sums.h"
#include "cpu/unit_sums.h"

namespace poco {
namespace {

constexpr int64_t kTileBlocks = kTile / kBlockRows;
constexpr int64_t kBackwardRows = kTileBlocks * kBlockRows;  // of a tile at most

// What a worker keeps of the tile it is at, besides what the forward needs. Lines are rows of whole vectors.
struct FilmBackwardPlanes : FilmPlanes {
    float *unit_standard, *unit_inverse_std, *standard;
    float *grad, *grad_state, *grad_normed, *grad_scores, *grad_activity, *grad_band;
    OperandPlane gelu_of_gate, slope_times_value, gated;  // of all hidden columns, with dropout
    OperandPlane made, scale;                             // of all columns of FiLM, where they are kept
    OperandPlane query, right_panel, grad_operand, grad_state_operand, grad_scores_operand, product_panel;
    Lines left_lines, right_lines, activity_lines, grad_lines;

    template <typename T>
    FilmBackwardPlanes(const FilmForecast<T>& call, Pieces& pieces)
        : FilmPlanes(call, pieces, true),
          unit_standard(pieces.plane(call.width)),
          unit_inverse_std(pieces.plane(1)),
          standard(pieces.plane(call.width)),
          grad(pieces.plane(call.horizon)),
          grad_state(pieces.plane(call.width)),
          grad_normed(pieces.plane(call.width)),
          grad_scores(pieces.plane(call.latents)),
          grad_activity(pieces.plane(call.context)),
          grad_band(pieces.plane(kBand)),
          gelu_of_gate(plain_plane(call.ffn_width, pieces)),
          slope_times_value(plain_plane(call.ffn_width, pieces)),
          gated(operand_in_place(pieces.plane(call.ffn_width), call.ffn_width, true, pieces)),
          made(plain_plane(call.film_width, pieces)),
          scale(plain_plane(call.film_width, pieces)),
          query(operand_in_place(pieces.plane(call.width), call.width, true, pieces)),
          right_panel(operand_in_place(pieces.plane(kPanel), kPanel, true, pieces)),
          grad_operand(operand_in_place(grad, call.horizon, true, pieces)),
          grad_state_operand(operand_beside(grad_state, call.width, true, pieces)),
          grad_scores_operand(operand_beside(grad_scores, call.latents, true, pieces)),
          product_panel(plain_plane(kPanel, pieces)),
          left_lines(call.width, pieces),
          right_lines(call.width, pieces),
          activity_lines(call.context, pieces),
          grad_lines(call.horizon, pieces) {}

    void clear_lines() const {
        for (const Lines* lines : {&left_lines, &right_lines, &activity_lines, &grad_lines}) lines->clear();
    }
};

// The planes of a tile from the first row of each of its blocks on.
class FilmBlocks {
public:
    template <typename T>
    FilmBlocks(const FilmForecast<T>& call, char* memory)
        : FilmBlocks(call, memory, std::make_index_sequence<kTileBlocks>()) {}

    const FilmBackwardPlanes& whole() const { return planes_[0]; }

    // Calls f(rows, planes) for each block that has rows.
    template <typename T, typename F>
    void for_each(const TileRows<T>& tile, const F& f) const {
        for (int64_t from = 0; from < tile.count; from += kBlockRows) {
            const int64_t first = tile.first + from;
            f(TileRows<T>(tile.call, first, smaller(first + kBlockRows, tile.first + tile.count)),
              planes_[from / kBlockRows]);
        }
    }

private:
    template <typename T, size_t... kBlockNumber>
    FilmBlocks(const FilmForecast<T>& call, char* memory, std::index_sequence<kBlockNumber...>)
        : planes_{planes_from(call, Pieces(memory, kBlockNumber * kBlockRows))...} {}

    template <typename T>
    static FilmBackwardPlanes planes_from(const FilmForecast<T>& call, Pieces pieces) {
        return FilmBackwardPlanes(call, pieces);
    }

    FilmBackwardPlanes planes_[kTileBlocks];
};

// The forward again up to `state`, keeping what the way back needs.
template <typename T>
inline void film_tile_again(const TileRows<T>& tile, const FilmWeights& w, const FilmBackwardPlanes& t) {
    const FilmForecast<T>& call = tile.call;
    const int64_t d = call.width, lanes = tile.lanes();

    gather_to_plane(tile.count, d, call.unit_table, call.unit_index + tile.first, t.state);
    standardise(d, lanes, call.eps, t.state, t.unit_standard, t.unit_inverse_std);
    scale_and_shift(d, lanes, t.unit_standard, w.query_norm_weight, w.query_norm_bias, t.query);
    attend(tile, w, t.query, t);

    standardise(d, lanes, call.eps, t.state, t.standard, t.inverse_std);
    scale_and_shift(d, lanes, t.standard, w.ffn_norm_weight, w.ffn_norm_bias, t.normed);
    add_to_features(d, lanes, w.ffn_out_bias, t.state);
    for (int64_t f = 0; f < call.ffn_width; f += kPanel) {
        const OperandPlane gated = t.gated.from(f);
        const int64_t count = for_bands(f, call.ffn_width, [&](int64_t first, int64_t columns) {
            const Band band = feed_forward_band(call, w, lanes, first, columns, t);
            if (call.dropout > 0) dropout_of(call.seed, call.dropout).fill(tile.first, lanes, first, columns, t.mask);
            const OperandPlane kept[] = {t.gated.from(first), t.gelu_of_gate.from(first),
                                         t.slope_times_value.from(first)};
            make_operands(columns, lanes, kept, [&](int64_t at, int64_t i, Vector* values) {
                gate_value(band.left(at, i), band.right(at, i), call.dropout > 0 ? t.mask + at : nullptr, values);
            });
        });
        multiply<Onto::c>(d, count, lanes, w.ffn_out.from(0, f), gated.over_features(), kTile, t.state, kTile);
    }
    make_operand_of(d, lanes, t.state, t.state_operand);
}

// `forecast`, keeping what FiLM makes.
template <typename T>
inline void forecast_again(const TileRows<T>& tile, const FilmWeights& w, const FilmBackwardPlanes& t) {
    const FilmForecast<T>& call = tile.call;
    const int64_t lanes = tile.lanes(), horizon = call.horizon;
    multiply<Onto::bias>(horizon, call.width, lanes, w.shift.first, t.state_operand.over_features(), kTile, t.forecast,
                         kTile, w.shift_bias);
    for (int64_t k = 0; k < call.film_width; k += kPanel) {
        const int64_t count = for_bands(k, call.film_width, [&](int64_t first, int64_t columns) {
            const Band band = film_band(call, w, lanes, first, columns, t);
            make_operands<3>(columns, lanes, {t.panel.from(first - k), t.made.from(first), t.scale.from(first)},
                             [=](int64_t at, int64_t i, Vector* values) {
                                 values[1] = band.left(at, i);
                                 values[2] = band.right(at, i);
                                 values[0] = max(Vector{}, values[1]) * values[2];
                             });
        });
        multiply<Onto::c>(horizon, count, lanes, w.out.from(0, k), t.panel.over_features(), kTile, t.forecast, kTile);
    }
}

// `grad` of the rows' squared errors, times `scale` / 2, from the forecast; the sum of those errors.
template <typename T>
inline double squared_errors(const TileRows<T>& tile, const float* target, float scale, const FilmBackwardPlanes& t) {
    const int64_t horizon = tile.call.horizon;
    rows_to_plane(tile.count, horizon, target + tile.first * horizon, t.grad);
    Vector total = {};
    for_vectors(horizon, tile.lanes(), [&](int64_t at, int64_t i) {
        const Vector error = load(t.forecast + at) - load(t.grad + at);
        const Vector inside = lanes_between(0, tile.count - (at - i * kTile)) ? error : Vector{};
        total = fma(inside, inside, total);
        store(t.grad + at, inside * scale);
    });
    return static_cast<double>(sum(total));
}

// One panel of FiLM, from column k on: from `grad` to the gradients of what the activity makes (panel) and of its scale
// (right_panel), which are added to those of the activity and of `state`, and the product of the two (product_panel).
template <typename T>
inline void film_panel_backward(const TileRows<T>& block, const FilmBackwardWeights& w, const FilmBackwardPlanes& t,
                                int64_t k, bool kept, bool wants_x) {
    const FilmForecast<T>& call = block.call;
    const int64_t lanes = block.lanes();
    const int64_t count = for_bands(k, call.film_width, [&](int64_t first, int64_t columns) {
        multiply<Onto::zero>(columns, call.horizon, lanes, w.out_t.from(first, 0), t.grad_operand.over_features(),
                             kTile, t.grad_band, kTile);
        const int64_t at_panel = first - k;
        const OperandPlane to[] = {t.panel.from(at_panel), t.right_panel.from(at_panel),
                                   t.product_panel.from(at_panel)};
        const auto gradients = [&](Vector made, Vector scale, Vector g, Vector* values) {
            const Vector hidden = max(Vector{}, made);
            values[0] = made <= 0.0f ? Vector{} : g * scale;
            values[1] = g * hidden;
            values[2] = hidden * scale;
        };
        if (kept) {
            const OperandPlane made = t.made.from(first), scale = t.scale.from(first);
            make_operands(columns, lanes, to, [&](int64_t at, int64_t, Vector* values) {
                gradients(made.value(at), scale.value(at), load(t.grad_band + at), values);
            });
        } else {
            const Band band = film_band(call, w, lanes, first, columns, t);
            make_operands(columns, lanes, to, [&](int64_t at, int64_t i, Vector* values) {
                gradients(band.left(at, i), band.right(at, i), load(t.grad_band + at), values);
            });
        }
    });
    multiply<Onto::c>(call.width, count, lanes, w.scale_t.from(0, k), t.right_panel.over_features(), kTile,
                      t.grad_state, kTile);
    if (wants_x) {
        multiply<Onto::c>(call.context, count, lanes, w.in_t.from(0, k), t.panel.over_features(), kTile,
                          t.grad_activity, kTile);
    }
}

// FiLM and output: from `grad` to the gradients of `state` and of the activity. If FiLM was not kept it is made again.
template <typename T>
inline void film_backward(const TileRows<T>& tile, const FilmBackwardWeights& w, const FilmBlocks& blocks, bool kept,
                          bool wants_x, FilmSums* sums) {
    const FilmForecast<T>& call = tile.call;
    const FilmBackwardPlanes& t = blocks.whole();
    const int64_t d = call.width, lanes = tile.lanes(), context = call.context, horizon = call.horizon;

    multiply<Onto::zero>(d, horizon, lanes, w.shift_t.first, t.grad_operand.over_features(), kTile, t.grad_state,
                         kTile);
    if (wants_x) clear_plane(context, t.grad_activity);
    if (sums != nullptr) {
        make_lines(tile.count, d, t.state_operand, t.left_lines);
        make_lines(tile.count, context, t.activity_operand, t.activity_lines);
        make_lines(tile.count, horizon, t.grad_operand, t.grad_lines);
        sums->add_products(horizon, tile.count, t.grad_operand, t.left_lines, sums->shift_weight);
        sums->add(horizon, lanes, t.grad_operand, sums->shift_bias);
    }
    for (int64_t k = 0; k < call.film_width; k += kPanel) {
        const int64_t count = smaller(kPanel, call.film_width - k);
        blocks.for_each(tile, [&](const TileRows<T>& block, const FilmBackwardPlanes& b) {
            film_panel_backward(block, w, b, k, kept, wants_x);
        });
        if (sums != nullptr) {
            sums->add_products(count, tile.count, t.panel, t.activity_lines, sums->in_weight + k * sums->context);
            sums->add_products(count, tile.count, t.right_panel, t.left_lines, sums->scale_weight + k * sums->width);
            sums->add_products(count, tile.count, t.product_panel, t.grad_lines,
                               sums->out_weight_t + k * sums->horizon);
            sums->add(count, lanes, t.panel, sums->in_bias + k);
            sums->add(count, lanes, t.right_panel, sums->scale_bias + k);
        }
    }
}

// One panel of the feed-forward layer, from hidden column f on: from the gradient of `state` to those of its values
// (panel) and gates (right_panel), which are added to that of `normed`.
template <typename T>
inline void feed_forward_panel_backward(const TileRows<T>& block, const FilmBackwardWeights& w,
                                        const FilmBackwardPlanes& t, int64_t f) {
    const FilmForecast<T>& call = block.call;
    const int64_t d = call.width, lanes = block.lanes(), hidden = call.ffn_width;
    const int64_t count = for_bands(f, hidden, [&](int64_t first, int64_t columns) {
        multiply<Onto::zero>(columns, d, lanes, w.ffn_out_t.from(first, 0), t.grad_state_operand.over_features(), kTile,
                             t.left, kTile);
        const OperandPlane gelu_of_gate = t.gelu_of_gate.from(first);
        const OperandPlane slope_times_value = t.slope_times_value.from(first);
        make_operands<2>(columns, lanes, {t.panel.from(first - f), t.right_panel.from(first - f)},
                         [&](int64_t at, int64_t, Vector* values) {
                             const Vector g = load(t.left + at);
                             values[0] = g * gelu_of_gate.value(at);
                             values[1] = g * slope_times_value.value(at);
                         });
    });
    multiply<Onto::c>(d, count, lanes, w.ffn_in_t.from(0, f), t.panel.over_features(), kTile, t.grad_normed, kTile);
    multiply<Onto::c>(d, count, lanes, w.ffn_in_t.from(0, hidden + f), t.right_panel.over_features(), kTile,
                      t.grad_normed, kTile);
}

// The feed-forward layer: `grad_state` from the gradient of what it gives to that of what it took.
template <typename T>
inline void feed_forward_backward(const TileRows<T>& tile, const FilmBackwardWeights& w, const FilmBlocks& blocks,
                                  FilmSums* sums) {
    const FilmForecast<T>& call = tile.call;
    const FilmBackwardPlanes& t = blocks.whole();
    const int64_t d = call.width, lanes = tile.lanes(), hidden = call.ffn_width;

    clear_plane(d, t.grad_normed);
    make_operand_of(d, lanes, t.grad_state, t.grad_state_operand);
    if (sums != nullptr) {
        make_lines(tile.count, d, t.normed, t.left_lines);
        make_lines(tile.count, d, t.grad_state_operand, t.right_lines);
        sums->add(d, lanes, t.grad_state, sums->ffn_out_bias);
    }
    for (int64_t f = 0; f < hidden; f += kPanel) {
        const int64_t count = smaller(kPanel, hidden - f);
        blocks.for_each(tile, [&](const TileRows<T>& block, const FilmBackwardPlanes& b) {
            feed_forward_panel_backward(block, w, b, f);
        });
        if (sums != nullptr) {
            sums->add_products(count, tile.count, t.panel, t.left_lines, sums->ffn_in_weight + f * sums->width);
            sums->add_products(count, tile.count, t.right_panel, t.left_lines,
                               sums->ffn_in_weight + (hidden + f) * sums->width);
            sums->add_products(count, tile.count, t.gated.from(f), t.right_lines,
                               sums->ffn_out_weight_t + f * sums->width);
            sums->add(count, lanes, t.panel, sums->ffn_in_bias + f);
            sums->add(count, lanes, t.right_panel, sums->ffn_in_bias + hidden + f);
        }
    }
    if (sums != nullptr) {
        sums->add(d, lanes, t.grad_normed, sums->ffn_norm_weight, t.standard);
        sums->add(d, lanes, t.grad_normed, sums->ffn_norm_bias);
    }
    standardise_backward(d, lanes, t.grad_normed, t.standard, t.inverse_std, w.ffn_norm_weight, t.grad_state);
}

// Attention: `grad_state` becomes the gradient of the units.
template <typename T>
inline void attention_backward(const TileRows<T>& tile, const FilmBackwardWeights& w, const FilmBackwardPlanes& t,
                               FilmSums* sums, WindowSums<T>& windows) {
    const FilmForecast<T>& call = tile.call;
    const int64_t d = call.width, lanes = tile.lanes(), latents = call.latents;

    if (sums != nullptr) sums->add(d, lanes, t.grad_state, sums->attention_bias);
    make_operand_of(d, lanes, t.grad_state, t.grad_state_operand);
    make_lines(tile.count, d, t.query, t.left_lines);
    make_lines(tile.count, d, t.grad_state_operand, t.right_lines);
    tile.for_runs([&](const Run& run) {
        multiply_run<false>(run, latents, d, w.values[run.window], t.grad_state_operand.over_features(), t.grad_scores,
                            t.scratch);
    });
    softmax_backward(latents, lanes, t.weights, t.grad_scores);
    make_operand_of(latents, lanes, t.grad_scores, t.grad_scores_operand);
    tile.for_runs([&](const Run& run) {
        multiply_run<false>(run, d, latents, w.keys_t[run.window], t.grad_scores_operand.over_features(), t.grad_normed,
                            t.scratch);
        windows.add(run, t.grad_scores, t.left_lines, t.weights, t.right_lines, t.grad_scores_operand);
    });
    if (sums != nullptr) {
        sums->add(d, lanes, t.grad_normed, sums->query_norm_weight, t.unit_standard);
        sums->add(d, lanes, t.grad_normed, sums->query_norm_bias);
    }
    standardise_backward(d, lanes, t.grad_normed, t.unit_standard, t.unit_inverse_std, w.query_norm_weight,
                         t.grad_state);
}

template <typename T>
inline void film_backward_tile(const FilmForecastBackward<T>& back, const TileRows<T>& tile,
                               const FilmBackwardWeights& w, const FilmBlocks& blocks, FilmSums* sums,
                               WindowSums<T>& windows, const UnitSums& units, double* loss) {
    const FilmForecast<T>& call = tile.call;
    const FilmBackwardPlanes& t = blocks.whole();
    const bool with_loss = back.loss != nullptr;
    blocks.for_each(tile, [&](const TileRows<T>& block, const FilmBackwardPlanes& b) {
        film_tile_again(block, w, b);
        rows_to_plane(block.count, call.context, call.x + block.first * call.context, b.activity);
        make_operand_of(call.context, block.lanes(), b.activity, b.activity_operand);
        if (with_loss) {
            forecast_again(block, w, b);
            *loss += squared_errors(block, back.target, back.grad_scale, b);
        } else {
            rows_to_plane(block.count, call.horizon, back.grad + block.first * call.horizon, b.grad);
        }
        make_operand_of(call.horizon, block.lanes(), b.grad, b.grad_operand);
    });
    film_backward(tile, w, blocks, with_loss, back.grad_x != nullptr, sums);
    feed_forward_backward(tile, w, blocks, sums);
    attention_backward(tile, w, t, sums, windows);
    if (sums != nullptr) sums->empty = false;

    if (back.grad_x != nullptr) {
        plane_to_rows(tile.count, call.context, t.grad_activity, back.grad_x + tile.first * call.context, call.context);
    }
    if (back.grad_unit_table != nullptr) {
        const int64_t padded = t.left_lines.columns;
        float* const rows = reinterpret_cast<float*>(t.left_lines.words);
        plane_to_rows(tile.count, call.width, t.grad_state, rows, padded);
        for (int64_t row = 0; row < tile.count; ++row) {
            std::memcpy(units.row(tile.first + row), rows + row * padded,
                        static_cast<size_t>(call.width) * sizeof(float));
        }
    }
}

}  // namespace
}  // namespace poco
