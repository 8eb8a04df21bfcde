#include "stream/network.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/errors.h"
#include "cpu/dispatch.h"
#include "cpu/inference.h"
#include "cuda/passes.h"

namespace poco {
namespace {

int64_t size_of(const Json& config, const std::string& name, int64_t least, int64_t most) {
    const int64_t value = config.at(name).integer();
    if (value < least || value > most) fail("the model's ", name, " is ", value, ", and must be ", least, " to ", most);
    return value;
}

int64_t size_or(const Json& config, const std::string& name, int64_t otherwise, int64_t least, int64_t most) {
    const Json* const value = config.find(name);
    return value == nullptr || value->is_null() ? otherwise : size_of(config, name, least, most);
}

template <typename T>
Buffer<T> in_type(const Floats& values);

template <>
Floats in_type<float>(const Floats& values) {
    return values;
}

template <>
Buffer<Bfloat16> in_type<Bfloat16>(const Floats& values) {
    Buffer<Bfloat16> low(values.size());
    std::transform(values.begin(), values.end(), low.begin(), to_bfloat16);
    return low;
}

inline void store(float value, float& to) {
    to = value;
}
inline void store(float value, Bfloat16& to) {
    to = to_bfloat16(value);
}

// Takes parameters one after another.
template <typename T>
class Next {
public:
    explicit Next(const std::vector<Buffer<T>>& from) : from_(from) {}

    template <typename... To>
    void into(To&... to) {
        ((to = from_[at_++].data()), ...);
    }
    void into(FeedForward<T>& p) { into(p.norm_weight, p.norm_bias, p.in_weight, p.in_bias, p.out_weight, p.out_bias); }

private:
    const std::vector<Buffer<T>>& from_;
    size_t at_ = 0;
};

template <typename T>
class NetworkForecaster : public Forecaster {
public:
    NetworkForecaster(const Network& n, const Floats& table, const Floats& latent_shift, const Arithmetic& arithmetic)
        : kernels_(cpu_kernels().passes<T>()),
          units_(static_cast<int64_t>(table.size()) / n.width),
          context_(n.context),
          seen_(n.seen),
          spin_(arithmetic.spin),
          frequencies_(n.frequencies),
          table_(in_type<T>(table)) {
        for (const Floats& parameter : n.parameters) parameters_.push_back(in_type<T>(parameter));
        Floats initial = n.initial;
        for (size_t i = 0; i < initial.size() && !latent_shift.empty(); ++i) {
            initial[i] += latent_shift[i % static_cast<size_t>(n.width)];
        }
        initial_ = in_type<T>(initial);
        layers_.resize(static_cast<size_t>(n.layers));
        const auto rows = static_cast<size_t>(units_), latents = static_cast<size_t>(n.latents * n.width);
        x_.resize(rows * static_cast<size_t>(seen_));
        part_.resize(x_.size());
        forecast_.resize(rows * static_cast<size_t>(n.horizon));
        index_.resize(rows);
        part_index_.resize(rows);
        for (size_t i = 0; i < rows; ++i) index_[i] = static_cast<int32_t>(i);
        offsets_[1] = static_cast<int32_t>(units_);
        pooled_.resize(static_cast<size_t>(n.segments) * latents);
        logsumexp_.resize(static_cast<size_t>(n.latents));
        keys_.resize(latents);
        values_.resize(latents);
        queries_.resize(static_cast<size_t>(n.segments) * latents);
        shift_weight_.resize(static_cast<size_t>(n.horizon * n.width));
        shift_bias_.resize(static_cast<size_t>(n.horizon));
        prepare(n, arithmetic.threads);
        if (arithmetic.gpu >= 0) {
            gpu_ = cuda_passes<T>(cuda_driver(), cuda_image(), arithmetic.gpu, pool_, between_, film_);
            in_ = gpu_->x;
            film_.x = in_;
            check_gpu();
        }
    }

    void forecast(const float* x, const uint8_t* seen, float* forecast) override {
        for (int64_t u = 0; u < units_; ++u) {
            const float* const from = x + u * context_ + context_ - seen_;
            T* const to = in_ + u * seen_;
            for (int64_t t = 0; t < seen_; ++t) store(from[t], to[t]);
        }
        if (gpu_ != nullptr) {
            std::copy_n(seen, units_, gpu_->seen);
            gpu_->run(spin_);
        } else {
            by_processor(seen);
        }
        const T* const made = gpu_ != nullptr ? gpu_->forecast : forecast_.data();
        for (size_t i = 0; i < forecast_.size(); ++i) forecast[i] = to_float(made[i]);
    }

private:
    // From in_ to forecast_.
    void by_processor(const uint8_t* seen) {
        int64_t present = 0;
        for (int64_t u = 0; u < units_; ++u) present += seen[u] != 0;
        pool_.rows = present;
        if (present == units_) {
            pool_.x = in_;
            pool_.unit_index = index_.data();
        } else {
            int64_t row = 0;
            for (int64_t u = 0; u < units_; ++u) {
                if (seen[u] == 0) continue;
                std::memcpy(part_.data() + row * seen_, in_ + u * seen_, static_cast<size_t>(seen_) * sizeof(T));
                part_index_[static_cast<size_t>(row++)] = static_cast<int32_t>(u);
            }
            pool_.x = part_.data();
            pool_.unit_index = part_index_.data();
        }
        pool_offsets_[1] = static_cast<int32_t>(present);
        kernels_.latent_pool(pool_);
        kernels_.latent_transformer(between_);
        kernels_.film_forecast(film_);
    }

    // A GPU is trusted once it has forecast a made-up window, some units left out, as the processor does.
    void check_gpu() {
        for (int64_t i = 0; i < units_ * seen_; ++i) store(std::sin(0.37f * static_cast<float>(i % 9973)), in_[i]);
        for (int64_t u = 0; u < units_; ++u) gpu_->seen[u] = u % 5 != 1;
        by_processor(gpu_->seen);
        gpu_->run(spin_);
        float most = 0;
        for (const T& value : forecast_) most = std::max(most, std::abs(to_float(value)));
        for (size_t i = 0; i < forecast_.size(); ++i) {
            const float wanted = to_float(forecast_[i]), found = to_float(gpu_->forecast[i]);
            if (std::abs(found - wanted) <= kTolerance * most) continue;
            fail<GpuError>("the GPU forecasts ", found, " where the processor forecasts ", wanted,
                           ": it is not used. Please report this, with the model, the GPU and its driver");
        }
    }

    // Of a forecast by a GPU, over the largest of all.
    static constexpr float kTolerance = sizeof(T) == sizeof(float) ? 1e-4f : 5e-2f;

    template <typename Call>
    void sizes(const Network& n, int threads, Call& call) {
        call.windows = 1;
        call.latents = n.latents;
        call.width = n.width;
        call.eps = n.eps;
        call.threads = threads;
    }

    // All that does not depend on a frame: the queries, the folded shift, and what the kernels are called with.
    void prepare(const Network& n, int threads) {
        Next<T> next(parameters_);
        sizes(n, threads, pool_);
        pool_.units = units_;
        pool_.segments = n.segments;
        pool_.segment_length = n.segment_length;
        pool_.query_windows = 1;
        pool_.window_offsets = pool_offsets_;
        pool_.unit_table = table_.data();
        next.into(pool_.token_weight, pool_.token_bias, pool_.norm_weight, pool_.norm_bias);
        pool_.queries = queries_.data();
        pool_.pooled = pooled_.data();
        pool_.logsumexp = logsumexp_.data();

        LatentQueries<T> asking;
        sizes(n, threads, asking);
        asking.segments = n.segments;
        asking.head_width = n.head_width;
        asking.context = n.seen;
        asking.frequencies = frequencies_.data();
        asking.initial = initial_.data();
        next.into(asking.norm_weight, asking.norm_bias, asking.query_weight, asking.key_weight);
        asking.queries = queries_.data();
        kernels_.latent_queries(asking);

        sizes(n, threads, between_);
        between_.initial_windows = 1;
        between_.segments = n.segments;
        between_.head_width = n.head_width;
        between_.heads = n.heads;
        between_.ffn_width = n.ffn_width;
        between_.layers = n.layers;
        between_.context = n.seen;
        between_.frequencies = frequencies_.data();
        between_.pooled = pooled_.data();
        between_.initial = initial_.data();
        between_.layer = layers_.data();
        between_.keys = keys_.data();
        between_.values = values_.data();
        next.into(between_.read_value_weight, between_.read_output_weight, between_.read_output_bias);
        next.into(between_.read_ffn);
        for (LatentLayer<T>& layer : layers_) {
            next.into(layer.norm_weight, layer.norm_bias, layer.query_key_value_weight, layer.output_weight,
                      layer.output_bias);
            next.into(layer.ffn);
        }
        next.into(between_.write_norm_weight, between_.write_norm_bias, between_.write_key_weight,
                  between_.write_value_weight, between_.write_query_weight, between_.write_output_weight);

        sizes(n, threads, film_);
        film_.rows = film_.units = units_;
        film_.context = n.seen;
        film_.horizon = n.horizon;
        film_.ffn_width = n.ffn_width;
        film_.film_width = n.film_width;
        in_ = x_.data();
        film_.x = in_;
        film_.unit_index = index_.data();
        film_.window_offsets = offsets_;
        film_.unit_table = table_.data();
        film_.keys = keys_.data();
        film_.values = values_.data();
        film_.forecast = forecast_.data();
        FilmParameters<const T>& p = film_.parameters;
        next.into(p.attention_bias, p.query_norm_weight, p.query_norm_bias, p.ffn_norm_weight, p.ffn_norm_bias,
                  p.ffn_in_weight, p.ffn_in_bias, p.ffn_out_weight, p.ffn_out_bias, p.scale_weight, p.scale_bias);
        FilmShift<T> shift;
        shift.horizon = n.horizon;
        shift.film_width = n.film_width;
        shift.width = n.width;
        shift.threads = threads;
        next.into(shift.shift_weight, shift.shift_bias, p.in_weight, p.in_bias, shift.output_weight, shift.output_bias);
        shift.weight = shift_weight_.data();
        shift.bias = shift_bias_.data();
        kernels_.film_shift(shift);
        p.shift_weight = shift_weight_.data();
        p.shift_bias = shift_bias_.data();
        p.out_weight = shift.output_weight;
    }

    const Passes<T>& kernels_;
    std::unique_ptr<CudaPasses<T>> gpu_;  // nullptr: the processor forecasts
    T* in_ = nullptr;                     // [N, seen]
    int64_t units_, context_, seen_;
    bool spin_;
    Floats frequencies_;
    Buffer<T> table_, initial_, x_, part_, forecast_, keys_, values_, queries_, shift_weight_, shift_bias_;
    std::vector<Buffer<T>> parameters_;
    std::vector<LatentLayer<T>> layers_;
    Buffer<int32_t> index_, part_index_;
    int32_t offsets_[2] = {0, 0}, pool_offsets_[2] = {0, 0};
    Floats pooled_, logsumexp_;
    LatentPool<T> pool_;
    LatentTransformer<T> between_;
    FilmForecast<T> film_;
};

}  // namespace

Network::Network(const Json& config, const SafeTensors& tensors, const std::string& prefix) {
    constexpr int64_t kMost = 1 << 20;
    context = size_of(config, "context", 1, kMost);
    seen = size_or(config, "decoder_context", context, 1, context);
    horizon = size_of(config, "horizon", 1, kMost);
    segment_length = size_of(config, "segment_length", 1, seen);
    if (seen % segment_length != 0) fail("the model's segment_length does not divide the frames that it looks at");
    segments = seen / segment_length;
    latents = size_of(config, "latents", 1, 4096);
    width = size_of(config, "width", 1, 8192);
    layers = size_of(config, "layers", 0, 1024);
    heads = size_of(config, "heads", 1, 4096);
    head_width = size_of(config, "head_width", 4, 8192);
    if (head_width % 4 != 0) fail("the model's head_width must be a multiple of 4");
    ffn_width = size_or(config, "ffn_width", 4 * width, 1, kMost);
    film_width = size_of(config, "film_width", 0, kMost);
    if (film_width == 0 || size_or(config, "film_depth", 1, 1, kMost) != 1) {
        fail("a model without a FiLM layer, or with a deeper one, cannot be streamed");
    }
    const int64_t d = width, dh = head_width, inner = heads * head_width, f = ffn_width, k = film_width;
    initial = tensors.floats(prefix + "latents", {latents, d});
    frequencies = tensors.floats(prefix + "rotary.frequencies", {dh / 4});

    const auto take = [&](const std::string& name, const std::vector<int64_t>& shape) {
        parameters.push_back(tensors.floats(prefix + name, shape));
    };
    const auto affine = [&](const std::string& name, const std::vector<int64_t>& shape) {
        take(name + ".weight", shape);
        take(name + ".bias", {shape[0]});
    };
    const auto feed_forward = [&](const std::string& name) {
        affine(name + ".norm", {d});
        affine(name + ".input", {2 * f, d});
        affine(name + ".output", {d, f});
    };
    affine("token", {d, segment_length});
    affine("encoder.context_norm", {d});
    affine("encoder.query_norm", {d});
    take("encoder.query.weight", {dh, d});
    take("encoder.key.weight", {dh, d});
    take("encoder.value.weight", {dh, d});
    affine("encoder.output", {d, dh});
    feed_forward("encoder_ffn");
    for (int64_t i = 0; i < layers; ++i) {
        const std::string layer = "layers." + std::to_string(i);
        affine(layer + ".attention.norm", {d});
        take(layer + ".attention.query_key_value.weight", {3 * inner, d});
        affine(layer + ".attention.output", {d, inner});
        feed_forward(layer + ".ffn");
    }
    affine("decoder.context_norm", {d});
    for (const char* const name : {"key", "value", "query"}) {
        take(std::string("decoder.") + name + ".weight", {dh, d});
    }
    take("decoder.output.weight", {d, dh});
    take("decoder.output.bias", {d});
    affine("decoder.query_norm", {d});
    feed_forward("decoder_ffn");
    affine("film.scale", {k, d});
    affine("film.shift", {k, d});
    affine("film.input", {k, seen});
    affine("film.output", {horizon, k});
}

std::unique_ptr<Forecaster> network_forecaster(const Network& network, const Floats& table, const Floats& latent_shift,
                                               const Arithmetic& arithmetic) {
    if (arithmetic.bfloat16) {
        return std::make_unique<NetworkForecaster<Bfloat16>>(network, table, latent_shift, arithmetic);
    }
    return std::make_unique<NetworkForecaster<float>>(network, table, latent_shift, arithmetic);
}

}  // namespace poco
