// The parameters of a model out of one list, in the order of poco/ops/parameters.py, to where the kernels look for
// them.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/kernels.h"

namespace poco {

// Of ModelParameters.
constexpr int64_t parameter_count(int64_t layers) {
    return 40 + 11 * layers;
}

// Of LatentParameters.
constexpr int64_t latent_parameter_count(int64_t layers) {
    return 15 + 11 * layers;
}

// Hands them out one after another. ModelParameters are those of the calls below, in this order.
template <typename T>
class Parameters {
public:
    explicit Parameters(const T* const* next) : next_(next) {}

    void into(LatentPool<T>& p) { take(p.token_weight, p.token_bias, p.norm_weight, p.norm_bias); }

    void into(LatentQueries<T>& p) { take(p.norm_weight, p.norm_bias, p.query_weight, p.key_weight); }

    // LatentParameters. `layers` is where those of the layers are put, and stays as long as the call.
    void into(LatentTransformer<T>& p, std::vector<LatentLayer<T>>& layers) {
        layers.resize(static_cast<size_t>(p.layers));
        p.layer = layers.data();
        take(p.read_value_weight, p.read_output_weight, p.read_output_bias);
        into(p.read_ffn);
        for (LatentLayer<T>& layer : layers) {
            take(layer.norm_weight, layer.norm_bias, layer.query_key_value_weight, layer.output_weight,
                 layer.output_bias);
            into(layer.ffn);
        }
        take(p.write_norm_weight, p.write_norm_bias, p.write_key_weight, p.write_value_weight, p.write_query_weight,
             p.write_output_weight);
    }

    // Pass 2 takes the shift that is made by the other call, which has to know where to.
    void into(FilmForecast<T>& film, FilmShift<T>& shift) {
        FilmParameters<const T>& p = film.parameters;
        take(p.attention_bias, p.query_norm_weight, p.query_norm_bias, p.ffn_norm_weight, p.ffn_norm_bias,
             p.ffn_in_weight, p.ffn_in_bias, p.ffn_out_weight, p.ffn_out_bias, p.scale_weight, p.scale_bias,
             shift.shift_weight, shift.shift_bias, p.in_weight, p.in_bias, shift.output_weight, shift.output_bias);
        p.shift_weight = shift.weight;
        p.shift_bias = shift.bias;
        p.out_weight = shift.output_weight;
    }

private:
    void into(FeedForward<T>& p) { take(p.norm_weight, p.norm_bias, p.in_weight, p.in_bias, p.out_weight, p.out_bias); }

    template <typename... To>
    void take(To&... to) {
        ((to = *next_++), ...);
    }

    const T* const* next_;
};

}  // namespace poco
