// Windows and random numbers for Python. Arrays are viewed, never copied; poco/core.py checks types and shapes and
// documents the functions.
#include <pybind11/numpy.h>

#include <cstdint>
#include <vector>

#include "core/errors.h"
#include "core/gather.h"
#include "core/philox.h"
#include "python/bindings.h"

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

}  // namespace

void define_core(py::module_& m) {
    m.def("gather_windows", &gather_windows);
    m.def("philox_uint32", &philox_uint32);
    m.def("dropout_keep", &dropout_keep);
}
