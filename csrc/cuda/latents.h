// What happens to the latents between the passes, as kernels of one graph.
#pragma once

#include <cmath>
#include <string>
#include <type_traits>
#include <vector>

#include "cpu/kernels.h"
#include "cpu/latent_time.h"
#include "cuda/weights.h"

namespace poco {

// The name of a kernel of which there is one for every type.
template <typename T>
std::string typed(const char* kernel) {
    return std::string(kernel) + (std::is_same_v<T, float> ? "_float32" : "_bfloat16");
}

template <typename T>
class CudaLatents {
public:
    float *pooled, *keys, *values;  // [S, Q, d] in; [Q, d] out

    // Copies the parameters and takes memory.
    CudaLatents(Gpu& gpu, const LatentTransformer<T>& c)
        : gpu_(gpu),
          weights_(gpu),
          latents_(static_cast<int>(c.latents)),
          segments_(static_cast<int>(c.segments)),
          d_(static_cast<int>(c.width)),
          dh_(static_cast<int>(c.head_width)),
          half_(cuda::whole(dh_, cuda::kTile)),
          heads_(static_cast<int>(c.heads)),
          f_(static_cast<int>(c.ffn_width)),
          eps_(c.eps) {
        const int64_t q = latents_, inner = c.heads * c.head_width;
        pooled = gpu.room<float>(segments_ * q * d_);
        keys = gpu.room<float>(q * d_);
        values = gpu.room<float>(q * d_);
        state_ = gpu.room<float>(q * d_);
        hidden_ = gpu.room<float>(q * f_);
        read_ = gpu.room<float>(segments_ * q * dh_);
        head_ = gpu.room<float>(q * dh_);
        asked_ = gpu.room<float>(q * 3 * inner);
        attended_ = gpu.room<float>(q * inner);
        both_ = gpu.room<float>(q * 2 * half_);
        initial_ = weights_.vector({c.initial}, q * d_);

        read_value_ = layer(c.read_value_weight, dh_, d_);
        read_output_ = layer(c.read_output_weight, d_, dh_, c.read_output_bias);
        read_ffn_ = ffn(c.read_ffn);
        for (int64_t i = 0; i < c.layers; ++i) {
            const LatentLayer<T>& from = c.layer[i];
            layers_.push_back({normalised(layer(from.query_key_value_weight, static_cast<int>(3 * inner), d_),
                                          from.norm_weight, from.norm_bias),
                               layer(from.output_weight, d_, static_cast<int>(inner), from.output_bias),
                               ffn(from.ffn)});
        }
        write_both_ = normalised({weights_.weight({c.write_key_weight, c.write_value_weight}, dh_, d_, cuda::kTile),
                                  nullptr, nullptr, nullptr, 2 * half_, d_, 2 * half_, 0},
                                 c.write_norm_weight, c.write_norm_bias);
        write_query_ = plain(weights_.turned_weight(c.write_query_weight, d_, dh_, cuda::kTile), d_, dh_);
        write_output_ = layer(c.write_output_weight, d_, dh_);

        // As cpu/kernels.h has it: segment s is at time s * C / S, and the units ask at C.
        const auto context = static_cast<double>(c.context), length = context / static_cast<double>(segments_);
        const auto time = [&](int64_t m) { return latent_time(m, c.latents, c.context); };
        apart_ = turns(c, segments_ * q, [&](int64_t i) { return time(i % q) - static_cast<double>(i / q) * length; });
        latent_ = turns(c, q, time);
        ahead_ = turns(c, q, [&](int64_t m) { return time(m) - context; });
    }

    // Queues all kernels from `pooled` to `keys` and `values`.
    void queue() const {
        product(read_value_, segments_ * latents_, pooled, d_, nullptr, read_);
        turn_and_add(segments_, read_, dh_, -1, 1, apart_, head_);
        product(read_output_, latents_, head_, dh_, initial_, state_);
        feed_forward(read_ffn_);
        for (const SelfAttention& layer : layers_) {
            product(layer.ask, latents_, state_, d_, nullptr, asked_);
            const cuda::Attend attention{latents_, heads_, dh_, asked_, latent_.cosine, latent_.sine, attended_};
            gpu_.launch("poco_attend", attention, latents_, heads_, 4 * cuda::attend_floats(latents_, dh_));
            product(layer.answer, latents_, attended_, heads_ * dh_, state_, state_);
            feed_forward(layer.ffn);
        }
        product(write_both_, latents_, state_, d_, nullptr, both_);
        turn_and_add(1, both_, 2 * half_, 1, 1 / std::sqrt(static_cast<float>(dh_)), ahead_, head_);
        product(write_query_, latents_, head_, dh_, nullptr, keys);
        product(write_output_, latents_, both_ + half_, 2 * half_, nullptr, values);
    }

private:
    struct Layer {
        const T* weight;
        const float *bias, *norm_weight, *norm_bias;
        int columns, inner, row, gate;
    };
    struct Ffn {
        Layer in, out;
    };
    struct SelfAttention {
        Layer ask, answer;
        Ffn ffn;
    };
    struct Turns {
        const float *cosine, *sine;
    };

    // A product with a weight that is on the GPU.
    static Layer plain(const T* weight, int columns, int inner) {
        return {weight, nullptr, nullptr, nullptr, columns, inner, cuda::whole(columns, cuda::kTile), 0};
    }

    Layer layer(const T* weight, int columns, int inner, const T* bias = nullptr) const {
        Layer to = plain(weights_.weight({weight}, columns, inner, cuda::kTile), columns, inner);
        if (bias != nullptr) to.bias = weights_.vector({bias}, columns);
        return to;
    }

    Layer normalised(Layer to, const T* norm_weight, const T* norm_bias) const {
        to.norm_weight = weights_.vector({norm_weight}, d_);
        to.norm_bias = weights_.vector({norm_bias}, d_);
        return to;
    }

    Ffn ffn(const FeedForward<T>& from) const {
        const int half = cuda::whole(f_, cuda::kTile);
        const T* const gate = from.in_weight + static_cast<int64_t>(f_) * d_;
        const Layer in{weights_.weight({from.in_weight, gate}, f_, d_, cuda::kTile),
                       weights_.vector({from.in_bias, from.in_bias + f_}, f_, cuda::kTile),
                       nullptr,
                       nullptr,
                       f_,
                       d_,
                       2 * half,
                       half};
        return {normalised(in, from.norm_weight, from.norm_bias), layer(from.out_weight, d_, f_, from.out_bias)};
    }

    template <typename Time>
    Turns turns(const LatentTransformer<T>& c, int64_t count, const Time& time) const {
        const int64_t pairs = c.head_width / 4;
        Floats cosine(static_cast<size_t>(count * pairs)), sine(cosine.size());
        for (int64_t i = 0; i < count * pairs; ++i) {
            const double angle = time(i / pairs) * static_cast<double>(c.frequencies[i % pairs]);
            cosine[static_cast<size_t>(i)] = static_cast<float>(std::cos(angle));
            sine[static_cast<size_t>(i)] = static_cast<float>(std::sin(angle));
        }
        return {gpu_.copy(cosine), gpu_.copy(sine)};
    }

    void product(const Layer& by, int tokens, const float* in, int in_row, const float* base, float* out) const {
        const cuda::TokenProduct<T> call{tokens,       by.inner,  by.columns, by.row, in_row,
                                         by.columns,   by.gate,   eps_,       in,     by.norm_weight,
                                         by.norm_bias, by.weight, by.bias,    base,   out};
        gpu_.launch(typed<T>("poco_token_product"), call, (by.columns + cuda::kTile - 1) / cuda::kTile,
                    (tokens + cuda::kTokensAtOnce - 1) / cuda::kTokensAtOnce, 4 * cuda::kTokenFloats);
    }

    void turn_and_add(int segments, const float* in, int in_row, float way, float factor, const Turns& by,
                      float* out) const {
        const cuda::TurnedSum call{segments, latents_, dh_, in_row, way, factor, in, by.cosine, by.sine, out};
        const int64_t threads = static_cast<int64_t>(latents_) * (dh_ - dh_ / 4);
        gpu_.launch("poco_turned_sum", call, (threads + cuda::kThreads - 1) / cuda::kThreads, 1, 0);
    }

    void feed_forward(const Ffn& by) const {
        product(by.in, latents_, state_, d_, nullptr, hidden_);
        product(by.out, latents_, hidden_, f_, state_, state_);
    }

    Gpu& gpu_;
    CudaWeights<T> weights_;
    int latents_, segments_, d_, dh_, half_, heads_, f_;  // half_: of both_, a key and its value in a row
    float eps_;
    float *state_, *hidden_, *read_, *head_, *asked_, *attended_, *both_;
    const float* initial_;
    Layer read_value_, read_output_, write_both_, write_query_, write_output_;
    Ffn read_ffn_;
    std::vector<SelfAttention> layers_;
    Turns apart_, latent_, ahead_;
};

}  // namespace poco
