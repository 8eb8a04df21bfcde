// The Python module poco._core: converts arguments, releases the interpreter lock, calls the core. Nothing else.
#include "python/bindings.h"

#include <string>

#include "core/cpu_features.h"
#include "core/errors.h"
#include "core/version.h"
#include "cpu/dispatch.h"
#include "poco/poco.h"

namespace py = pybind11;

namespace {

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
    py::register_exception<poco::GapError>(m, "GapError", m.attr("Error"));
    m.attr("version") = poco_version();
    m.attr("compiler") = poco::compiler();
    m.attr("cuda_compiler") = poco::cuda_compiler();
    py::list features;
    for (const char* const feature : poco::cpu_features()) features.append(feature);
    m.attr("cpu_features") = features;
    m.attr("isa") = poco::name(poco::isa());
    m.attr("cpu_kernels_missing") = cpu_kernels_missing();
    define_core(m);
    define_passes(m);
    define_latents(m);
    define_stream(m);
}
