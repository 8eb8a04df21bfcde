// Programs that were built with an older or a newer header: structs of another size.
#include <cmath>
#include <cstddef>
#include <cstring>
#include <string>
#include <vector>

#include "check.h"
#include "model_files.h"
#include "poco/poco.h"

namespace {

// A struct of the interface in the middle of memory that must stay as it was.
template <typename T>
struct Inside {
    explicit Inside(size_t size) : bytes(sizeof(T) + 256, 0xAB) { std::memcpy(bytes.data(), &size, sizeof size); }

    T* get() { return reinterpret_cast<T*>(bytes.data()); }
    bool untouched_from(size_t first) const { return all_from(first, bytes.size(), 0xAB); }
    bool zeros(size_t first, size_t last) const { return all_from(first, last, 0); }

    std::vector<unsigned char> bytes;

private:
    bool all_from(size_t first, size_t last, unsigned char value) const {
        for (size_t i = first; i < last; ++i) {
            if (bytes[i] != value) return false;
        }
        return true;
    }
};

// What is asked of an answer, whatever makes it: `ask` fills a T, and `name` is in the message where it cannot.
// `first`: the bytes that the interface's first version had of it.
template <typename T, typename Ask>
void answers(const std::string& name, size_t first, const Ask& ask) {
    poco_status status;
    for (const size_t wrong : {size_t{0}, size_t{1}, first - 1, size_t{4097}, ~size_t{0}}) {
        Inside<T> given(wrong);
        CHECK(ask(given.get(), &status) == POCO_ERROR && status.code == POCO_ERROR);
        CHECK(std::strstr(status.message, name.c_str()) != nullptr && std::strstr(status.message, "sizeof"));
        CHECK(given.untouched_from(sizeof(size_t)));
    }
    CHECK(ask(nullptr, &status) == POCO_ERROR && std::strstr(status.message, name.c_str()) != nullptr);
    Inside<T> older(first), same(sizeof(T)), newer(sizeof(T) + 40);
    CHECK(ask(older.get(), &status) >= 0 && older.get()->size == first && older.untouched_from(first));
    CHECK(ask(same.get(), &status) >= 0 && same.get()->size == sizeof(T) && same.untouched_from(sizeof(T)));
    CHECK(ask(newer.get(), &status) >= 0 && newer.get()->size == sizeof(T) + 40);
    CHECK(newer.zeros(sizeof(T), sizeof(T) + 40) && newer.untouched_from(sizeof(T) + 40));
}

// And of what a caller asks for: `good` is a T that can be had.
template <typename T, typename Ask>
void wishes(const std::string& name, size_t first, const T& good, const Ask& ask) {
    poco_status status;
    T older = good;
    older.size = first;
    CHECK(ask(&older, &status));
    for (const size_t wrong : {size_t{0}, first - 1, size_t{4097}}) {
        T given = good;
        given.size = wrong;
        CHECK(!ask(&given, &status) && std::strstr(status.message, name.c_str()) != nullptr);
        CHECK(std::strstr(status.message, "sizeof") != nullptr);
    }
    for (const unsigned char more : {0, 1}) {
        Inside<T> newer(0);
        std::memset(newer.bytes.data(), 0, sizeof(T) + 40);
        std::memcpy(newer.bytes.data(), &good, sizeof(T));
        newer.get()->size = sizeof(T) + 40;
        newer.bytes[sizeof(T) + 39] = more;
        CHECK(ask(newer.get(), &status) == (more == 0));
        CHECK(more == 0 || std::strstr(status.message, "newer libpoco") != nullptr);
    }
}

}  // namespace

int main(int count, char** arguments) {
    if (count < 2) return 1;
    poco_model* const model = poco_model_open(arguments[1], nullptr);
    poco_stream* const stream = poco_stream_open(model, 0, nullptr, nullptr);
    CHECK(stream != nullptr);
    if (stream == nullptr) return 1;

    const float frame[kUnits] = {};
    answers<poco_forecast>("poco_forecast", sizeof(poco_forecast), [&](poco_forecast* to, poco_status* status) {
        return poco_stream_push(stream, frame, kUnits, NAN, to, status);
    });
    answers<poco_stats>("poco_stats", offsetof(poco_stats, off_rate),
                        [&](poco_stats* to, poco_status* status) { return poco_stream_stats(stream, to, status); });
    poco_stats stats{};
    stats.size = sizeof stats;
    CHECK(poco_stream_stats(stream, &stats, nullptr) == POCO_OK);
    CHECK(stats.frames == 3 && stats.refused == 0);  // a forecast that cannot be written costs no frame
    CHECK(poco_stream_stats(nullptr, &stats, nullptr) == POCO_ERROR);

    constexpr size_t of_options = offsetof(poco_stream_options, device);
    answers<poco_stream_options>("poco_stream_options", of_options, poco_stream_default_options);
    poco_stream_options options{};
    options.size = sizeof options;
    poco_stream_default_options(&options, nullptr);
    wishes("poco_stream_options", of_options, options, [&](const poco_stream_options* wanted, poco_status* status) {
        poco_stream* const opened = poco_stream_open(model, 0, wanted, status);
        poco_stream_close(opened);
        return opened != nullptr;
    });
    poco_realtime nothing{};
    nothing.size = sizeof nothing;
    wishes("poco_realtime", sizeof nothing, nothing, [](const poco_realtime* wanted, poco_status* status) {
        return poco_set_realtime(wanted, status) == POCO_OK;
    });
    nothing.reserved = 1;
    CHECK(poco_set_realtime(&nothing, nullptr) == POCO_ERROR);

    poco_stream_close(stream);
    poco_model_close(model);
    return failures == 0 ? 0 : 1;
}
