// The streaming engine for Python; poco/stream.py is its face.
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <atomic>
#include <cstring>
#include <string_view>

#include "core/errors.h"
#include "cuda/gpu.h"
#include "python/bindings.h"
#include "stream/realtime.h"
#include "stream/stream.h"

namespace py = pybind11;

namespace {

using Frame = py::array_t<float, py::array::c_style>;

poco::StreamOptions options_of(const py::dict& given) {
    poco::StreamOptions options;
    const auto text = given["missing"].cast<std::string>(), gap = given["gap"].cast<std::string>();
    options.arithmetic.bfloat16 = given["bfloat16"].cast<bool>();
    options.arithmetic.threads = given["threads"].cast<int>();
    options.arithmetic.spin = given["spin"].cast<bool>();
    options.arithmetic.gpu = given["gpu"].cast<int>();
    options.missing = text == "drop" ? poco::Missing::drop : poco::Missing::hold;
    options.gap = gap == "fill" ? poco::Gap::fill : gap == "restart" ? poco::Gap::restart : poco::Gap::refuse;
    options.interval = given["interval"].cast<double>();
    options.tolerance = given["tolerance"].cast<double>();
    options.deadline_ms = given["deadline_ms"].cast<double>();
    return options;
}

// A stream, and whether a call uses it: others run while Python's lock is let go.
struct Guarded {
    Guarded(std::shared_ptr<const poco::Model> model, int64_t session, const poco::StreamOptions& options)
        : stream(std::move(model), session, options) {}

    poco::Stream stream;
    std::atomic<bool> busy{false};
};

// The use of a stream by one call.
class Use {
public:
    explicit Use(Guarded& guarded) : guarded_(guarded) {
        if (guarded_.busy.exchange(true, std::memory_order_acquire))
            poco::fail("the stream is in use by another thread");
    }
    ~Use() { guarded_.busy.store(false, std::memory_order_release); }
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;

    poco::Stream* operator->() const { return &guarded_.stream; }

private:
    Guarded& guarded_;
};

// What came of a frame, its arrays copied: the stream overwrites its own.
py::tuple push(Guarded& guarded, const Frame& frame, double time) {
    if (frame.ndim() != 1) poco::fail("a frame is one value for each unit, got ", frame.ndim(), " dimensions");
    const Use stream(guarded);
    poco::StreamForecast made;
    {
        const py::gil_scoped_release release;
        made = stream->push(frame.data(), frame.shape(0), time);
    }
    py::object values = py::none();
    if (made.values != nullptr) {
        py::array_t<float> copy({stream->units(), stream->horizon()});
        std::memcpy(copy.mutable_data(), made.values, static_cast<size_t>(copy.nbytes()));
        values = std::move(copy);
    }
    py::array_t<bool> valid(stream->units());
    std::memcpy(valid.mutable_data(), made.valid, static_cast<size_t>(stream->units()));
    return py::make_tuple(made.flags, made.frame, made.missing, made.latency_ms, values, valid);
}

// Which units had a value in the last frame.
py::array_t<bool> seen(Guarded& guarded) {
    const Use stream(guarded);
    py::array_t<bool> found(stream->units());
    for (int64_t i = 0; i < stream->units(); ++i) found.mutable_at(i) = stream->seen(i);
    return found;
}

py::dict stats_of(Guarded& guarded) {
    const Use stream(guarded);
    const poco::StreamStats& s = stream->stats();
    py::dict found;
    found["frames"] = s.frames;
    found["forecasts"] = s.forecasts;
    found["late"] = s.late;
    found["gaps"] = s.gaps;
    found["filled"] = s.filled;
    found["restarts"] = s.restarts;
    found["held_values"] = s.held_values;
    found["refused"] = s.refused;
    found["p50_ms"] = s.latencies.quantile(0.5);
    found["p99_ms"] = s.latencies.quantile(0.99);
    found["p999_ms"] = s.latencies.quantile(0.999);
    found["longest_ms"] = s.latencies.longest();
    found["off_rate"] = s.off_rate;
    found["off_scale"] = s.off_scale;
    return found;
}

}  // namespace

void define_stream(py::module_& m) {
    py::class_<poco::Model, std::shared_ptr<poco::Model>>(m, "StreamModel")
        .def_static("open",
                    [](const std::string& folder) {
                        const py::gil_scoped_release release;
                        return std::const_pointer_cast<poco::Model>(poco::Model::load(folder));
                    })
        .def_static("read",
                    [](const py::bytes& config, const py::bytes& tensors, const std::string& folder) {
                        const std::string_view text = config, data = tensors;
                        const py::gil_scoped_release release;
                        poco::Buffer<uint8_t> copy(data.begin(), data.end());
                        return std::const_pointer_cast<poco::Model>(poco::Model::read(text, std::move(copy), folder));
                    })
        .def_property_readonly("context", &poco::Model::context)
        .def_property_readonly("horizon", &poco::Model::horizon)
        .def_property_readonly("sessions",
                               [](const poco::Model& model) {
                                   std::vector<std::pair<std::string, int64_t>> found;
                                   for (const poco::Session& session : model.sessions())
                                       found.emplace_back(session.name, session.units);
                                   return found;
                               })
        .def("is_normalised",
             [](const poco::Model& model, size_t session) { return model.sessions().at(session).normalised; });
    py::class_<Guarded>(m, "Stream")
        .def(py::init([](const std::shared_ptr<poco::Model>& model, int64_t session, const py::dict& options) {
            const poco::StreamOptions taken = options_of(options);
            const py::gil_scoped_release release;
            return std::make_unique<Guarded>(model, session, taken);
        }))
        .def("push", &push)
        .def("seen", &seen)
        .def("reset", [](Guarded& guarded) { Use(guarded)->reset(); })
        .def("swap",
             [](Guarded& guarded, const std::shared_ptr<poco::Model>& model) {
                 const Use stream(guarded);
                 const py::gil_scoped_release release;
                 stream->swap(model);
             })
        .def("stats", &stats_of);
    m.def("gpus", [] { return poco::gpu_names(poco::cuda_driver()); });
    m.def("set_realtime", [](const std::vector<int32_t>& cpus, int32_t priority, bool lock_memory) {
        poco::set_realtime({cpus, priority, lock_memory});
    });
}
