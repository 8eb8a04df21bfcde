// The streaming part of the C interface: nothing is thrown across it.
#include <cstdio>
#include <cstring>
#include <memory>
#include <new>

#include "core/errors.h"
#include "core/log.h"
#include "core/memory.h"
#include "core/workspace.h"
#include "cuda/gpu.h"
#include "poco/poco.h"
#include "stream/realtime.h"
#include "stream/sized.h"
#include "stream/stream.h"

struct poco_model {
    std::shared_ptr<const poco::Model> model;
};

struct poco_stream {
    poco::Stream stream;
};

static_assert(POCO_MARK_HELD == poco::kHeld && POCO_MARK_FILLED == poco::kFilled, "marks are those of the engine");
static_assert(POCO_MARK_RESTARTED == poco::kRestarted && POCO_MARK_LATE == poco::kLate,
              "marks are those of the engine");
static_assert(POCO_LOG_SETUP == poco::kLogSetup && POCO_LOG_FRAMES == poco::kLogFrames, "kinds are those of the core");
static_assert(POCO_MARK_OVERFLOWED == poco::kOverflowed && POCO_MARK_RATE == poco::kRate &&
                  POCO_MARK_SCALE == poco::kScale,
              "marks are those of the engine");

namespace poco {
POCO_FIRST_VERSION(poco_stream_options, deadline_ms);
POCO_FIRST_VERSION(poco_realtime, reserved);
POCO_FIRST_VERSION(poco_forecast, valid);
POCO_FIRST_VERSION(poco_stats, longest_ms);
}  // namespace poco

namespace {

int32_t say(poco_status* status, int32_t code, const char* message) {
    if (status != nullptr) {
        status->code = code;
        std::snprintf(status->message, sizeof status->message, "%s", message);
    }
    return code;
}

// Runs what may throw; its code, or that of the error.
template <typename Run>
int32_t guarded(poco_status* status, Run&& run) {
    try {
        const int32_t code = run();
        return say(status, code, "");
    } catch (const std::bad_alloc&) {
        return say(status, POCO_NO_MEMORY, "there is not enough memory: free some, or take a smaller model");
    } catch (const poco::GpuError& error) {
        return say(status, POCO_NO_GPU, error.what());
    } catch (const std::exception& error) {
        return say(status, POCO_ERROR, error.what());
    } catch (...) {
        return say(status, POCO_ERROR, "an unknown error");
    }
}

const poco::Session* session_of(const poco_model* model, int64_t index) {
    if (model == nullptr || index < 0 || index >= poco_model_sessions(model)) return nullptr;
    return &model->model->sessions()[static_cast<size_t>(index)];
}

// What is not named is 0, the first of its kind.
poco_stream_options default_options() {
    const poco::StreamOptions defaults;
    poco_stream_options options{};
    options.size = sizeof options;
    options.threads = defaults.arithmetic.threads;
    options.interval = defaults.interval;
    options.tolerance = defaults.tolerance;
    options.deadline_ms = defaults.deadline_ms;
    return options;
}

poco::StreamOptions options_of(const poco_stream_options& given) {
    if (given.precision != POCO_FLOAT32 && given.precision != POCO_BFLOAT16)
        poco::fail("unknown precision ", given.precision);
    if (given.missing != POCO_HOLD && given.missing != POCO_DROP)
        poco::fail("unknown policy for missing units ", given.missing);
    if (given.gap < POCO_FILL || given.gap > POCO_REFUSE) poco::fail("unknown policy for gaps ", given.gap);
    poco::StreamOptions options;
    options.arithmetic.bfloat16 = given.precision == POCO_BFLOAT16;
    options.arithmetic.threads = given.threads;
    if (given.device != POCO_CPU && given.device != POCO_CUDA) poco::fail("unknown device ", given.device);
    if (given.gpu < 0) poco::fail("there is no GPU ", given.gpu);
    if (given.reserved != 0) poco::fail("reserved of a poco_stream_options must be 0, and is ", given.reserved);
    options.arithmetic.spin = given.spin != 0;
    if (given.device == POCO_CUDA) options.arithmetic.gpu = given.gpu;
    options.missing = static_cast<poco::Missing>(given.missing);
    options.gap = static_cast<poco::Gap>(given.gap);
    options.interval = given.interval;
    options.tolerance = given.tolerance;
    options.deadline_ms = given.deadline_ms;
    return options;
}

}  // namespace

int32_t poco_gpus(poco_status* status) {
    int32_t found = 0;
    guarded(status, [&]() -> int32_t {
        found = static_cast<int32_t>(poco::gpu_names(poco::cuda_driver()).size());
        return POCO_OK;
    });
    return found;
}

poco_model* poco_model_open(const char* folder, poco_status* status) {
    poco_model* opened = nullptr;
    guarded(status, [&] {
        if (folder == nullptr) poco::fail("no folder was given");
        auto model = std::make_unique<poco_model>();
        model->model = poco::Model::load(folder);
        opened = model.release();
        return POCO_OK;
    });
    return opened;
}

void poco_model_close(poco_model* model) {
    delete model;
}

int64_t poco_model_context(const poco_model* model) {
    return model == nullptr ? -1 : model->model->context();
}

int64_t poco_model_horizon(const poco_model* model) {
    return model == nullptr ? -1 : model->model->horizon();
}

int64_t poco_model_sessions(const poco_model* model) {
    return model == nullptr ? -1 : static_cast<int64_t>(model->model->sessions().size());
}

const char* poco_model_session_name(const poco_model* model, int64_t session) {
    const poco::Session* const found = session_of(model, session);
    return found == nullptr ? nullptr : found->name.c_str();
}

int64_t poco_model_session_units(const poco_model* model, int64_t session) {
    const poco::Session* const found = session_of(model, session);
    return found == nullptr ? -1 : found->units;
}

int32_t poco_model_session_normalised(const poco_model* model, int64_t session) {
    const poco::Session* const found = session_of(model, session);
    return found == nullptr ? -1 : static_cast<int32_t>(found->normalised);
}

int64_t poco_model_find_session(const poco_model* model, const char* name) {
    for (int64_t i = 0; name != nullptr && i < poco_model_sessions(model); ++i) {
        if (std::strcmp(poco_model_session_name(model, i), name) == 0) return i;
    }
    return -1;
}

int32_t poco_stream_default_options(poco_stream_options* options, poco_status* status) {
    return guarded(status, [&]() -> int32_t {
        poco::check_size(options);
        poco::write_sized(default_options(), options);
        return POCO_OK;
    });
}

poco_stream* poco_stream_open(const poco_model* model, int64_t session, const poco_stream_options* options,
                              poco_status* status) {
    poco_stream* opened = nullptr;
    guarded(status, [&] {
        if (model == nullptr) poco::fail("no model was given");
        poco_stream_options wanted = default_options();
        if (options != nullptr) wanted = poco::read_sized(options, wanted);
        opened = new poco_stream{poco::Stream(model->model, session, options_of(wanted))};
        return POCO_OK;
    });
    return opened;
}

int32_t poco_set_realtime(const poco_realtime* wanted, poco_status* status) {
    return guarded(status, [&]() -> int32_t {
        const poco_realtime given = poco::read_sized(wanted, poco_realtime{});
        if (given.cpu_count < 0) poco::fail("cpu_count must not be negative, and is ", given.cpu_count);
        if (given.cpu_count > 0 && given.cpus == nullptr) poco::fail("cpus is NULL and cpu_count ", given.cpu_count);
        if (given.reserved != 0) poco::fail("reserved of a poco_realtime must be 0, and is ", given.reserved);
        poco::Realtime set;
        if (given.cpu_count > 0) set.cpus.assign(given.cpus, given.cpus + given.cpu_count);
        set.priority = given.priority;
        set.lock_memory = given.lock_memory != 0;
        poco::set_realtime(set);
        return POCO_OK;
    });
}

int32_t poco_set_allocator(poco_allocate allocate, poco_release release, void* user, poco_status* status) {
    return guarded(status, [&]() -> int32_t {
        const poco::MemoryHooks hooks{allocate, release, user};
        poco::check_memory_hooks(hooks, poco::Workspace::spares());  // an error changes nothing
        poco::Workspace::give_up_spares();
        poco::set_memory_hooks(hooks);
        return POCO_OK;
    });
}

int32_t poco_set_log(poco_log log, void* user, uint32_t kinds, poco_status* status) {
    return guarded(status, [&]() -> int32_t {
        constexpr uint32_t known = POCO_LOG_SETUP | POCO_LOG_FRAMES;
        if ((kinds & ~known) != 0) poco::fail("there are no messages of kind ", kinds & ~known, ": see POCO_LOG_");
        poco::set_log_hook({log, user, kinds});
        return POCO_OK;
    });
}

void poco_stream_close(poco_stream* stream) {
    delete stream;
}

int32_t poco_stream_push(poco_stream* stream, const float* frame, int64_t units, double time, poco_forecast* forecast,
                         poco_status* status) {
    return guarded(status, [&]() -> int32_t {
        if (stream == nullptr || frame == nullptr)
            poco::fail("a stream and a frame are needed, and one of them is NULL");
        poco::check_size(forecast);
        const poco::StreamForecast made = stream->stream.push(frame, units, time);
        const int32_t code = made.outcome == poco::Outcome::forecast ? POCO_OK : POCO_WARMING;
        const poco_forecast answer{sizeof answer,   code,        made.flags, made.frame, made.missing, made.time,
                                   made.latency_ms, made.values, made.valid};
        poco::write_sized(answer, forecast);
        return code;
    });
}

void poco_stream_reset(poco_stream* stream) {
    if (stream != nullptr) stream->stream.reset();
}

int32_t poco_stream_swap(poco_stream* stream, const poco_model* model, poco_status* status) {
    return guarded(status, [&]() -> int32_t {
        if (stream == nullptr || model == nullptr) poco::fail("a stream and a model are needed");
        stream->stream.swap(model->model);
        return POCO_OK;
    });
}

int32_t poco_stream_stats(const poco_stream* stream, poco_stats* stats, poco_status* status) {
    return guarded(status, [&]() -> int32_t {
        if (stream == nullptr) poco::fail("a stream is needed, and NULL was given");
        poco::check_size(stats);
        const poco::StreamStats& s = stream->stream.stats();
        const poco_stats answer{sizeof answer,
                                s.frames,
                                s.forecasts,
                                s.late,
                                s.gaps,
                                s.filled,
                                s.restarts,
                                s.held_values,
                                s.refused,
                                s.latencies.quantile(0.5),
                                s.latencies.quantile(0.99),
                                s.latencies.quantile(0.999),
                                s.latencies.longest(),
                                s.off_rate,
                                s.off_scale};
        poco::write_sized(answer, stats);
        return POCO_OK;
    });
}
