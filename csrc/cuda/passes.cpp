#include "cuda/passes.h"

#include <algorithm>

#include "cuda/latents.h"

namespace poco {
namespace {

using namespace cuda;

constexpr int kFewestPoolRows = 4;

template <typename T>
class NetworkOnGpu : public CudaPasses<T> {
public:
    NetworkOnGpu(const CudaDriver& driver, const void* image, int number, const LatentPool<T>& pool,
                 const LatentTransformer<T>& between, const FilmForecast<T>& film)
        : gpu_(driver, image, number), weights_(gpu_) {
        const Gpu::Current current(gpu_);
        const int64_t units = film.units, in = units * film.context, out = units * film.horizon;
        this->x = gpu_.host_room<T>(in);
        this->seen = gpu_.host_room<uint8_t>(units);
        this->forecast = gpu_.host_room<T>(out);
        T* const activity = gpu_.room<T>(in);
        uint8_t* const present = gpu_.room<uint8_t>(units);
        const T* const table = gpu_.copy(Buffer<T>(film.unit_table, film.unit_table + units * film.width));

        const CudaLatents<T> latents(gpu_, between);
        const PoolParts<T> parts = first_pass(pool, film.context, units, activity, present, table);
        const PoolMerge merge{parts.parts, parts.segments, parts.latents, parts.width,
                              parts.most,  parts.sum,      parts.pooled,  latents.pooled};
        const Film<T> last = second_pass(film, activity, table, latents.keys, latents.values);

        gpu_.record([&] {
            gpu_.copy_in(activity, this->x, static_cast<size_t>(in) * sizeof(T));
            gpu_.copy_in(present, this->seen, static_cast<size_t>(units));
            gpu_.launch(typed<T>("poco_pool_parts"), parts, parts.parts, parts.segments,
                        4 * pool_floats(parts.rows, parts.width, parts.latents));
            gpu_.launch("poco_pool_merge", merge, merge.latents, merge.segments,
                        4 * merge_floats(merge.parts, merge.segments));
            latents.queue();
            gpu_.launch(typed<T>("poco_film_forecast"), last, (units + last.rows - 1) / last.rows, 1,
                        film_bytes(film, last.rows));
            gpu_.copy_out(this->forecast, last.forecast, static_cast<size_t>(out) * sizeof(T));
        });
    }

    void run(bool spin) override {
        const Gpu::Current current(gpu_);
        gpu_.run(spin);
    }

private:
    PoolParts<T> first_pass(const LatentPool<T>& from, int64_t context, int64_t units, const T* activity,
                            const uint8_t* present, const T* table) {
        const int64_t segments = from.segments, d = from.width, latents = from.latents;
        PoolParts<T> c{};
        c.units = static_cast<int>(units);
        c.context = static_cast<int>(context);
        c.segments = static_cast<int>(segments);
        c.length = static_cast<int>(from.segment_length);
        c.width = static_cast<int>(d);
        c.latents = static_cast<int>(latents);
        c.eps = from.eps;
        c.rows = kPoolRows;
        while (c.rows > kFewestPoolRows && 4 * pool_floats(c.rows, c.width, c.latents) > gpu_.shared_bytes())
            c.rows /= 2;
        // A few blocks for every multiprocessor.
        c.parts = std::min((c.units + c.rows - 1) / c.rows, std::max(1, 4 * gpu_.multiprocessors() / c.segments));
        c.x = activity;
        c.seen = present;
        c.table = table;
        c.token_weight = weights_.weight({from.token_weight}, d, from.segment_length, 1);
        c.token_bias = weights_.vector({from.token_bias}, d);
        c.norm_weight = weights_.vector({from.norm_weight}, d);
        c.norm_bias = weights_.vector({from.norm_bias}, d);
        Floats queries(static_cast<size_t>(segments * d * latents));
        for (int64_t i = 0; i < segments * latents * d; ++i) {
            const int64_t segment = i / (latents * d), latent = i / d % latents, feature = i % d;
            queries[static_cast<size_t>((segment * d + feature) * latents + latent)] = to_float(from.queries[i]);
        }
        c.queries = gpu_.copy(queries);
        const int64_t places = c.parts * segments * latents;
        c.most = gpu_.room<float>(places);
        c.sum = gpu_.room<float>(places);
        c.pooled = gpu_.room<float>(places * d);
        return c;
    }

    static int64_t film_bytes(const FilmForecast<T>& from, int rows) {
        return FilmPlaces(rows, static_cast<int>(from.context), static_cast<int>(from.horizon),
                          static_cast<int>(from.width), static_cast<int>(from.latents), sizeof(T))
            .bytes;
    }

    Film<T> second_pass(const FilmForecast<T>& from, const T* activity, const T* table, const float* keys,
                        const float* values) {
        const int64_t context = from.context, h = from.horizon, d = from.width, f = from.ffn_width, k = from.film_width;
        const FilmParameters<const T>& p = from.parameters;
        const CudaWeights<T>& w = weights_;
        Film<T> c{};
        c.units = static_cast<int>(from.units);
        c.context = static_cast<int>(context);
        c.horizon = static_cast<int>(h);
        c.width = static_cast<int>(d);
        c.latents = static_cast<int>(from.latents);
        c.ffn_width = static_cast<int>(f);
        c.film_width = static_cast<int>(k);
        c.eps = from.eps;
        // As many rows as fit, so that weights are read less often, but no fewer blocks than there are multiprocessors.
        c.rows = 4 * kTileRows;
        while (c.rows > kTileRows && (film_bytes(from, c.rows) > gpu_.shared_bytes() ||
                                      from.units < static_cast<int64_t>(c.rows) * gpu_.multiprocessors())) {
            c.rows /= 2;
        }
        c.x = activity;
        c.table = table;
        c.keys = keys;
        c.values = values;
        c.attention_bias = w.vector({p.attention_bias}, d);
        c.query_norm_weight = w.vector({p.query_norm_weight}, d);
        c.query_norm_bias = w.vector({p.query_norm_bias}, d);
        c.ffn_norm_weight = w.vector({p.ffn_norm_weight}, d);
        c.ffn_norm_bias = w.vector({p.ffn_norm_bias}, d);
        c.value_weight = w.weight({p.ffn_in_weight}, f, d, kPanel);
        c.gate_weight = w.weight({p.ffn_in_weight + f * d}, f, d, kPanel);
        c.value_bias = w.vector({p.ffn_in_bias}, f, kPanel);
        c.gate_bias = w.vector({p.ffn_in_bias + f}, f, kPanel);
        c.ffn_out_weight = w.weight({p.ffn_out_weight}, d, f, kTile);
        c.ffn_out_bias = w.vector({p.ffn_out_bias}, d);
        c.scale_weight = w.weight({p.scale_weight}, k, d, kPanel);
        c.scale_bias = w.vector({p.scale_bias}, k, kPanel);
        c.in_weight = w.weight({p.in_weight}, k, context, kPanel);
        c.in_bias = w.vector({p.in_bias}, k, kPanel);
        c.shift_weight = w.weight({p.shift_weight}, h, d, kTile);
        c.shift_bias = w.vector({p.shift_bias}, h);
        c.out_weight = w.weight({p.out_weight}, h, k, kTile);
        c.forecast = gpu_.room<T>(from.units * h);
        return c;
    }

    Gpu gpu_;
    CudaWeights<T> weights_;
};

}  // namespace

template <typename T>
std::unique_ptr<CudaPasses<T>> cuda_passes(const CudaDriver& driver, const void* image, int gpu,
                                           const LatentPool<T>& pool, const LatentTransformer<T>& between,
                                           const FilmForecast<T>& film) {
    return std::make_unique<NetworkOnGpu<T>>(driver, image, gpu, pool, between, film);
}

template std::unique_ptr<CudaPasses<float>> cuda_passes(const CudaDriver&, const void*, int, const LatentPool<float>&,
                                                        const LatentTransformer<float>&, const FilmForecast<float>&);
template std::unique_ptr<CudaPasses<Bfloat16>> cuda_passes(const CudaDriver&, const void*, int,
                                                           const LatentPool<Bfloat16>&,
                                                           const LatentTransformer<Bfloat16>&,
                                                           const FilmForecast<Bfloat16>&);

}  // namespace poco
