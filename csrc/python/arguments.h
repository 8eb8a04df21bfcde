// Calls of the kernels out of Python's arguments, which have the names of csrc/cpu/kernels.h. Arrays are addresses, as
// tensors are not known here; poco/ops/cpu.py sees to their sizes and keeps them alive.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>
#include <vector>

#include "core/errors.h"
#include "cpu/dispatch.h"

namespace {

namespace py = pybind11;

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

// Defines a function of the module: the call that `read` makes of a dict goes to `run` without the interpreter's lock.
template <typename Call, typename Run>
void define(py::module_& m, const char* op, const std::string& suffix, const Run& run) {
    m.def((op + suffix).c_str(), [op, run](const py::dict& values) {
        Arguments a(op, values);
        Call call;
        read(a, call);
        a.finish();
        const py::gil_scoped_release release;
        run(call);
    });
}

// The same for a kernel, which takes the call or what it derives from.
template <typename Call, typename T, typename Taken>
void define_kernel(py::module_& m, const char* op, const std::string& suffix,
                   void (*poco::Passes<T>::*kernel)(const Taken&)) {
    define<Call>(m, op, suffix, [kernel](const Call& call) { (poco::cpu_kernels().passes<T>().*kernel)(call); });
}

}  // namespace
