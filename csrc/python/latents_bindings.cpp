// What happens to the latents before and between the passes, in training, for poco/ops/cpu.py.
#include "cpu/parameters.h"
#include "python/arguments.h"
#include "python/bindings.h"

namespace {

template <typename T>
void read_inputs(Arguments& a, poco::LatentQueries<T>& p) {
    a.number(p.windows, "windows");
    a.number(p.segments, "segments");
    a.number(p.latents, "latents");
    a.number(p.width, "width");
    a.number(p.head_width, "head_width");
    a.number(p.context, "context");
    a.number(p.eps, "eps");
    a.number(p.threads, "threads");
    a.array(p.frequencies, "frequencies");
    a.array(p.initial, "initial");
    a.array(p.norm_weight, "norm_weight");
    a.array(p.norm_bias, "norm_bias");
    a.array(p.query_weight, "query_weight");
    a.array(p.key_weight, "key_weight");
}

template <typename T>
void read(Arguments& a, poco::LatentQueries<T>& p) {
    read_inputs(a, p);
    a.array(p.queries, "queries");
}

template <typename T>
void read(Arguments& a, poco::LatentQueriesBackward<T>& b) {
    read_inputs(a, b.forward);
    a.array(b.grad_queries, "grad_queries");
    a.array(b.grad_initial, "grad_initial");
    a.array(b.grad_norm_weight, "grad_norm_weight");
    a.array(b.grad_norm_bias, "grad_norm_bias");
    a.array(b.grad_query_weight, "grad_query_weight");
    a.array(b.grad_key_weight, "grad_key_weight");
}

// The calls with what they point to.
template <typename T>
struct TrainingCall : poco::LatentTraining<T> {
    std::vector<poco::LatentLayer<T>> layers;
};

template <typename T>
struct TrainingBackwardCall : poco::LatentTrainingBackward<T> {
    std::vector<poco::LatentLayer<T>> layers;
    std::vector<float*> gradients;
};

template <typename T>
void read_inputs(Arguments& a, poco::LatentTraining<T>& training, std::vector<poco::LatentLayer<T>>& layers) {
    poco::LatentTransformer<T>& p = training.forward;
    a.number(p.windows, "windows");
    a.number(p.initial_windows, "initial_windows");
    a.number(p.segments, "segments");
    a.number(p.latents, "latents");
    a.number(p.width, "width");
    a.number(p.head_width, "head_width");
    a.number(p.heads, "heads");
    a.number(p.ffn_width, "ffn_width");
    a.number(p.layers, "layers");
    a.number(p.context, "context");
    a.number(p.eps, "eps");
    a.number(p.threads, "threads");
    a.number(training.ffn_dropout, "ffn_dropout");
    a.number(training.dropout, "dropout");
    a.number(training.seed, "seed");
    a.array(p.frequencies, "frequencies");
    a.array(p.pooled, "pooled");
    a.array(p.initial, "initial");
    a.array(training.kept, "kept");
    std::vector<const T*> parameters;
    a.arrays(parameters, "parameters");
    const auto count = static_cast<int64_t>(parameters.size());
    if (count != poco::latent_parameter_count(p.layers)) {
        poco::fail("latent_training: ", p.layers, " layers have ", poco::latent_parameter_count(p.layers),
                   " parameters, not ", count);
    }
    poco::Parameters<T>(parameters.data()).into(p, layers);
}

template <typename T>
void read(Arguments& a, TrainingCall<T>& training) {
    read_inputs(a, training, training.layers);
    a.array(training.forward.keys, "keys");
    a.array(training.forward.values, "values");
}

template <typename T>
void read(Arguments& a, TrainingBackwardCall<T>& b) {
    read_inputs(a, b.forward, b.layers);
    a.array(b.grad_keys, "grad_keys");
    a.array(b.grad_values, "grad_values");
    a.gradient(b.grad_pooled, "grad_pooled");
    a.gradient(b.grad_initial, "grad_initial");
    if (!a.given("grad_parameters")) return;
    a.arrays(b.gradients, "grad_parameters");
    b.grad_parameters = b.gradients.data();
}

// Most windows of a tile, and the bytes that are kept of one.
template <typename T>
py::tuple latent_tiles(int64_t segments, int64_t latents, int64_t width, int64_t head_width, int64_t heads,
                       int64_t ffn_width, int64_t layers) {
    poco::LatentTransformer<T> p;
    p.segments = segments;
    p.latents = latents;
    p.width = width;
    p.head_width = head_width;
    p.heads = heads;
    p.ffn_width = ffn_width;
    p.layers = layers;
    const poco::LatentTiles tiles = poco::cpu_kernels().passes<T>().latent_tiles(p);
    return py::make_tuple(tiles.windows, tiles.bytes);
}

template <typename T>
void define_all(py::module_& m, const std::string& type) {
    using Passes = poco::Passes<T>;
    define_kernel<poco::LatentQueries<T>>(m, "latent_queries", type, &Passes::latent_queries);
    define_kernel<poco::LatentQueriesBackward<T>>(m, "latent_queries_backward", type, &Passes::latent_queries_backward);
    define_kernel<TrainingCall<T>>(m, "latent_training", type, &Passes::latent_training);
    define_kernel<TrainingBackwardCall<T>>(m, "latent_training_backward", type, &Passes::latent_training_backward);
    m.def(("latent_tiles" + type).c_str(), &latent_tiles<T>);
}

}  // namespace

void define_latents(py::module_& m) {
    define_all<float>(m, "_float32");
    define_all<poco::Bfloat16>(m, "_bfloat16");
}
