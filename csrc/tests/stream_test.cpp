// Streaming: no allocation after the first forecast, damaged files, two streams of one model in two threads.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <new>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "core/errors.h"
#include "core/workspace.h"
#include "model_files.h"
#include "poco/poco.h"
#include "stream/json.h"
#include "stream/safetensors.h"
#include "stream/stream.h"

// Every allocation of C++ in this program is counted.
static std::atomic<int64_t> allocations{0};

void* operator new(size_t size) {
    ++allocations;
    void* const block = std::malloc(size);
    if (block == nullptr) throw std::bad_alloc();
    return block;
}
void* operator new(size_t size, std::align_val_t alignment) {
    ++allocations;
    const size_t line = static_cast<size_t>(alignment);
    void* const block = std::aligned_alloc(line, (size + line - 1) / line * line);
    if (block == nullptr) throw std::bad_alloc();
    return block;
}
void operator delete(void* block, std::align_val_t) noexcept {
    std::free(block);
}
void operator delete(void* block, size_t, std::align_val_t) noexcept {
    std::free(block);
}
void operator delete(void* block) noexcept {
    std::free(block);
}
void operator delete(void* block, size_t) noexcept {
    std::free(block);
}

namespace {

std::vector<float> frame_of(int number) {
    std::vector<float> frame(kUnits);
    for (size_t i = 0; i < frame.size(); ++i)
        frame[i] = std::sin(0.3f * static_cast<float>(number) + static_cast<float>(i));
    return frame;
}

std::shared_ptr<const poco::Model> model_of(const ModelFiles& files) {
    return poco::Model::read(files.config, poco::Buffer<uint8_t>(files.tensors.begin(), files.tensors.end()), "memory");
}

void nothing_is_allocated(const std::shared_ptr<const poco::Model>& model, int64_t frames) {
    for (const bool low : {false, true}) {
        for (const int threads : {1, 2}) {
            poco::StreamOptions options;
            options.arithmetic.bfloat16 = low;
            options.arithmetic.threads = threads;
            poco::Stream stream(model, 0, options);
            std::vector<float> frame = frame_of(0);
            for (int i = 0; i < 2 * kContext; ++i) stream.push(frame.data(), kUnits, NAN);
            const int64_t before = allocations;
            for (int64_t i = 0; i < frames; ++i) {
                frame[static_cast<size_t>(i % kUnits)] = i % 5 == 0 ? NAN : static_cast<float>(i % 11);
                stream.push(frame.data(), kUnits, NAN);
            }
            CHECK(poco::kFreshMemory || allocations == before);
            CHECK(stream.stats().forecasts == frames + kContext + 1);
        }
    }
}

// A damaged file through the C interface; poco_fuzz_replay has many more.
void damaged_file(const std::string& folder) {
    ModelFiles files = small_model();
    files.tensors.resize(files.tensors.size() / 2);
    CHECK(write_model(folder, files));
    poco_status status;
    CHECK(poco_model_open(folder.c_str(), &status) == nullptr);
    CHECK(status.code == POCO_ERROR && std::string(status.message).find("lies outside the file") != std::string::npos);
    CHECK(write_model(folder, small_model()));
    CHECK(poco_model_open("", &status) == nullptr && std::string(status.message).find("no folder") == 0);
}

void two_streams_of_one_model(const std::shared_ptr<const poco::Model>& model) {
    std::vector<float> found[2];
    const auto run = [&](int which) {
        poco::StreamOptions options;
        options.arithmetic.threads = 2;
        poco::Stream stream(model, 0, options);
        for (int i = 0; i < 300; ++i) {
            const std::vector<float> frame = frame_of(i);
            const poco::StreamForecast made = stream.push(frame.data(), kUnits, i * 0.5);
            if (made.values != nullptr)
                found[which].insert(found[which].end(), made.values, made.values + kUnits * kHorizon);
        }
    };
    std::thread one(run, 0), other(run, 1);
    one.join();
    other.join();
    CHECK(found[0].size() == static_cast<size_t>((300 - kContext + 1) * kUnits * kHorizon));
    CHECK(found[0] == found[1]);
}

// Anything may come: values that are not there or cannot be, frames of another length, times that jump. What is not
// marked as invalid is finite and of a unit that was in a whole context of frames; a refused frame changes nothing.
void faults(const std::string& folder, int64_t frames) {
    for (const int32_t missing : {POCO_HOLD, POCO_DROP}) {
        for (const int32_t gap : {POCO_FILL, POCO_RESTART, POCO_REFUSE}) {
            poco_stream_options options{};
            options.size = sizeof options;
            poco_stream_default_options(&options, nullptr);
            options.missing = missing;
            options.gap = gap;
            options.interval = 0.5;
            poco_model* const model = poco_model_open(folder.c_str(), nullptr);
            poco_stream* const stream = poco_stream_open(model, 0, &options, nullptr);
            poco_model_close(model);
            CHECK(stream != nullptr);
            if (stream == nullptr) return;

            const float bad[] = {NAN, INFINITY, -INFINITY, 3e38f, -1e20f, 1e9f};
            std::mt19937_64 random(static_cast<uint64_t>(10 * missing + gap));
            std::vector<int64_t> since(kUnits, 0);  // frames that a unit was in, since it was missing or a restart
            int64_t came = 0;                       // frames since the restart
            int64_t refused = 0, taken = 0, unmarked = 0, wrong = 0, finite_marked = 0, forecasts = 0;
            double time = 0;
            for (int64_t i = 0; i < frames; ++i) {
                std::vector<float> frame = frame_of(static_cast<int>(i % 1000));
                std::vector<bool> seen(kUnits, true);
                while (random() % 4 == 0) {
                    const size_t unit = random() % kUnits;
                    frame[unit] = bad[random() % 6];
                    seen[unit] = false;
                }
                const uint64_t fault = random() % 40;
                double now = time + 0.5;
                if (fault == 0) now = time - static_cast<double>(random() % 3);
                if (fault == 1) now = time + 0.5 * static_cast<double>(2 + random() % 20);
                if (fault == 2) now = INFINITY;
                if (fault == 3) now = NAN;
                const int64_t length = fault == 4 ? static_cast<int64_t>(random() % kUnits) : kUnits;
                poco_status status;
                poco_forecast made{};
                made.size = sizeof made;
                const int32_t code = poco_stream_push(stream, frame.data(), length, now, &made, &status);
                if (code < 0) {
                    ++refused;
                    wrong += status.message[0] == '\0';
                    if (gap == POCO_REFUSE && now > time) time = now - 0.5;  // the clock went on without us
                    if (gap == POCO_REFUSE) {
                        poco_stream_reset(stream);
                        std::fill(since.begin(), since.end(), 0);
                        came = 0;
                    }
                    if (std::isinf(time)) time = 0;
                    continue;
                }
                ++taken;
                if (!std::isnan(now)) time = now;
                if ((made.marks & POCO_MARK_RESTARTED) != 0) {
                    std::fill(since.begin(), since.end(), 0);
                    came = 0;
                }
                ++came;
                forecasts += code == POCO_OK;
                for (size_t u = 0; u < kUnits; ++u) {
                    since[u] = seen[u] ? since[u] + 1 : 0;
                    wrong += (made.valid[u] == 1) != (since[u] >= kContext);
                    if (code != POCO_OK) continue;
                    bool finite = true;
                    for (size_t h = 0; h < kHorizon; ++h)
                        finite = finite && std::isfinite(made.values[u * kHorizon + h]);
                    unmarked += made.valid[u] == 1 && !finite;
                    finite_marked += made.valid[u] == 0 && since[u] < came && finite;  // it was missing
                }
            }
            poco_stats stats{};
            stats.size = sizeof stats;
            poco_stream_stats(stream, &stats, nullptr);
            CHECK(unmarked == 0 && wrong == 0);
            CHECK(stats.refused == refused && stats.frames - stats.filled == taken && stats.forecasts == forecasts);
            CHECK(refused > 0 && forecasts > frames / 20 && stats.held_values > 0);
            CHECK((finite_marked > 0) == (missing == POCO_HOLD));
            CHECK((stats.filled > 0) == (gap == POCO_FILL) && (stats.restarts > 0) == (gap != POCO_REFUSE));
            poco_stream_close(stream);
        }
    }
}

// A unit that is left out makes more pieces of fewer rows; memory for them is there.
void nothing_is_allocated_for_fewer_units() {
    constexpr int64_t units = 12'289;
    const std::shared_ptr<const poco::Model> model = model_of(small_model({units}));
    for (const bool low : {false, true}) {
        poco::StreamOptions options;
        options.arithmetic.bfloat16 = low;
        options.missing = poco::Missing::drop;
        poco::Stream stream(model, 0, options);
        std::vector<float> frame(units, 0.5f);
        for (int i = 0; i < kContext; ++i) stream.push(frame.data(), units, NAN);
        const int64_t before = allocations;
        frame[7] = NAN;
        for (int i = 0; i < 3; ++i) stream.push(frame.data(), units, NAN);
        std::fill(frame.begin(), frame.begin() + 5'000, NAN);
        for (int i = 0; i < 3; ++i) stream.push(frame.data(), units, NAN);
        CHECK(poco::kFreshMemory || allocations == before);
        CHECK(stream.stats().forecasts == 7);
    }
}

// Frames of another rate than the session's 2 Hz are marked, jitter and gaps are not.
void rates(const std::shared_ptr<const poco::Model>& model) {
    constexpr int64_t frames = 4 * kContext, forecasts = frames - kContext + 1;
    // Forecasts that are marked, of frames at times that `next` makes of the number and the time of the one before.
    const auto marked = [&](auto next, int64_t gaps = 0, double tolerance = 0.5) {
        poco::StreamOptions options;
        options.tolerance = tolerance;
        poco::Stream stream(model, 0, options);
        const std::vector<float> frame = frame_of(1);
        int64_t found = 0;
        double time = 0;
        for (int64_t i = 0; i < frames; ++i) {
            time = next(i, time);
            const bool timed = !(time < 0);
            const poco::StreamForecast made = stream.push(frame.data(), kUnits, timed ? time : NAN);
            if (!timed) time = -time;
            found += (made.flags & poco::kRate) != 0;
            CHECK((made.flags & poco::kRate) == 0 || made.values != nullptr);
        }
        CHECK(stream.stats().off_rate == found && stream.stats().gaps == gaps);
        return found;
    };
    for (const double slower : {1.0, 0.8, 1.3}) {
        CHECK(marked([&](int64_t, double before) { return before + 0.5 * slower; }) == 0);
    }
    for (const double slower : {0.5, 0.7, 1.45}) {
        CHECK(marked([&](int64_t, double before) { return before + 0.5 * slower; }) == forecasts);
    }
    CHECK(marked([](int64_t, double before) { return before + 1.6; }, 0, 3.0) == forecasts);  // no gap, and yet
    const auto jitter = [](int64_t i, double) {
        return 10 + 0.5 * (static_cast<double>(i) + (i % 2 == 0 ? 0.2 : -0.2));
    };
    CHECK(marked(jitter) == 0);
    CHECK(marked(jitter, 0, 0.1) == 0);  // nor is a frame filled in for it
    CHECK(marked([](int64_t i, double before) { return before + (i == 30 ? 3.0 : 0.5); }, 1) == 0);
    CHECK(marked([](int64_t, double) { return -1.0; }) == 0);  // no times
    const auto seldom = [](int64_t i, double before) { return (i % 3 == 0 ? 1 : -1) * (before + 0.25); };
    CHECK(marked(seldom) == forecasts);
    // The rate comes right: it is marked as long as the context is too fast as a whole.
    const int64_t some = marked([](int64_t i, double before) { return before + (i < 20 ? 0.25 : 0.5); });
    CHECK(some > 20 - kContext && some < 21);
}

// Units are valid once they were in a context of frames, those filled in left out.
void valid_units(const std::shared_ptr<const poco::Model>& model) {
    for (const poco::Missing missing : {poco::Missing::hold, poco::Missing::drop}) {
        poco::StreamOptions options;
        options.missing = missing;
        poco::Stream stream(model, 0, options);
        std::vector<float> frame = frame_of(1);
        double time = 0;
        const auto push = [&] { return stream.push(frame.data(), kUnits, time += 0.5); };
        const auto valid = [](const poco::StreamForecast& made) {
            return std::count(made.valid, made.valid + kUnits, uint8_t{1});
        };
        for (int i = 0; i < kContext - 1; ++i) {
            const poco::StreamForecast made = push();
            CHECK(made.flags == 0 && valid(made) == 0);
        }
        poco::StreamForecast made = push();
        CHECK(made.flags == 0 && valid(made) == kUnits);
        stream.reset();
        frame[3] = NAN;
        made = push();
        CHECK(made.flags == poco::kHeld && valid(made) == 0);
        frame[3] = 0;
        for (int i = 1; i < kContext; ++i) made = push();
        CHECK(made.flags == poco::kHeld && valid(made) == kUnits - 1 && made.valid[3] == 0);
        made = push();
        CHECK(made.flags == 0 && valid(made) == kUnits);

        stream.reset();
        for (int i = 0; i < kContext - 4; ++i) push();
        time += 1.5;  // three frames are missing
        made = push();
        CHECK(made.flags == poco::kFilled && made.values != nullptr && valid(made) == 0);
        for (int i = 0; i < kUnits * kHorizon; ++i) CHECK(std::isfinite(made.values[i]));
        for (int i = 0; i < 2; ++i) CHECK(valid(push()) == 0);
        made = push();
        CHECK(made.flags == poco::kFilled && valid(made) == kUnits);
    }
}

// What a model that is swapped in must know of a session, and what becomes of values that are out of its range.
void swaps() {
    poco::StreamOptions options;
    options.arithmetic.threads = 1;
    poco::Stream stream(model_of(small_model()), 0, options);
    const std::vector<float> frame = frame_of(1);
    for (int i = 0; i < kContext; ++i) stream.push(frame.data(), kUnits, NAN);
    const auto refused = [](const auto& run) {
        try {
            run();
        } catch (const poco::Error& error) {
            return std::string(error.what());
        }
        return std::string();
    };
    const Fish reversed{kUnits, true};
    const std::string says = refused([&] { stream.swap(model_of(small_model(reversed))); });
    CHECK(says.find("session 'fish' has other units") != std::string::npos);
    CHECK(refused([&] { model_of(small_ensemble({}, reversed)); }).find("session 'fish'") != std::string::npos);
    poco::StreamForecast made = stream.push(frame.data(), kUnits, NAN);
    CHECK(made.flags == 0 && stream.stats().held_values == 0);

    const auto narrow = model_of(small_model({kUnits, false, 1e-9f}));
    stream.swap(narrow);
    CHECK(stream.stats().held_values == kUnits * kContext);
    std::vector<float> inside(kUnits);
    for (size_t i = 0; i < kUnits; ++i) inside[i] = narrow->sessions()[0].mean[i];
    for (int i = 0; i < kContext; ++i) {
        made = stream.push(inside.data(), kUnits, NAN);
        const bool whole = i == kContext - 1;
        CHECK(made.flags == (whole ? 0 : poco::kHeld) && made.valid[0] == whole);
        for (int j = 0; j < kUnits * kHorizon; ++j) CHECK(std::isfinite(made.values[j]));
    }
}

void strict_json() {
    const auto fails = [](const std::string& text) {
        try {
            poco::Json::parse(text, "it");
        } catch (const poco::Error&) {
            return true;
        }
        return false;
    };
    for (const char* const bad : {"", "{", "[1,]", "{\"a\":1,\"a\":2}", "01", "1.", "+1", "nul", "\"\\x\"",
                                  "\"\\ud800\"", "[1] 2", "\"\n\"", "{1:2}"}) {
        CHECK(fails(bad));
    }
    CHECK(fails(std::string(1000, '[')));
    for (const char* const bad : {"\x80", "\xc3", "\xc3(", "\xc0\xaf", "\xe0\x80\x80", "\xed\xa0\x80", "\xe2\x82",
                                  "\xf0\x8f\xbf\xbf", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff"}) {
        CHECK(fails("\"" + std::string(bad) + "\""));  // no UTF-8
    }
    for (const char* const good :
         {"\xc3\xa9", "\xe0\xa0\x80", "\xed\x9f\xbf", "\xef\xbf\xbf", "\xf0\x90\x80\x80", "\xf4\x8f\xbf\xbf"}) {
        const poco::Json text = poco::Json::parse("\"" + std::string(good) + "\"", "it");
        CHECK(text.string() == good);
    }
    const poco::Json value =
        poco::Json::parse(" {\"a\": [1, -2.5e1, true, null, \"\\u00e9\\ud83d\\ude00\\n\"]} ", "it");
    const std::vector<poco::Json>& items = value.at("a").array();
    CHECK(items[0].integer() == 1 && items[1].number() == -25 && items[2].boolean() && items[3].is_null());
    CHECK(items[4].string() == "\xc3\xa9\xf0\x9f\x98\x80\n");
    CHECK(value.find("b") == nullptr);
}

void quantiles() {
    poco::Latencies latencies;
    for (int i = 1; i <= 1000; ++i) latencies.add(0.01 * i);
    CHECK(std::fabs(latencies.quantile(0.5) / 5 - 1) < 0.1 && std::fabs(latencies.quantile(0.99) / 9.9 - 1) < 0.1);
    CHECK(latencies.longest() == 10 && latencies.quantile(1) == 10 && latencies.count() == 1000);
}

}  // namespace

int main(int count, char** arguments) {
    if (count < 2) return 1;
    const std::string folder = arguments[1];
    const int64_t frames = count > 2 ? std::atoll(arguments[2]) : 20'000;
    CHECK(write_model(folder, small_model()));
    strict_json();
    quantiles();
    for (const ModelFiles& files : {small_model(), small_grounded(), small_ensemble()}) {
        nothing_is_allocated(model_of(files), frames / 4);
        two_streams_of_one_model(model_of(files));
    }
    nothing_is_allocated_for_fewer_units();
    rates(model_of(small_model()));
    valid_units(model_of(small_model()));
    swaps();
    faults(folder, frames);
    damaged_file(folder);
    return failures == 0 ? 0 : 1;
}
