// A program's own allocator and log: what goes through them, and that nothing does on the way of a frame.
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "core/workspace.h"
#include "model_files.h"
#include "poco/poco.h"

namespace {

// Counts, and gives nothing after so many blocks.
struct Memory {
    std::atomic<int64_t> taken{0}, held{0}, bytes{0};
    int64_t most = -1;

    static void* allocate(size_t bytes, size_t alignment, void* user) {
        auto* const self = static_cast<Memory*>(user);
        if (self->most >= 0 && self->taken >= self->most) return nullptr;
        ++self->taken;
        ++self->held;
        self->bytes += static_cast<int64_t>(bytes);
        return std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
    }
    static void release(void* block, size_t bytes, void* user) {
        auto* const self = static_cast<Memory*>(user);
        --self->held;
        self->bytes -= static_cast<int64_t>(bytes);
        std::free(block);
    }
};

struct Log {
    std::vector<std::string> lines;
    uint32_t kinds = 0;

    static void write(uint32_t kind, const char* message, void* user) {
        auto* const self = static_cast<Log*>(user);
        self->lines.emplace_back(message);
        self->kinds |= kind;
    }
    bool says(const std::string& what) const {
        for (const std::string& line : lines) {
            if (line.find(what) != std::string::npos) return true;
        }
        return false;
    }
};

void set_memory(Memory* memory) {
    poco_status status;
    const bool none = memory == nullptr;
    CHECK(poco_set_allocator(none ? nullptr : Memory::allocate, none ? nullptr : Memory::release, memory, &status) ==
          POCO_OK);
}

int32_t push(poco_stream* stream, int number, double time, poco_status* status = nullptr) {
    float frame[kUnits];
    for (int u = 0; u < kUnits; ++u) frame[u] = std::sin(0.3f * static_cast<float>(number + u));
    poco_forecast made{};
    made.size = sizeof made;
    return poco_stream_push(stream, frame, kUnits, time, &made, status);
}

poco_stream_options options_of(int32_t precision, int32_t threads) {
    poco_stream_options options{};
    options.size = sizeof options;
    poco_stream_default_options(&options, nullptr);
    options.precision = precision;
    options.threads = threads;
    return options;
}

void frames_take_no_memory(const std::string& folder) {
    for (const int32_t precision : {POCO_FLOAT32, POCO_BFLOAT16}) {
        Memory memory;
        set_memory(&memory);
        poco_model* const model = poco_model_open(folder.c_str(), nullptr);
        CHECK(memory.bytes > 10'000);  // the weights
        const poco_stream_options options = options_of(precision, 1);
        poco_stream* const stream = poco_stream_open(model, 0, &options, nullptr);
        const int64_t before = memory.taken;
        CHECK(before > 20);
        for (int i = 0; i < 500; ++i) CHECK(push(stream, i, NAN) == (i < kContext - 1 ? POCO_WARMING : POCO_OK));
        CHECK(poco::kFreshMemory || memory.taken == before);

        poco_status status;
        CHECK(poco_set_allocator(nullptr, nullptr, nullptr, &status) == POCO_ERROR);
        CHECK(std::strstr(status.message, "in use") != nullptr);
        CHECK(push(stream, 0, NAN) == POCO_OK &&
              (poco::kFreshMemory || memory.taken == before));  // scratch is where it was
        poco_model_close(model);
        CHECK(poco_set_allocator(nullptr, nullptr, nullptr, nullptr) == POCO_ERROR);  // the stream holds it
        poco_stream_close(stream);
        set_memory(nullptr);  // gives up the scratch that is kept
        CHECK(memory.held == 0 && memory.bytes == 0);
    }
    CHECK(poco_set_allocator(Memory::allocate, nullptr, nullptr, nullptr) == POCO_ERROR);
}

// Scratch of many calls side by side is kept.
void scratch_is_kept() {
    Memory memory;
    set_memory(&memory);
    for (int round = 0; round < 3; ++round) {
        std::vector<std::unique_ptr<poco::Workspace>> calls;
        for (size_t i = 0; i < 64; ++i) calls.push_back(std::make_unique<poco::Workspace>(1000));
        CHECK(memory.taken == (poco::kFreshMemory ? 64 * (round + 1) : 64));
    }
    CHECK(poco::Workspace::spares() == (poco::kFreshMemory ? 0 : 64));
    poco::Workspace::give_up_spares();
    // A very large block is not kept, and does not cost one that is.
    for (const size_t mebibytes : {63, 65}) {
        static_cast<void>(poco::Workspace(mebibytes << 20));
        CHECK(poco::Workspace::spares() == (poco::kFreshMemory ? 0 : 1));
    }
    set_memory(nullptr);
    CHECK(memory.held == 0 && poco::Workspace::spares() == 0);
}

// Without the first block, the second, and so on: an error, and all that was taken is back.
void no_memory(const std::string& folder) {
    int64_t failures_seen = 0;
    for (int64_t most = 0;; ++most) {
        Memory memory;
        memory.most = most;
        set_memory(&memory);
        poco_status status;
        poco_model* const model = poco_model_open(folder.c_str(), &status);
        poco_stream* stream = nullptr;
        if (model != nullptr) {
            const poco_stream_options options = options_of(POCO_BFLOAT16, 1);
            stream = poco_stream_open(model, 0, &options, &status);
        }
        const bool opened = stream != nullptr;
        CHECK(opened == (status.code == POCO_OK) && (opened || status.code == POCO_NO_MEMORY));
        CHECK(opened || std::strstr(status.message, "memory") != nullptr);
        failures_seen += !opened;
        poco_stream_close(stream);
        poco_model_close(model);
        set_memory(nullptr);
        CHECK(memory.held == 0);
        if (opened) break;
    }
    CHECK(failures_seen > 20);
}

// The scratch that the stream counted on is taken by other calls: the frame counts, and the next one is forecast.
void no_memory_on_the_way(const std::string& folder) {
    Memory memory;
    set_memory(&memory);
    poco_model* const model = poco_model_open(folder.c_str(), nullptr);
    poco_stream* const stream = poco_stream_open(model, 0, nullptr, nullptr);
    poco_stream* const second = poco_stream_open(model, 0, nullptr, nullptr);
    for (int i = 0; i < kContext; ++i) push(stream, i, NAN);
    poco_status status;
    {
        std::vector<std::unique_ptr<poco::Workspace>> others;
        for (int i = 0; i < 8; ++i) others.push_back(std::make_unique<poco::Workspace>(1));
        memory.most = memory.taken;
        CHECK(push(stream, kContext, NAN, &status) == POCO_NO_MEMORY && status.message[0] != '\0');
        CHECK(poco_stream_swap(second, model, &status) == POCO_NO_MEMORY);  // as it was
        memory.most = -1;
    }
    CHECK(push(stream, kContext + 1, NAN) == POCO_OK && push(second, 0, NAN) == POCO_WARMING);
    poco_stats stats{};
    stats.size = sizeof stats;
    CHECK(poco_stream_stats(stream, &stats, nullptr) == POCO_OK && stats.frames == kContext + 2 &&
          stats.forecasts == 2);
    poco_stream_close(stream);
    poco_stream_close(second);
    poco_model_close(model);
    set_memory(nullptr);
    CHECK(memory.held == 0);
}

// The same hooks from many threads.
void streams_side_by_side(const std::string& folder) {
    Memory memory;
    set_memory(&memory);
    poco_model* const model = poco_model_open(folder.c_str(), nullptr);
    const auto run = [&] {
        const poco_stream_options options = options_of(POCO_FLOAT32, 2);
        for (int opened = 0; opened < 5; ++opened) {
            poco_stream* const stream = poco_stream_open(model, 0, &options, nullptr);
            for (int i = 0; i < 50; ++i) push(stream, i, NAN);
            poco_stream_close(stream);
        }
    };
    std::thread one(run), other(run);
    one.join();
    other.join();
    poco_model_close(model);
    set_memory(nullptr);
    CHECK(memory.held == 0 && memory.bytes == 0 && memory.taken > 100);
}

void a_log_of_what_happens(const std::string& folder) {
    for (const uint32_t kinds : {0u, POCO_LOG_SETUP, POCO_LOG_FRAMES, POCO_LOG_SETUP | POCO_LOG_FRAMES}) {
        Log log;
        CHECK(poco_set_log(Log::write, &log, kinds, nullptr) == POCO_OK);
        poco_model* const model = poco_model_open(folder.c_str(), nullptr);
        poco_stream_options options = options_of(POCO_FLOAT32, 1);
        poco_stream* stream = poco_stream_open(model, 0, &options, nullptr);
        double time = 0;
        for (int i = 0; i < kContext + 2; ++i) push(stream, i, time += 0.5);
        CHECK(log.lines.size() == ((kinds & POCO_LOG_SETUP) != 0 ? 1 : 0));  // nothing has gone wrong
        push(stream, 0, time += 2.0);
        push(stream, 0, time += 100.0);
        CHECK(poco_stream_swap(stream, model, nullptr) == POCO_OK);
        poco_stream_close(stream);
        options.deadline_ms = 1e-9;
        stream = poco_stream_open(model, 0, &options, nullptr);
        for (int i = 0; i < kContext; ++i) push(stream, i, NAN);
        CHECK(log.kinds == kinds);
        if ((kinds & POCO_LOG_SETUP) != 0) {
            CHECK(log.says("a stream of session 'fish': 7 units, 12 frames to forecast 4, float32, threads: 1"));
            CHECK(log.says("another model for session 'fish'"));
        }
        if ((kinds & POCO_LOG_FRAMES) != 0) {
            CHECK(log.says("frame 17: 3 frames are missing before it"));
            CHECK(log.says("frame 18: 12 frames or more are missing before it, the context begins anew"));
            CHECK(log.says("frame 11: its forecast took ") && log.says("the deadline is 0.000 ms"));
        }
        poco_stream_close(stream);
        poco_model_close(model);
    }
    poco_status status;
    CHECK(poco_set_log(Log::write, nullptr, 4u, &status) == POCO_ERROR && std::strstr(status.message, "kind 4"));
    CHECK(poco_set_log(nullptr, nullptr, POCO_LOG_SETUP, nullptr) == POCO_OK);
    poco_model* const model = poco_model_open(folder.c_str(), nullptr);
    poco_stream_close(poco_stream_open(model, 0, nullptr, nullptr));
    poco_model_close(model);
}

}  // namespace

int main(int count, char** arguments) {
    if (count < 2) return 1;
    const std::string folder = arguments[1];
    frames_take_no_memory(folder);
    scratch_is_kept();
    no_memory(folder);
    no_memory_on_the_way(folder);
    streams_side_by_side(folder);
    a_log_of_what_happens(folder);
    return failures == 0 ? 0 : 1;
}
