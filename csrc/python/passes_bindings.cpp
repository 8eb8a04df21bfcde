// The two passes, and the whole model for inference, for poco/ops/cpu.py.
#include "cpu/inference.h"
#include "cpu/parameters.h"
#include "python/arguments.h"
#include "python/bindings.h"

namespace {

template <typename T>
void read(Arguments& a, poco::LatentPool<T>& p) {
    a.number(p.rows, "rows");
    a.number(p.windows, "windows");
    a.number(p.units, "units");
    a.number(p.segments, "segments");
    a.number(p.segment_length, "segment_length");
    a.number(p.width, "width");
    a.number(p.latents, "latents");
    a.number(p.query_windows, "query_windows");
    a.number(p.eps, "eps");
    a.number(p.threads, "threads");
    a.array(p.x, "x");
    a.array(p.unit_index, "unit_index");
    a.array(p.window_offsets, "window_offsets");
    a.array(p.unit_table, "unit_table");
    a.array(p.token_weight, "token_weight");
    a.array(p.token_bias, "token_bias");
    a.array(p.norm_weight, "norm_weight");
    a.array(p.norm_bias, "norm_bias");
    a.array(p.queries, "queries");
    a.array(p.pooled, "pooled");
    a.array(p.logsumexp, "logsumexp");
}

template <typename T>
void read(Arguments& a, poco::LatentPoolBackward<T>& b) {
    read(a, b.forward);
    a.array(b.grad_pooled, "grad_pooled");
    a.array(b.grad_logsumexp, "grad_logsumexp");
    a.gradient(b.grad_x, "grad_x");
    a.gradient(b.grad_unit_table, "grad_unit_table");
    a.gradient(b.grad_token_weight, "grad_token_weight");
    a.gradient(b.grad_token_bias, "grad_token_bias");
    a.gradient(b.grad_norm_weight, "grad_norm_weight");
    a.gradient(b.grad_norm_bias, "grad_norm_bias");
    a.gradient(b.grad_queries, "grad_queries");
}

// Calls f(member, name) for every parameter of pass 2.
template <typename T, typename F>
void for_parameters(poco::FilmParameters<T>& p, const F& f) {
    f(p.attention_bias, "attention_bias");
    f(p.query_norm_weight, "query_norm_weight");
    f(p.query_norm_bias, "query_norm_bias");
    f(p.ffn_norm_weight, "ffn_norm_weight");
    f(p.ffn_norm_bias, "ffn_norm_bias");
    f(p.ffn_in_weight, "ffn_in_weight");
    f(p.ffn_in_bias, "ffn_in_bias");
    f(p.ffn_out_weight, "ffn_out_weight");
    f(p.ffn_out_bias, "ffn_out_bias");
    f(p.scale_weight, "scale_weight");
    f(p.scale_bias, "scale_bias");
    f(p.shift_weight, "shift_weight");
    f(p.shift_bias, "shift_bias");
    f(p.in_weight, "in_weight");
    f(p.in_bias, "in_bias");
    f(p.out_weight, "out_weight");
}

template <typename T>
void read_inputs(Arguments& a, poco::FilmForecast<T>& p) {
    a.number(p.rows, "rows");
    a.number(p.windows, "windows");
    a.number(p.units, "units");
    a.number(p.context, "context");
    a.number(p.horizon, "horizon");
    a.number(p.width, "width");
    a.number(p.latents, "latents");
    a.number(p.ffn_width, "ffn_width");
    a.number(p.film_width, "film_width");
    a.number(p.eps, "eps");
    a.number(p.dropout, "dropout");
    a.number(p.seed, "seed");
    a.number(p.threads, "threads");
    a.array(p.x, "x");
    a.array(p.unit_index, "unit_index");
    a.array(p.window_offsets, "window_offsets");
    a.array(p.unit_table, "unit_table");
    a.array(p.keys, "keys");
    a.array(p.values, "values");
    for_parameters(p.parameters, [&](const T*& to, const char* name) { a.array(to, name); });
}

template <typename T>
void read(Arguments& a, poco::FilmForecast<T>& p) {
    read_inputs(a, p);
    a.array(p.forecast, "forecast");
}

template <typename T>
void read(Arguments& a, poco::FilmForecastBackward<T>& b) {
    read_inputs(a, b.forward);
    if (a.given("loss")) {
        a.array(b.target, "target");
        a.number(b.grad_scale, "grad_scale");
        a.array(b.loss, "loss");
    } else {
        a.array(b.grad, "grad");
    }
    a.gradient(b.grad_x, "grad_x");
    a.gradient(b.grad_unit_table, "grad_unit_table");
    a.gradient(b.grad_keys, "grad_keys");
    a.gradient(b.grad_values, "grad_values");
    for_parameters(b.grad_parameters,
                   [&](float*& to, const char* name) { a.gradient(to, std::string("grad_") + name); });
}

template <typename T>
void read(Arguments& a, poco::FilmShift<T>& p) {
    a.number(p.horizon, "horizon");
    a.number(p.film_width, "film_width");
    a.number(p.width, "width");
    a.number(p.threads, "threads");
    a.array(p.output_weight, "output_weight");
    a.array(p.output_bias, "output_bias");
    a.array(p.shift_weight, "shift_weight");
    a.array(p.shift_bias, "shift_bias");
    a.array(p.weight, "weight");
    a.array(p.bias, "bias");
}

template <typename T>
void read(Arguments& a, poco::Inference<T>& p) {
    a.number(p.rows, "rows");
    a.number(p.windows, "windows");
    a.number(p.units, "units");
    a.number(p.initial_windows, "initial_windows");
    a.number(p.segments, "segments");
    a.number(p.segment_length, "segment_length");
    a.number(p.width, "width");
    a.number(p.latents, "latents");
    a.number(p.head_width, "head_width");
    a.number(p.heads, "heads");
    a.number(p.ffn_width, "ffn_width");
    a.number(p.layers, "layers");
    a.number(p.film_width, "film_width");
    a.number(p.horizon, "horizon");
    a.number(p.eps, "eps");
    a.number(p.threads, "threads");
    a.array(p.x, "x");
    a.array(p.unit_index, "unit_index");
    a.array(p.window_offsets, "window_offsets");
    a.array(p.unit_table, "unit_table");
    if (a.given("unit_shift")) a.array(p.unit_shift, "unit_shift");
    a.array(p.initial, "initial");
    a.array(p.frequencies, "frequencies");
    a.arrays(p.parameters, "parameters");
    const auto count = static_cast<int64_t>(p.parameters.size());
    if (count != poco::parameter_count(p.layers)) {
        poco::fail("inference: ", p.layers, " layers have ", poco::parameter_count(p.layers), " parameters, not ",
                   count);
    }
    a.array(p.forecast, "forecast");
}

template <typename T>
void define_all(py::module_& m, const std::string& type) {
    using Passes = poco::Passes<T>;
    define_kernel<poco::LatentPool<T>>(m, "latent_pool", type, &Passes::latent_pool);
    define_kernel<poco::LatentPoolBackward<T>>(m, "latent_pool_backward", type, &Passes::latent_pool_backward);
    define_kernel<poco::FilmForecast<T>>(m, "film_forecast", type, &Passes::film_forecast);
    define_kernel<poco::FilmForecastBackward<T>>(m, "film_forecast_backward", type, &Passes::film_forecast_backward);
    define_kernel<poco::FilmShift<T>>(m, "film_shift", type, &Passes::film_shift);
    define<poco::Inference<T>>(m, "inference", type, [](const poco::Inference<T>& call) { poco::infer(call); });
}

}  // namespace

void define_passes(py::module_& m) {
    define_all<float>(m, "_float32");
    define_all<poco::Bfloat16>(m, "_bfloat16");
}
