#include "stream/network.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "core/errors.h"
#include "cpu/dispatch.h"
#include "cpu/inference_calls.h"
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
Buffer<T> in_type(const Floats& values) {
    Buffer<T> to(values.size());
    std::transform(values.begin(), values.end(), to.begin(), from_float<T>);
    return to;
}

template <typename T>
std::vector<Buffer<T>> all_in_type(const std::vector<Floats>& all) {
    std::vector<Buffer<T>> to;
    for (const Floats& values : all) to.push_back(in_type<T>(values));
    return to;
}

// Every row with another one added; empty: nothing.
Floats shifted(Floats rows, const Floats& by) {
    for (size_t i = 0; i < rows.size() && !by.empty(); ++i) rows[i] += by[i % by.size()];
    return rows;
}

Buffer<int32_t> counted(int64_t count) {
    Buffer<int32_t> to(static_cast<size_t>(count));
    std::iota(to.begin(), to.end(), 0);
    return to;
}

template <typename T>
class NetworkForecaster : public Forecaster {
public:
    NetworkForecaster(const Network& n, const Floats& table, const Floats& latent_shift, const Arithmetic& arithmetic)
        : kernels_(cpu_kernels().passes<T>()),
          units_(static_cast<int64_t>(table.size()) / n.width),
          context_(n.context),
          seen_(n.seen),
          spin_(arithmetic.spin),
          table_(in_type<T>(table)),
          initial_(in_type<T>(shifted(n.initial, latent_shift))),
          parameters_(all_in_type<T>(n.parameters)),
          x_(static_cast<size_t>(units_ * seen_)),
          part_(x_.size()),
          forecast_(static_cast<size_t>(units_ * n.horizon)),
          index_(counted(units_)),
          part_index_(index_.size()),
          offsets_{0, static_cast<int32_t>(units_)},
          in_(x_.data()),
          calls_(all_units(n, arithmetic.threads)) {
        calls_.pool.window_offsets = pool_offsets_;
        kernels_.latent_queries(calls_.asking);
        kernels_.film_shift(calls_.shift);
        if (arithmetic.gpu >= 0) {
            gpu_ =
                cuda_passes<T>(cuda_driver(), cuda_image(), arithmetic.gpu, calls_.pool, calls_.between, calls_.film);
            in_ = gpu_->x;
            calls_.film.x = in_;
            check_gpu();
        }
    }

    void forecast(const float* x, const uint8_t* seen, float* forecast) override {
        for (int64_t u = 0; u < units_; ++u) {
            const float* const from = x + u * context_ + context_ - seen_;
            T* const to = in_ + u * seen_;
            for (int64_t t = 0; t < seen_; ++t) to[t] = from_float<T>(from[t]);
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
        LatentPool<T>& pool = calls_.pool;
        int64_t present = 0;
        for (int64_t u = 0; u < units_; ++u) present += seen[u] != 0;
        pool.rows = present;
        if (present == units_) {
            pool.x = in_;
            pool.unit_index = index_.data();
        } else {
            int64_t row = 0;
            for (int64_t u = 0; u < units_; ++u) {
                if (seen[u] == 0) continue;
                std::memcpy(part_.data() + row * seen_, in_ + u * seen_, static_cast<size_t>(seen_) * sizeof(T));
                part_index_[static_cast<size_t>(row++)] = static_cast<int32_t>(u);
            }
            pool.x = part_.data();
            pool.unit_index = part_index_.data();
        }
        pool_offsets_[1] = static_cast<int32_t>(present);
        kernels_.latent_pool(pool);
        kernels_.latent_transformer(calls_.between);
        kernels_.film_forecast(calls_.film);
    }

    // A GPU is trusted once it has forecast a made-up window, some units left out, as the processor does.
    void check_gpu() {
        for (int64_t i = 0; i < units_ * seen_; ++i)
            in_[i] = from_float<T>(std::sin(0.37f * static_cast<float>(i % 9973)));
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

    // One window of all units in their order.
    Inference<T> all_units(const Network& n, int threads) {
        Inference<T> call{n};
        call.rows = call.units = units_;
        call.windows = call.initial_windows = 1;
        call.threads = threads;
        call.x = in_;
        call.unit_index = index_.data();
        call.window_offsets = offsets_;
        call.unit_table = table_.data();
        call.initial = initial_.data();
        call.frequencies = n.frequencies.data();
        for (const Buffer<T>& parameter : parameters_) call.parameters.push_back(parameter.data());
        call.forecast = forecast_.data();
        return call;
    }

    const Passes<T>& kernels_;
    std::unique_ptr<CudaPasses<T>> gpu_;  // nullptr: the processor forecasts
    int64_t units_, context_, seen_;
    bool spin_;
    Buffer<T> table_, initial_;
    std::vector<Buffer<T>> parameters_;
    Buffer<T> x_, part_, forecast_;
    Buffer<int32_t> index_, part_index_;
    int32_t offsets_[2], pool_offsets_[2] = {0, 0};
    T* in_;  // [N, seen]
    InferenceCalls<T> calls_;
};

}  // namespace

Network::Network(const Json& config, const SafeTensors& tensors, const std::string& prefix) {
    eps = 1e-5f;  // of torch's layer normalisation
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
