// Whatever the two files of a model hold: an Error that says something, or a model that streams; never more. The input
// is the number of bytes of config.json (four, the lowest first), config.json, and model.safetensors.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include "core/errors.h"
#include "stream/stream.h"

namespace {

constexpr int64_t kMostFrames = 40, kMostSessions = 3;

void must(bool ok, const char* what) {
    if (ok) return;
    std::fprintf(stderr, "FAILED: %s\n", what);
    std::abort();
}

// A few frames through a stream of a session, values missing now and then; `other`: by the other options.
void stream_through(const std::shared_ptr<const poco::Model>& model, int64_t session, bool other) {
    poco::StreamOptions options;
    options.missing = other ? poco::Missing::drop : poco::Missing::hold;
    options.arithmetic.bfloat16 = other;
    poco::Stream stream(model, session, options);
    std::vector<float> frame(static_cast<size_t>(stream.units()));
    for (int64_t n = 0; n < std::min(model->context() + 2, kMostFrames); ++n) {
        for (size_t u = 0; u < frame.size(); ++u)
            frame[u] = std::sin(0.3f * static_cast<float>(n) + static_cast<float>(u));
        if (n % 5 == 4) frame[static_cast<size_t>(n) % frame.size()] = NAN;
        const poco::StreamForecast made = stream.push(frame.data(), stream.units(), NAN);
        if (made.values == nullptr) continue;
        for (size_t u = 0; u < frame.size(); ++u) {
            for (int64_t h = 0; made.valid[u] != 0 && h < stream.horizon(); ++h) {
                must(std::isfinite(made.values[static_cast<int64_t>(u) * stream.horizon() + h]),
                     "a valid forecast is finite");
            }
        }
    }
}

}  // namespace

int64_t refused_models = 0;  // so far

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    if (size < 4) return 0;
    size_t length = 0;
    for (size_t i = 4; i-- > 0;) length = length << 8 | data[i];
    length = std::min(length, size - 4);
    const std::string_view config(reinterpret_cast<const char*>(data) + 4, length);
    try {
        const auto model = poco::Model::read(config, poco::Buffer<uint8_t>(data + 4 + length, data + size), "memory");
        must(model->context() > 0 && model->horizon() > 0 && !model->sessions().empty(), "a model has sizes");
        const auto sessions = static_cast<int64_t>(model->sessions().size());
        for (int64_t session = 0; session < std::min(sessions, kMostSessions); ++session) {
            for (const bool other : {false, true}) stream_through(model, session, other);
        }
    } catch (const poco::Error& error) {
        must(error.what()[0] != '\0', "an error says something");
        ++refused_models;
    } catch (const std::bad_alloc&) {
        ++refused_models;
    }
    return 0;
}
