#include "cpu/inference.h"

#include <vector>

#include "cpu/dispatch.h"

namespace poco {
namespace {

// Hands out the parameters one after another.
template <typename T>
class Parameters {
public:
    explicit Parameters(const T* const* next) : next_(next) {}

    template <typename... To>
    void into(To&... to) {
        ((to = *next_++), ...);
    }
    const T* const* rest() const { return next_; }
    void skip(int64_t count) { next_ += count; }
    void into(FeedForward<T>& p) { into(p.norm_weight, p.norm_bias, p.in_weight, p.in_bias, p.out_weight, p.out_bias); }

private:
    const T* const* next_;
};

// The sizes that several kernels share.
template <typename T, typename Call>
void take_sizes(const Inference<T>& from, Call& to) {
    to.windows = from.windows;
    to.latents = from.latents;
    to.width = from.width;
    to.eps = from.eps;
    to.threads = from.threads;
}

template <typename T, typename Call>
void take_rows(const Inference<T>& from, Call& to) {
    to.rows = from.rows;
    to.units = from.units;
    to.x = from.x;
    to.unit_index = from.unit_index;
    to.window_offsets = from.window_offsets;
    to.unit_table = from.unit_table;
}

inline float sum(float a, float b) {
    return a + b;
}

inline Bfloat16 sum(Bfloat16 a, Bfloat16 b) {
    return to_bfloat16(to_float(a) + to_float(b));
}

template <typename T>
std::vector<T> room(int64_t count) {
    return std::vector<T>(static_cast<size_t>(count));
}

template <typename T>
int64_t take(LatentTransformer<T>& to, const T* const* parameters, LatentLayer<T>* layers) {
    Parameters<T> next(parameters);
    next.into(to.read_value_weight, to.read_output_weight, to.read_output_bias);
    next.into(to.read_ffn);
    for (int64_t i = 0; i < to.layers; ++i) {
        LatentLayer<T>& layer = layers[i];
        next.into(layer.norm_weight, layer.norm_bias, layer.query_key_value_weight, layer.output_weight,
                  layer.output_bias);
        next.into(layer.ffn);
    }
    next.into(to.write_norm_weight, to.write_norm_bias, to.write_key_weight, to.write_value_weight,
              to.write_query_weight, to.write_output_weight);
    to.layer = layers;
    return next.rest() - parameters;
}

template <typename T>
void run(const Inference<T>& call) {
    const Passes<T>& kernels = cpu_kernels().passes<T>();
    const int64_t context = call.segments * call.segment_length;
    Parameters<T> parameters(call.parameters);

    LatentPool<T> pool;
    take_sizes(call, pool);
    take_rows(call, pool);
    pool.segments = call.segments;
    pool.segment_length = call.segment_length;
    pool.query_windows = call.initial_windows;
    parameters.into(pool.token_weight, pool.token_bias, pool.norm_weight, pool.norm_bias);

    // A token is its segment's product, the bias and its unit: what is added to every unit may be added to the bias.
    std::vector<T> token_bias;
    if (call.unit_shift != nullptr) {
        for (int64_t j = 0; j < call.width; ++j) token_bias.push_back(sum(pool.token_bias[j], call.unit_shift[j]));
        pool.token_bias = token_bias.data();
    }

    LatentQueries<T> asking;
    take_sizes(call, asking);
    asking.windows = call.initial_windows;
    asking.segments = call.segments;
    asking.head_width = call.head_width;
    asking.context = context;
    asking.frequencies = call.frequencies;
    asking.initial = call.initial;
    parameters.into(asking.norm_weight, asking.norm_bias, asking.query_weight, asking.key_weight);
    std::vector<T> queries = room<T>(call.initial_windows * call.segments * call.latents * call.width);
    asking.queries = queries.data();
    kernels.latent_queries(asking);

    std::vector<float> pooled = room<float>(call.windows * call.segments * call.latents * call.width);
    std::vector<float> logsumexp = room<float>(call.windows * call.latents);
    pool.queries = queries.data();
    pool.pooled = pooled.data();
    pool.logsumexp = logsumexp.data();
    kernels.latent_pool(pool);

    LatentTransformer<T> between;
    take_sizes(call, between);
    between.initial_windows = call.initial_windows;
    between.segments = call.segments;
    between.head_width = call.head_width;
    between.heads = call.heads;
    between.ffn_width = call.ffn_width;
    between.layers = call.layers;
    between.context = context;
    between.frequencies = call.frequencies;
    between.pooled = pooled.data();
    between.initial = call.initial;
    std::vector<LatentLayer<T>> layers(static_cast<size_t>(call.layers));
    parameters.skip(take(between, parameters.rest(), layers.data()));
    std::vector<T> keys = room<T>(call.windows * call.latents * call.width);
    std::vector<T> values = room<T>(call.windows * call.latents * call.width);
    between.keys = keys.data();
    between.values = values.data();
    kernels.latent_transformer(between);

    FilmForecast<T> film;
    take_sizes(call, film);
    take_rows(call, film);
    film.context = context;
    film.horizon = call.horizon;
    film.unit_shift = call.unit_shift;
    film.ffn_width = call.ffn_width;
    film.film_width = call.film_width;
    film.keys = keys.data();
    film.values = values.data();
    FilmParameters<const T>& p = film.parameters;
    parameters.into(p.attention_bias, p.query_norm_weight, p.query_norm_bias, p.ffn_norm_weight, p.ffn_norm_bias,
                    p.ffn_in_weight, p.ffn_in_bias, p.ffn_out_weight, p.ffn_out_bias, p.scale_weight, p.scale_bias);
    FilmShift<T> shift;
    shift.horizon = call.horizon;
    shift.film_width = call.film_width;
    shift.width = call.width;
    shift.threads = call.threads;
    parameters.into(shift.shift_weight, shift.shift_bias, p.in_weight, p.in_bias, shift.output_weight,
                    shift.output_bias);
    std::vector<T> shift_weight = room<T>(call.horizon * call.width);
    std::vector<T> shift_bias = room<T>(call.horizon);
    shift.weight = shift_weight.data();
    shift.bias = shift_bias.data();
    kernels.film_shift(shift);
    p.shift_weight = shift_weight.data();
    p.shift_bias = shift_bias.data();
    p.out_weight = shift.output_weight;
    film.forecast = call.forecast;
    kernels.film_forecast(film);
}

}  // namespace

int64_t take_parameters(LatentTransformer<float>& to, const float* const* parameters, LatentLayer<float>* layers) {
    return take(to, parameters, layers);
}

int64_t take_parameters(LatentTransformer<Bfloat16>& to, const Bfloat16* const* parameters,
                        LatentLayer<Bfloat16>* layers) {
    return take(to, parameters, layers);
}

void infer(const Inference<float>& call) {
    run(call);
}

void infer(const Inference<Bfloat16>& call) {
    run(call);
}

}  // namespace poco
