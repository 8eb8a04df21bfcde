// The parameters, keys and values of one call of pass 2 as its products take them: where they are if that will do,
// otherwise converted once.
#pragma once

#include "cpu/operands.h"

namespace poco {
namespace {

struct FilmWeights {
    const float* unit_shift;  // nullptr: none
    const float *attention_bias, *query_norm_weight, *query_norm_bias, *ffn_norm_weight, *ffn_norm_bias;
    const float *ffn_in_bias, *ffn_out_bias, *scale_bias, *shift_bias, *in_bias;
    Stack ffn_in, ffn_out, scale, shift, in, out;  // one each
    Stack keys, values, values_t;                  // of the windows

    template <typename T>
    FilmWeights(const FilmForecast<T>& call, Pieces& pieces) {
        const FilmParameters<const T>& p = call.parameters;
        const int64_t d = call.width, hidden = call.ffn_width, film = call.film_width;
        unit_shift = call.unit_shift == nullptr ? nullptr : in_float(call.unit_shift, d, pieces);
        attention_bias = in_float(p.attention_bias, d, pieces);
        query_norm_weight = in_float(p.query_norm_weight, d, pieces);
        query_norm_bias = in_float(p.query_norm_bias, d, pieces);
        ffn_norm_weight = in_float(p.ffn_norm_weight, d, pieces);
        ffn_norm_bias = in_float(p.ffn_norm_bias, d, pieces);
        ffn_in_bias = in_float(p.ffn_in_bias, 2 * hidden, pieces);
        ffn_out_bias = in_float(p.ffn_out_bias, d, pieces);
        scale_bias = in_float(p.scale_bias, film, pieces);
        shift_bias = in_float(p.shift_bias, call.horizon, pieces);
        in_bias = in_float(p.in_bias, film, pieces);
        ffn_in = as_weights(1, 2 * hidden, d, p.ffn_in_weight, pieces);
        ffn_out = as_weights(1, d, hidden, p.ffn_out_weight, pieces);
        scale = as_weights(1, film, d, p.scale_weight, pieces);
        shift = as_weights(1, call.horizon, d, p.shift_weight, pieces);
        in = as_weights(1, film, call.context, p.in_weight, pieces);
        out = as_weights(1, call.horizon, film, p.out_weight, pieces);
        keys = as_weights(call.windows, call.latents, d, call.keys, pieces);
        values = as_weights(call.windows, call.latents, d, call.values, pieces);
        values_t = transposed(call.windows, call.latents, d, values, pieces);
    }
};

// What the way back needs besides.
struct FilmBackwardWeights : FilmWeights {
    Stack ffn_in_t, ffn_out_t, scale_t, shift_t, in_t, out_t, keys_t;

    template <typename T>
    FilmBackwardWeights(const FilmForecast<T>& call, Pieces& pieces) : FilmWeights(call, pieces) {
        const int64_t d = call.width, hidden = call.ffn_width, film = call.film_width;
        ffn_in_t = transposed(1, 2 * hidden, d, ffn_in, pieces);
        ffn_out_t = transposed(1, d, hidden, ffn_out, pieces);
        scale_t = transposed(1, film, d, scale, pieces);
        shift_t = transposed(1, call.horizon, d, shift, pieces);
        in_t = transposed(1, film, call.context, in, pieces);
        out_t = transposed(1, call.horizon, film, out, pieces);
        keys_t = transposed(call.windows, call.latents, d, keys, pieces);
    }
};

}  // namespace
}  // namespace poco
