// Tests of the core without Python. Argument: the instruction set that POCO_CPU names; exit code 77 means skipped.
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <limits>
#include <string>
#include <type_traits>
#include <vector>

#include "check.h"
#include "core/cpu_features.h"
#include "core/errors.h"
#include "core/gather.h"
#include "core/philox.h"
#include "poco/poco.h"

namespace {

bool fails_with(const std::function<void()>& action, const std::string& part) {
    try {
        action();
    } catch (const poco::Error& error) {
        if (std::string(error.what()).find(part) != std::string::npos) return true;
        std::printf("unexpected message: %s\n", error.what());
    }
    return false;
}

void test_cpu_features_are_named() {
    static_assert(std::is_trivially_destructible_v<poco::CpuFeatures>, "what poco_cpu_features gave stays");
    static_assert(std::is_nothrow_default_constructible_v<poco::CpuFeatures>, "it is called from C");
    std::string joined;
    for (const char* const name : poco::cpu_features()) joined += (joined.empty() ? "" : " ") + std::string(name);
    CHECK(joined == poco_cpu_features());
}

void test_philox_known_answers() {
    using Words = std::array<uint32_t, 4>;
    CHECK((poco::philox_block({0, 0, 0, 0}, {0, 0}) == Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
    const uint32_t ones = 0xffffffffu;
    CHECK((poco::philox_block({ones, ones, ones, ones}, {ones, ones}) ==
           Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
    CHECK((poco::philox_block({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
           Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

void test_philox_fill() {
    const uint64_t seed = 0x0123456789abcdefULL;
    const uint64_t first_row = (uint64_t{1} << 32) - 2;  // crosses into the high half of the row
    for (const int64_t columns : {1, 3, 4, 5, 64, 255, 256, 257, 1000}) {
        const int64_t rows = 5;
        const uint32_t poison = 0xa5a5a5a5u;
        std::vector<uint32_t> words(rows * columns + 1, poison);
        poco::philox_fill(seed, first_row, rows, columns, words.data());
        CHECK(words.back() == poison);
        for (const double p : {0.0, 0.2, 0.5, 0.999}) {
            std::vector<uint8_t> keep(rows * columns + 1, 0x5a);
            poco::dropout_fill(seed, first_row, rows, columns, p, keep.data());
            CHECK(keep.back() == 0x5a);
            for (int64_t i = 0; i < rows * columns; ++i) {
                CHECK(keep[i] == (words[i] >= poco::dropout_threshold(p) ? 1 : 0));
            }
        }
        for (int64_t r = 0; r < rows; ++r) {
            const uint64_t row = first_row + static_cast<uint64_t>(r);
            for (int64_t c = 0; c < columns; ++c) {
                const auto block = poco::philox_block(
                    {static_cast<uint32_t>(c / 4), static_cast<uint32_t>(row), static_cast<uint32_t>(row >> 32), 0},
                    {0x89abcdefu, 0x01234567u});
                CHECK(words[r * columns + c] == block[c % 4]);
            }
        }
    }
    poco::philox_fill(seed, 0, 0, 7, nullptr);
    CHECK(fails_with([] { poco::philox_fill(0, 0, -1, 4, nullptr); }, "rows and columns"));
}

void test_dropout_probability() {
    CHECK(poco::dropout_threshold(0.0) == 0);
    CHECK(poco::dropout_threshold(0.5) == 0x80000000u);
    CHECK(poco::dropout_threshold(std::nextafter(1.0, 0.0)) == (uint64_t{1} << 32));
    for (const double p : {-0.1, 1.0, 1.5, std::numeric_limits<double>::quiet_NaN()}) {
        CHECK(fails_with([p] { poco::dropout_threshold(p); }, "probability"));
    }
    std::vector<uint8_t> keep(100000);
    poco::dropout_fill(7, 0, 100, 1000, 0.3, keep.data());
    double kept = 0;
    for (const uint8_t k : keep) kept += k;
    CHECK(std::fabs(kept / 1e5 - 0.7) < 0.01);
}

void test_gather() {
    const int64_t units[] = {3, 0, 1};
    const int64_t frames[] = {9, 4, 5};
    std::vector<std::vector<float>> activity(3), mean(3), inverse(3);
    std::vector<poco::SessionView> sessions;
    for (int s = 0; s < 3; ++s) {
        for (int64_t i = 0; i < units[s] * frames[s]; ++i) activity[s].push_back(static_cast<float>(100 * s + i));
        for (int64_t n = 0; n < units[s]; ++n) {
            mean[s].push_back(static_cast<float>(n) + 0.5f);
            inverse[s].push_back(1.0f / static_cast<float>(n + 3));
        }
        sessions.push_back({activity[s].data(), mean[s].data(), inverse[s].data(), units[s], frames[s]});
    }
    const std::vector<int64_t> session = {2, 0, 1, 0};
    const std::vector<int64_t> start = {0, 4, 0, 0};
    for (const int64_t horizon : {2, 1, 0}) {
        const int64_t context = 3;
        const bool fits = horizon < 2;  // session 1 has 4 frames
        const poco::WindowsView windows{session.data(), start.data(), 4, context, horizon};
        std::vector<float> x(7 * context + 1, -1.0f), target(7 * horizon + 1, -1.0f);
        std::vector<int32_t> index(8, -1), offsets(6, -1);
        const auto gather = [&] {
            poco::gather_windows(sessions.data(), 3, windows, x.data(), target.data(), index.data(), offsets.data());
        };
        if (!fits) {
            CHECK(fails_with(gather, "window 2: 5 frames from frame 0 do not lie within the 4 frames of session 1"));
            CHECK(x[0] == -1.0f && target[0] == -1.0f && index[0] == -1 && offsets[0] == -1);
            continue;
        }
        CHECK(poco::count_rows(sessions.data(), 3, windows) == 7);
        gather();
        CHECK((offsets == std::vector<int32_t>{0, 1, 4, 4, 7, -1}));
        CHECK((index == std::vector<int32_t>{3, 0, 1, 2, 0, 1, 2, -1}));
        CHECK(x.back() == -1.0f && target.back() == -1.0f);
        int64_t row = 0;
        for (size_t w = 0; w < session.size(); ++w) {
            const int64_t s = session[w];
            for (int64_t n = 0; n < units[s]; ++n, ++row) {
                for (int64_t t = 0; t < context + horizon; ++t) {
                    const float expected = (activity[s][n * frames[s] + start[w] + t] - mean[s][n]) * inverse[s][n];
                    CHECK((t < context ? x[row * context + t] : target[row * horizon + t - context]) == expected);
                }
            }
        }
    }
}

void test_gather_bounds() {
    const std::vector<float> values(10, 1.0f);
    const poco::SessionView one{values.data(), values.data(), values.data(), 2, 5};
    const auto count = [&](int64_t session, int64_t start, int64_t context, int64_t horizon) {
        return poco::count_rows(&one, 1, {&session, &start, 1, context, horizon});
    };
    constexpr int64_t huge = std::numeric_limits<int64_t>::max();
    CHECK(count(0, 1, 3, 1) == 2);
    CHECK(fails_with([&] { count(0, 2, 3, 1); }, "do not lie within"));
    CHECK(fails_with([&] { count(0, -1, 3, 1); }, "do not lie within"));
    CHECK(fails_with([&] { count(0, huge, 3, 1); }, "do not lie within"));
    CHECK(fails_with([&] { count(1, 0, 3, 1); }, "session 1 is not one of the 1"));
    CHECK(fails_with([&] { count(-1, 0, 3, 1); }, "session -1"));
    CHECK(fails_with([&] { count(0, 0, 0, 1); }, "context"));
    CHECK(fails_with([&] { count(0, 0, huge, huge); }, "context"));
    CHECK(fails_with([&] { count(0, 0, 3, -1); }, "horizon"));
    const poco::SessionView wide{nullptr, nullptr, nullptr, int64_t{1} << 30, 5};
    const std::vector<int64_t> zeros(2, 0);
    CHECK(fails_with([&] { poco::count_rows(&wide, 1, {zeros.data(), zeros.data(), 2, 3, 1}); }, "2^31 - 1 rows"));
    const std::vector<poco::SessionView> two = {wide, wide};
    CHECK(fails_with([&] { poco::count_rows(two.data(), 2, {zeros.data(), zeros.data(), 0, 3, 1}); }, "units"));
}

}  // namespace

int main(int argc, char** argv) {
    const std::string wanted = argc > 1 ? argv[1] : "";
    for (const poco::Isa isa : {poco::Isa::avx2, poco::Isa::avx512, poco::Isa::avx512_bf16, poco::Isa::amx}) {
        if (wanted == poco::name(isa) && !poco::can_run(isa)) {
            std::printf("skipped: this processor cannot run %s\n", wanted.c_str());
            CHECK(fails_with([] { poco::isa(); }, "cannot run"));
            return failures == 0 ? 77 : 1;
        }
    }
    if (!wanted.empty()) CHECK(poco::name(poco::isa()) == wanted);
    CHECK(std::string(poco_version()) == POCO_EXPECTED_VERSION);
    test_cpu_features_are_named();
    test_philox_known_answers();
    test_philox_fill();
    test_dropout_probability();
    test_gather();
    test_gather_bounds();
    std::printf(failures == 0 ? "all passed (%s)\n" : "some failed (%s)\n", poco::name(poco::isa()));
    return failures == 0 ? 0 : 1;
}
