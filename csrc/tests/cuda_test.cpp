// The CUDA kernels and what queues them, on the emulator: against the kernels of the processor, for odd sizes, with
// units left out, in any order of threads, and without a trace left behind.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>
#include <vector>

#include "check.h"
#include "core/errors.h"
#include "cpu/dispatch.h"
#include "cuda/passes.h"
#include "cuda_emulator.h"
#include "model_files.h"
#include "stream/stream.h"

// What kernels.cu has for nvcc.
namespace poco {
namespace cuda {

inline unsigned char* block_memory() {
    return emulated_block_memory();
}
inline float wide(Bfloat16 value) {
    return to_float(value);
}
inline void narrow(float value, Bfloat16& to) {
    to = to_bfloat16(value);
}

// Tensor cores work for a whole warp: its first lane does.
inline void tile_product(const Bfloat16* a, int a_row, const Bfloat16* b, int b_row, float* c, int c_row, int inner,
                         bool more) {
    if (threadIdx.x % 32 != 0) return;
    for (int i = 0; i < 16; ++i) {
        for (int j = 0; j < 32; ++j) {
            float sum = more ? c[i * c_row + j] : 0;
            for (int k = 0; k < inner; ++k) sum += to_float(a[i * a_row + k]) * to_float(b[k * b_row + j]);
            c[i * c_row + j] = sum;
        }
    }
}

}  // namespace cuda

// Streams find the emulator where they look for a driver.
const CudaDriver& cuda_driver() {
    return emulated_driver(160 * 1024, 2);
}
const void* cuda_image() {
    return "an image";
}

}  // namespace poco

#include "cuda/kernels.h"

namespace {

using namespace poco;

constexpr int kShared = 160 * 1024;
constexpr int64_t kWide = 100;  // wider networks take their time
const char kImage[] = "an image";

template <typename Call, void (*kBody)(const Call&)>
void add_kernel(const char* name) {
    add_emulated_kernel(name, [](const void* call) { kBody(*static_cast<const Call*>(call)); }, sizeof(Call));
}

void add_kernels() {
    using namespace poco::cuda;
    add_kernel<PoolParts<float>, pool_parts<float>>("poco_pool_parts_float32");
    add_kernel<PoolParts<Bfloat16>, pool_parts<Bfloat16>>("poco_pool_parts_bfloat16");
    add_kernel<PoolMerge, pool_merge>("poco_pool_merge");
    add_kernel<TokenProduct<float>, token_product<float>>("poco_token_product_float32");
    add_kernel<TokenProduct<Bfloat16>, token_product<Bfloat16>>("poco_token_product_bfloat16");
    add_kernel<TurnedSum, turned_sum>("poco_turned_sum");
    add_kernel<Attend, attend>("poco_attend");
    add_kernel<Film<float>, film_forecast<float>>("poco_film_forecast_float32");
    add_kernel<Film<Bfloat16>, film_forecast<Bfloat16>>("poco_film_forecast_bfloat16");
}

struct Sizes {
    int64_t units, segments, length, width, latents, head_width, heads, ffn_width, layers, film_width, horizon;
};

// A network of random weights: what the passes are called with, and the memory that these calls point to.
template <typename T>
class RandomNetwork {
public:
    // `low`: of numbers that bfloat16 has.
    explicit RandomNetwork(const Sizes& s, bool low) : sizes(s), low_(low) {
        const int64_t n = s.units, d = s.width, q = s.latents, dh = s.head_width, f = s.ffn_width, k = s.film_width,
                      h = s.horizon, context = s.segments * s.length, inner = s.heads * dh;
        for (int64_t i = 0; i < dh / 4; ++i) frequencies.push_back(0.9f / static_cast<float>(i + 1));
        index.resize(static_cast<size_t>(n));
        for (int64_t i = 0; i < n; ++i) index[static_cast<size_t>(i)] = static_cast<int32_t>(i);
        const T *table = make(n * d, 1), *x = make(n * context, 1), *initial = make(q * d, 1);
        pooled.resize(static_cast<size_t>(s.segments * q * d));
        logsumexp.resize(static_cast<size_t>(q));
        queries.resize(pooled.size());
        keys.resize(static_cast<size_t>(q * d));
        values.resize(keys.size());
        forecast.resize(static_cast<size_t>(n * h));

        LatentQueries<T> asking;
        same(asking);
        asking.segments = s.segments;
        asking.head_width = dh;
        asking.context = context;
        asking.frequencies = frequencies.data();
        asking.initial = initial;
        norm(asking.norm_weight, asking.norm_bias);
        asking.query_weight = weight(dh, d);
        asking.key_weight = weight(dh, d);
        asking.queries = queries.data();
        cpu_kernels().passes<T>().latent_queries(asking);

        same(pool);
        pool.rows = pool.units = n;
        pool.segments = s.segments;
        pool.segment_length = s.length;
        pool.query_windows = 1;
        pool.x = x;
        pool.unit_index = index.data();
        pool.window_offsets = offsets;
        pool.unit_table = table;
        pool.token_weight = weight(d, s.length);
        pool.token_bias = make(d, 0.5f);
        norm(pool.norm_weight, pool.norm_bias);
        pool.queries = queries.data();
        pool.pooled = pooled.data();
        pool.logsumexp = logsumexp.data();
        offsets[1] = static_cast<int32_t>(n);

        same(between);
        between.initial_windows = 1;
        between.segments = s.segments;
        between.head_width = dh;
        between.heads = s.heads;
        between.ffn_width = f;
        between.layers = s.layers;
        between.context = context;
        between.frequencies = frequencies.data();
        between.pooled = pooled.data();
        between.initial = initial;
        between.read_value_weight = weight(dh, d);
        between.read_output_weight = weight(d, dh);
        between.read_output_bias = make(d, 0.3f);
        ffn(between.read_ffn);
        layers.resize(static_cast<size_t>(s.layers));
        for (LatentLayer<T>& layer : layers) {
            norm(layer.norm_weight, layer.norm_bias);
            layer.query_key_value_weight = weight(3 * inner, d);
            layer.output_weight = weight(d, inner);
            layer.output_bias = make(d, 0.3f);
            ffn(layer.ffn);
        }
        between.layer = layers.data();
        norm(between.write_norm_weight, between.write_norm_bias);
        between.write_key_weight = weight(dh, d);
        between.write_value_weight = weight(dh, d);
        between.write_query_weight = weight(dh, d);
        between.write_output_weight = weight(d, dh);
        between.keys = keys.data();
        between.values = values.data();

        same(film);
        film.rows = film.units = n;
        film.context = context;
        film.horizon = h;
        film.ffn_width = f;
        film.film_width = k;
        film.x = x;
        film.unit_index = index.data();
        film.window_offsets = offsets;
        film.unit_table = table;
        film.keys = keys.data();
        film.values = values.data();
        FilmParameters<const T>& p = film.parameters;
        p.attention_bias = make(d, 0.3f);
        norm(p.query_norm_weight, p.query_norm_bias);
        norm(p.ffn_norm_weight, p.ffn_norm_bias);
        p.ffn_in_weight = weight(2 * f, d);
        p.ffn_in_bias = make(2 * f, 0.3f);
        p.ffn_out_weight = weight(d, f);
        p.ffn_out_bias = make(d, 0.3f);
        p.scale_weight = weight(k, d);
        p.scale_bias = make(k, 0.3f);
        p.shift_weight = weight(h, d);
        p.shift_bias = make(h, 0.3f);
        p.in_weight = weight(k, context);
        p.in_bias = make(k, 0.3f);
        p.out_weight = weight(h, k);
        film.forecast = forecast.data();
    }

    // The forecast by the processor of the units that are seen.
    std::vector<float> by_processor(const std::vector<uint8_t>& seen) {
        const int64_t context = film.context;
        std::vector<T> x;
        std::vector<int32_t> present;
        for (int64_t u = 0; u < sizes.units; ++u) {
            if (seen[static_cast<size_t>(u)] == 0) continue;
            present.push_back(static_cast<int32_t>(u));
            x.insert(x.end(), film.x + u * context, film.x + (u + 1) * context);
        }
        LatentPool<T> call = pool;
        const int32_t of_present[2] = {0, static_cast<int32_t>(present.size())};
        call.rows = of_present[1];
        call.x = x.data();
        call.unit_index = present.data();
        call.window_offsets = of_present;
        const Passes<T>& kernels = cpu_kernels().passes<T>();
        kernels.latent_pool(call);
        kernels.latent_transformer(between);
        kernels.film_forecast(film);
        return numbers(forecast.data());
    }

    std::vector<float> numbers(const T* from) const {
        std::vector<float> to;
        for (size_t i = 0; i < forecast.size(); ++i) to.push_back(to_float(from[i]));
        return to;
    }

    Sizes sizes;
    LatentPool<T> pool;
    LatentTransformer<T> between;
    FilmForecast<T> film;

private:
    template <typename Call>
    void same(Call& call) const {
        call.windows = 1;
        call.latents = sizes.latents;
        call.width = sizes.width;
        call.eps = 1e-5f;
    }
    const T* make(int64_t count, float size, float around = 0) {
        auto block = std::make_unique<T[]>(static_cast<size_t>(count));
        for (int64_t i = 0; i < count; ++i) {
            state_ = state_ * 6364136223846793005ull + 1442695040888963407ull;
            const float value = around + size * (static_cast<float>(state_ >> 40) / 8388608.0f - 1.0f);
            block[static_cast<size_t>(i)] = from_float<T>(low_ ? to_float(to_bfloat16(value)) : value);
        }
        blocks_.push_back(std::move(block));
        return blocks_.back().get();
    }
    const T* weight(int64_t columns, int64_t inner) {
        return make(columns * inner, 1 / std::sqrt(static_cast<float>(inner)));
    }
    void norm(const T*& scale, const T*& bias) {
        scale = make(sizes.width, 0.3f, 1);
        bias = make(sizes.width, 0.3f);
    }
    void ffn(FeedForward<T>& to) {
        norm(to.norm_weight, to.norm_bias);
        to.in_weight = weight(2 * sizes.ffn_width, sizes.width);
        to.in_bias = make(2 * sizes.ffn_width, 0.3f);
        to.out_weight = weight(sizes.width, sizes.ffn_width);
        to.out_bias = make(sizes.width, 0.3f);
    }

    std::vector<float> frequencies, pooled, logsumexp;
    std::vector<int32_t> index;
    int32_t offsets[2] = {0, 0};
    std::vector<T> queries, keys, values, forecast;
    std::vector<LatentLayer<T>> layers;
    std::vector<std::unique_ptr<T[]>> blocks_;
    bool low_;
    uint64_t state_ = 1;
};

// The largest difference, over the largest number.
float difference(const std::vector<float>& found, const std::vector<float>& wanted) {
    float most = 0, size = 0;
    for (size_t i = 0; i < wanted.size(); ++i) {
        if (!std::isfinite(found[i])) return INFINITY;
        most = std::max(most, std::fabs(found[i] - wanted[i]));
        size = std::max(size, std::fabs(wanted[i]));
    }
    return most / size;
}

// The processor computes in float32.
template <typename T>
void as_the_processor(const Sizes& sizes, int multiprocessors, float tolerance) {
    constexpr bool low = !std::is_same_v<T, float>;
    RandomNetwork<float> reference(sizes, low);
    const RandomNetwork<T> network(sizes, low);
    const CudaDriver& driver = emulated_driver(kShared, multiprocessors);
    const EmulatedUse before = emulated_use();
    {
        const auto passes = cuda_passes<T>(driver, kImage, 0, network.pool, network.between, network.film);
        std::copy_n(network.film.x, sizes.units * network.film.context, passes->x);
        const auto all = std::vector<uint8_t>(static_cast<size_t>(sizes.units), 1);
        std::vector<uint8_t> some = all, none(all.size(), 0);
        for (size_t u = 0; u < some.size(); u += 3) some[u] = 0;
        const auto run = [&](const std::vector<uint8_t>& seen, int order) {
            set_emulated_order(order);
            std::copy(seen.begin(), seen.end(), passes->seen);
            std::fill_n(passes->forecast, sizes.units * sizes.horizon, from_float<T>(NAN));
            passes->run(order == 1);
            const std::vector<float> found = network.numbers(passes->forecast);
            const float off = difference(found, reference.by_processor(seen));
            if (!(off < tolerance)) {
                std::printf("N %lld d %lld Q %lld: off by %g\n", static_cast<long long>(sizes.units),
                            static_cast<long long>(sizes.width), static_cast<long long>(sizes.latents),
                            static_cast<double>(off));
            }
            CHECK(off < tolerance);
            return found;
        };
        const std::vector<float> found = run(all, 2);
        run(some, 1);
        if (sizes.width < kWide) {
            run(none, 0);
            for (const int order : {0, 1}) CHECK(run(all, order) == found);
        }
        CHECK(emulated_use().memory > before.memory);
    }
    CHECK(emulated_use().memory == before.memory && emulated_use().handles == before.handles);
}

void errors() {
    const Sizes sizes{3, 2, 4, 8, 2, 8, 1, 8, 1, 8, 2};
    const RandomNetwork<float> network(sizes, false);
    const auto message = [&](const CudaDriver& driver, const void* image, int gpu) -> std::string {
        const EmulatedUse before = emulated_use();
        std::string found;
        try {
            cuda_passes<float>(driver, image, gpu, network.pool, network.between, network.film);
        } catch (const Error& error) {
            found = error.what();
        }
        CHECK(emulated_use().memory == before.memory && emulated_use().handles == before.handles);
        return found;
    };
    CHECK(message(emulated_driver(kShared, 2), kImage, 1).find("there is no GPU 1; this machine has 1") == 0);
    CHECK(message(emulated_driver(kShared, 2), nullptr, 0).find("CUDA could not load the kernels") == 0);
    CHECK(message(emulated_driver(9000, 2), kImage, 0).find("the model is too large for this GPU") == 0);
}

// Streams on a GPU, whole: as on the processor, with values missing, and a GPU that fails once.
void streams() {
    for (const ModelFiles& files : {small_model(), small_grounded(), small_ensemble()}) {
        const Buffer<uint8_t> tensors(files.tensors.begin(), files.tensors.end());
        const std::shared_ptr<const Model> model = Model::read(files.config, tensors, "memory");
        for (const bool low : {false, true}) {
            StreamOptions options;
            options.missing = Missing::drop;
            options.arithmetic.bfloat16 = low;
            Stream here(model, 0, options);
            options.arithmetic.gpu = 0;
            options.arithmetic.spin = low;
            Stream there(model, 0, options);
            std::vector<float> frame(kUnits), found, wanted;
            for (int i = 0; i < 2 * kContext; ++i) {
                for (size_t u = 0; u < frame.size(); ++u)
                    frame[u] = i == 5 && u == 2 ? NAN : std::sin(0.3f * static_cast<float>(i) + static_cast<float>(u));
                const StreamForecast by_here = here.push(frame.data(), kUnits, i);
                if (i == kContext + 3) {
                    fail_emulated_launch();
                    try {
                        there.push(frame.data(), kUnits, i);
                        CHECK(false);
                    } catch (const GpuError& error) {
                        CHECK(std::string(error.what()).find("CUDA could not start a forecast") == 0);
                    }
                    continue;
                }
                const StreamForecast by_there = there.push(frame.data(), kUnits, i);
                CHECK((by_here.values == nullptr) == (by_there.values == nullptr));
                if (by_here.values == nullptr) continue;
                for (int64_t k = 0; k < kUnits * kHorizon; ++k) {
                    const float a = by_here.values[k], b = by_there.values[k];
                    CHECK(std::isnan(a) == std::isnan(b));
                    if (std::isnan(a)) continue;
                    wanted.push_back(a);
                    found.push_back(b);
                }
            }
            CHECK(found.size() > static_cast<size_t>(kContext * 6 * kHorizon));
            CHECK(difference(found, wanted) < (low ? 2e-2f : 1e-5f));
            CHECK(there.stats().frames == here.stats().frames);
        }
    }
    CHECK(emulated_use().memory == 0 && emulated_use().handles == 0);
}

// A GPU that computes something else is not used.
void wrong_forecasts() {
    using Call = cuda::Film<float>;
    add_emulated_kernel(
        "poco_film_forecast_float32",
        [](const void* call) {
            const Call& c = *static_cast<const Call*>(call);
            cuda::film_forecast(c);
            if (blockIdx.x == 0 && threadIdx.x == 0) c.forecast[0] += 1e-2f;
        },
        sizeof(Call));
    const ModelFiles files = small_model();
    const Buffer<uint8_t> tensors(files.tensors.begin(), files.tensors.end());
    StreamOptions options;
    options.arithmetic.gpu = 0;
    std::string message;
    try {
        const Stream stream(Model::read(files.config, tensors, "memory"), 0, options);
    } catch (const GpuError& error) {
        message = error.what();
    }
    CHECK(message.find("the GPU forecasts ") == 0 && message.find("it is not used") != std::string::npos);
    CHECK(emulated_use().memory == 0 && emulated_use().handles == 0);
}

}  // namespace

int main() {
    add_kernels();
    //                      N  S   L   d  Q  dh  h   F  layers K  H
    const Sizes all[] = {{1, 1, 1, 4, 1, 4, 1, 3, 1, 1, 1},
                         {7, 3, 4, 8, 3, 8, 2, 16, 2, 5, 4},
                         {37, 2, 5, 33, 5, 12, 3, 70, 0, 65, 17},
                         {70, 3, 16, 128, 8, 16, 4, 130, 1, 128, 16},
                         {33, 1, 7, 64, 40, 32, 1, 64, 1, 64, 33}};
    for (const Sizes& sizes : all) {
        as_the_processor<float>(sizes, 2, 1e-5f);
        as_the_processor<Bfloat16>(sizes, 1, 2e-2f);
    }
    errors();
    streams();
    wrong_forecasts();
    return failures == 0 ? 0 : 1;
}
