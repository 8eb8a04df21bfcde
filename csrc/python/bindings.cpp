// The Python module poco._core: converts arguments, releases the interpreter lock, calls the core. Nothing else.
// Arrays are viewed, never copied; poco/core.py and poco/ops/cpu.py check types and shapes and document the functions.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <string>
#include <vector>

#include "core/cpu_features.h"
#include "core/errors.h"
#include "core/gather.h"
#include "core/philox.h"
#include "core/version.h"
#include "cpu/dispatch.h"
#include "cpu/inference.h"
#include "poco/poco.h"
#include "python/stream_bindings.h"

namespace py = pybind11;

namespace {

template <typename T>
using Array = py::array_t<T, py::array::c_style>;

template <typename T>
Array<T> array_of(const py::handle& value, int dimensions, const char* what) {
    if (!Array<T>::check_(value)) poco::fail(what, ": wrong dtype, or not C-contiguous");
    Array<T> array = py::reinterpret_borrow<Array<T>>(value);
    if (array.ndim() != dimensions) poco::fail(what, ": must have ", dimensions, " dimensions, got ", array.ndim());
    return array;
}

py::tuple gather_windows(const py::sequence& activity, const py::sequence& mean, const py::sequence& inverse_std,
                         const py::handle& window_session, const py::handle& window_start, int64_t context,
                         int64_t horizon) {
    const size_t count = py::len(activity);
    if (py::len(mean) != count || py::len(inverse_std) != count) {
        poco::fail("windows: activity, mean and inverse_std must list the same number of sessions");
    }
    std::vector<poco::SessionView> sessions;
    std::vector<py::object> alive;  // the arrays behind the views, whatever happens to the lists meanwhile
    sessions.reserve(count);
    alive.reserve(3 * count);
    for (size_t s = 0; s < count; ++s) {
        const auto a = array_of<float>(py::object(activity[s]), 2, "activity");
        const auto m = array_of<float>(py::object(mean[s]), 1, "mean");
        const auto i = array_of<float>(py::object(inverse_std[s]), 1, "inverse_std");
        if (m.shape(0) != a.shape(0) || i.shape(0) != a.shape(0)) {
            poco::fail("windows: session ", s, ": mean and inverse_std must have one value per unit");
        }
        sessions.push_back({a.data(), m.data(), i.data(), a.shape(0), a.shape(1)});
        alive.insert(alive.end(), {a, m, i});
    }
    const auto session = array_of<int64_t>(window_session, 1, "window_session");
    const auto start = array_of<int64_t>(window_start, 1, "window_start");
    if (session.shape(0) != start.shape(0)) {
        poco::fail("windows: window_session and window_start must have the same length");
    }
    const poco::WindowsView windows{session.data(), start.data(), session.shape(0), context, horizon};
    const auto session_count = static_cast<int64_t>(count);
    const int64_t rows = poco::count_rows(sessions.data(), session_count, windows);

    Array<float> x({rows, context});
    Array<float> target({rows, horizon});
    Array<int32_t> unit_index(rows);
    Array<int32_t> window_offsets(windows.count + 1);
    float* x_out = x.mutable_data();
    float* target_out = target.mutable_data();
    int32_t* index_out = unit_index.mutable_data();
    int32_t* offsets_out = window_offsets.mutable_data();
    {
        const py::gil_scoped_release release;
        poco::gather_windows(sessions.data(), session_count, windows, x_out, target_out, index_out, offsets_out);
    }
    return py::make_tuple(x, target, unit_index, window_offsets);
}

Array<uint32_t> philox_uint32(uint64_t seed, int64_t rows, int64_t columns) {
    Array<uint32_t> words({rows, columns});
    uint32_t* out = words.mutable_data();
    const py::gil_scoped_release release;
    poco::philox_fill(seed, 0, rows, columns, out);
    return words;
}

Array<bool> dropout_keep(uint64_t seed, int64_t rows, int64_t columns, double p) {
    static_assert(sizeof(bool) == 1, "a numpy bool is one byte");
    Array<bool> keep({rows, columns});
    auto* out = reinterpret_cast<uint8_t*>(keep.mutable_data());
    const py::gil_scoped_release release;
    poco::dropout_fill(seed, 0, rows, columns, p, out);
    return keep;
}

// ---- The two passes: arguments by the names of csrc/cpu/kernels.h. Arrays are addresses, as tensors are not known
// here; poco/ops/cpu.py sees to their sizes and keeps them alive.

// One argument after another out of a dict; every one must be asked for.
class Arguments {
public:
    Arguments(const char* op, const py::dict& values) : op_(op), values_(values) {}

    template <typename T>
    void number(T& to, const char* name) {
        to = need(name).template cast<T>();
    }

    template <typename T>
    void array(T*& to, const char* name) {
        to = reinterpret_cast<T*>(need(name).template cast<uintptr_t>());
    }

    template <typename T>
    void arrays(std::vector<T*>& to, const char* name) {
        for (const py::handle address : py::reinterpret_borrow<py::sequence>(need(name))) {
            to.push_back(reinterpret_cast<T*>(address.cast<uintptr_t>()));
        }
    }

    bool given(const char* name) const { return values_.contains(name); }

    // A gradient that is not there is not wanted.
    void gradient(float*& to, const std::string& name) {
        if (given(name.c_str())) array(to, name.c_str());
    }

    void finish() const {
        if (used_ != values_.size()) poco::fail(op_, ": ", values_.size() - used_, " of the arguments are not known");
    }

private:
    py::handle need(const char* name) {
        PyObject* value = PyDict_GetItemString(values_.ptr(), name);
        if (value == nullptr) poco::fail(op_, ": the argument ", name, " is missing");
        ++used_;
        return value;
    }

    const char* op_;
    const py::dict& values_;
    size_t used_ = 0;
};

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

// The call with the addresses that it points to.
template <typename T>
struct InferenceCall : poco::Inference<T> {
    std::vector<const T*> every_parameter;
};

template <typename T>
void read(Arguments& a, InferenceCall<T>& p) {
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
    a.arrays(p.every_parameter, "parameters");
    const auto count = static_cast<int64_t>(p.every_parameter.size());
    if (count != poco::parameter_count(p.layers)) {
        poco::fail("inference: ", p.layers, " layers have ", poco::parameter_count(p.layers), " parameters, not ",
                   count);
    }
    p.parameters = p.every_parameter.data();
    a.array(p.forecast, "forecast");
}

template <typename T>
void read(Arguments& a, poco::LatentQueriesBackward<T>& b) {
    poco::LatentQueries<T>& p = b.forward;
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
    if (a.given("queries")) {
        a.array(p.queries, "queries");
        return;
    }
    a.array(b.grad_queries, "grad_queries");
    a.array(b.grad_initial, "grad_initial");
    a.array(b.grad_norm_weight, "grad_norm_weight");
    a.array(b.grad_norm_bias, "grad_norm_bias");
    a.array(b.grad_query_weight, "grad_query_weight");
    a.array(b.grad_key_weight, "grad_key_weight");
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

// The call with what it points to.
template <typename T>
struct LatentCall : poco::LatentTrainingBackward<T> {
    std::vector<const T*> every_parameter;
    std::vector<poco::LatentLayer<T>> layers;
    std::vector<float*> every_gradient;
};

template <typename T>
void read(Arguments& a, LatentCall<T>& b) {
    poco::LatentTransformer<T>& p = b.forward.forward;
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
    a.number(b.forward.ffn_dropout, "ffn_dropout");
    a.number(b.forward.dropout, "dropout");
    a.number(b.forward.seed, "seed");
    a.array(p.frequencies, "frequencies");
    a.array(p.pooled, "pooled");
    a.array(p.initial, "initial");
    a.array(b.forward.kept, "kept");
    a.arrays(b.every_parameter, "parameters");
    const auto count = static_cast<int64_t>(b.every_parameter.size());
    if (count != poco::latent_parameter_count(p.layers)) {
        poco::fail("latent_training: ", p.layers, " layers have ", poco::latent_parameter_count(p.layers),
                   " parameters, not ", count);
    }
    b.layers.resize(static_cast<size_t>(p.layers));
    poco::take_parameters(p, b.every_parameter.data(), b.layers.data());
    if (a.given("keys")) {
        a.array(p.keys, "keys");
        a.array(p.values, "values");
        return;
    }
    a.array(b.grad_keys, "grad_keys");
    a.array(b.grad_values, "grad_values");
    a.gradient(b.grad_pooled, "grad_pooled");
    a.gradient(b.grad_initial, "grad_initial");
    if (!a.given("grad_parameters")) return;
    a.arrays(b.every_gradient, "grad_parameters");
    b.grad_parameters = b.every_gradient.data();
}

template <typename Call>
Call arguments(const char* op, const py::dict& values) {
    Arguments a(op, values);
    Call call;
    read(a, call);
    a.finish();
    return call;
}

template <typename T>
void latent_pool(const py::dict& values) {
    const auto call = arguments<poco::LatentPool<T>>("latent_pool", values);
    const py::gil_scoped_release release;
    poco::cpu_kernels().passes<T>().latent_pool(call);
}

template <typename T>
void latent_pool_backward(const py::dict& values) {
    const auto call = arguments<poco::LatentPoolBackward<T>>("latent_pool_backward", values);
    const py::gil_scoped_release release;
    poco::cpu_kernels().passes<T>().latent_pool_backward(call);
}

template <typename T>
void film_forecast(const py::dict& values) {
    const auto call = arguments<poco::FilmForecast<T>>("film_forecast", values);
    const py::gil_scoped_release release;
    poco::cpu_kernels().passes<T>().film_forecast(call);
}

template <typename T>
void film_forecast_backward(const py::dict& values) {
    const auto call = arguments<poco::FilmForecastBackward<T>>("film_forecast_backward", values);
    const py::gil_scoped_release release;
    poco::cpu_kernels().passes<T>().film_forecast_backward(call);
}

template <typename T>
void inference(const py::dict& values) {
    const auto call = arguments<InferenceCall<T>>("inference", values);
    const py::gil_scoped_release release;
    poco::infer(call);
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
void latent_queries(const py::dict& values) {
    const auto call = arguments<poco::LatentQueriesBackward<T>>("latent_queries", values);
    const py::gil_scoped_release release;
    poco::cpu_kernels().passes<T>().latent_queries(call.forward);
}

template <typename T>
void latent_queries_backward(const py::dict& values) {
    const auto call = arguments<poco::LatentQueriesBackward<T>>("latent_queries_backward", values);
    const py::gil_scoped_release release;
    poco::cpu_kernels().passes<T>().latent_queries_backward(call);
}

template <typename T>
void film_shift(const py::dict& values) {
    const auto call = arguments<poco::FilmShift<T>>("film_shift", values);
    const py::gil_scoped_release release;
    poco::cpu_kernels().passes<T>().film_shift(call);
}

template <typename T>
void latent_training(const py::dict& values) {
    const auto call = arguments<LatentCall<T>>("latent_training", values);
    const py::gil_scoped_release release;
    poco::cpu_kernels().passes<T>().latent_training(call.forward);
}

template <typename T>
void latent_training_backward(const py::dict& values) {
    const auto call = arguments<LatentCall<T>>("latent_training_backward", values);
    const py::gil_scoped_release release;
    poco::cpu_kernels().passes<T>().latent_training_backward(call);
}

template <typename T>
void define_passes(py::module_& m, const std::string& suffix) {
    m.def(("latent_pool" + suffix).c_str(), &latent_pool<T>);
    m.def(("latent_pool_backward" + suffix).c_str(), &latent_pool_backward<T>);
    m.def(("film_forecast" + suffix).c_str(), &film_forecast<T>);
    m.def(("film_forecast_backward" + suffix).c_str(), &film_forecast_backward<T>);
    m.def(("inference" + suffix).c_str(), &inference<T>);
    m.def(("latent_tiles" + suffix).c_str(), &latent_tiles<T>);
    m.def(("latent_queries" + suffix).c_str(), &latent_queries<T>);
    m.def(("latent_queries_backward" + suffix).c_str(), &latent_queries_backward<T>);
    m.def(("film_shift" + suffix).c_str(), &film_shift<T>);
    m.def(("latent_training" + suffix).c_str(), &latent_training<T>);
    m.def(("latent_training_backward" + suffix).c_str(), &latent_training_backward<T>);
}

// Why the kernels of the two passes cannot be used; empty if they can.
std::string cpu_kernels_missing() {
    try {
        poco::cpu_kernels();
        return "";
    } catch (const poco::Error& error) {
        return error.what();
    }
}

}  // namespace

PYBIND11_MODULE(_core, m) {
    m.doc() = "The compiled core of poco; use it through poco.core.";
    py::register_exception<poco::Error>(m, "Error", PyExc_ValueError);
    py::register_exception<poco::GpuError>(m, "GpuError", m.attr("Error"));
    m.attr("version") = poco_version();
    m.attr("compiler") = poco::compiler();
    m.attr("cuda_compiler") = poco::cuda_compiler();
    m.attr("cpu_features") = poco::cpu_features();
    m.attr("isa") = poco::name(poco::isa());
    m.def("gather_windows", &gather_windows);
    m.def("philox_uint32", &philox_uint32);
    m.def("dropout_keep", &dropout_keep);
    m.attr("cpu_kernels_missing") = cpu_kernels_missing();
    define_passes<float>(m, "_float32");
    define_passes<poco::Bfloat16>(m, "_bfloat16");
    define_stream(m);
}
