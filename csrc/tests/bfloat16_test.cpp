// bfloat16 products against plain loops in double precision. Built for AVX512-BF16 and for AMX, and once more
// for each on emulated instructions; exit code 77 means that the processor lacks them.
#if defined(POCO_EMULATED)
#include "emulated_instructions.h"
#endif

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "check.h"
#include "core/cpu_features.h"
#include "core/philox.h"
#include "cpu/gemm_bf16.h"

namespace {

using namespace poco;

// Numbers in (-1, 1), always the same.
std::vector<Bfloat16> numbers(int64_t count, uint64_t seed) {
    std::vector<uint32_t> words(static_cast<size_t>(count));
    philox_fill(seed, 0, 1, count, words.data());
    std::vector<Bfloat16> values;
    for (const uint32_t word : words) values.push_back(to_bfloat16(static_cast<float>(word) * 4.656612e-10f - 1.0f));
    return values;
}

std::vector<float> widened(const std::vector<Bfloat16>& values) {
    std::vector<float> wide;
    for (const Bfloat16 value : values) wide.push_back(to_float(value));
    return wide;
}

// One product of all kinds against plain loops; what lies outside the rounded-up C must not change.
void test_product(int64_t rows, int64_t inner, int64_t columns) {
    const int64_t line = round_up(columns), row = round_up(inner, 2) + 2;
    const std::vector<Bfloat16> a = numbers(rows * row + 2, 1), b = numbers((inner + 1) * line + 1, 2);
    const std::vector<float> bias = widened(numbers(rows + 1, 3)), before = widened(numbers((rows + 1) * line + 1, 4));
    std::vector<uint32_t> pairs;
    for (int64_t k = 0; k < inner; k += 2) {
        for (int64_t j = 0; j < line; ++j) {
            const auto bits = [&](int64_t at) { return k + at < inner ? b[size_t((k + at) * line + j)].bits : 0u; };
            pairs.push_back(bits(0) | static_cast<uint32_t>(bits(1)) << 16);
        }
    }
    pairs.push_back(0);  // so that there is one
    std::vector<float> c[3] = {before, before, before};
    const BfloatRows weights{a.data(), row};
    {
        const AmxTiles tiles;
        multiply<Onto::zero>(rows, inner, columns, weights, pairs.data(), line, c[0].data(), line);
        multiply<Onto::bias>(rows, inner, columns, weights, pairs.data(), line, c[1].data(), line, bias.data());
        multiply<Onto::c>(rows, inner, columns, weights, pairs.data(), line, c[2].data(), line);
    }
    for (int64_t i = 0; i < rows; ++i) {
        for (int64_t j = 0; j < columns; ++j) {
            double wanted = 0, size = 1;
            for (int64_t k = 0; k < inner; ++k) {
                const double one = double(to_float(a[size_t(i * row + k)])) * double(to_float(b[size_t(k * line + j)]));
                wanted += one;
                size += std::fabs(one);
            }
            const size_t at = size_t(i * line + j);
            CHECK(std::fabs(double(c[0][at]) - wanted) < 1e-6 * size);
            CHECK(std::fabs(double(c[1][at]) - wanted - double(bias[size_t(i)])) < 1e-6 * size);
            CHECK(std::fabs(double(c[2][at]) - wanted - double(before[at])) < 1e-6 * size);
        }
    }
    for (const std::vector<float>& one : c) {
        for (size_t at = size_t(rows * line); at < one.size(); ++at) CHECK(one[at] == before[at]);
    }
}

// Cheaper than in float32, but well within what bfloat16 can tell.
void test_gelu() {
    double value_error = 0, slope_error = 0;
    for (double at = -30; at < 30; at += 0.00137) {
        const float x = static_cast<float>(at);
        const double exact = x, cdf = 0.5 * std::erfc(-exact * std::sqrt(0.5));
        Vector value, slope;
        gelu_and_slope(broadcast(x), value, slope);
        CHECK(value[0] == gelu(broadcast(x))[0]);
        value_error = std::fmax(value_error, std::fabs(value[0] - exact * cdf) / std::fmax(1.0, std::fabs(exact)));
        slope_error = std::fmax(slope_error,
                                std::fabs(slope[0] - cdf - exact * std::exp(-exact * exact / 2) * 0.3989422804014327));
    }
    CHECK(value_error < 1.2e-4);
    CHECK(slope_error < 5.2e-4);
    CHECK(std::isnan(gelu(broadcast(std::nanf("")))[0]));
}

}  // namespace

int main() {
#if defined(POCO_EMULATED)
    constexpr Isa needed = Isa::avx2;
#elif defined(__AMX_BF16__)
    constexpr Isa needed = Isa::amx;
#else
    constexpr Isa needed = Isa::avx512_bf16;
#endif
    if (!can_run(needed)) {
        std::printf("skipped: this processor cannot run %s\n", name(needed));
        return 77;
    }
    for (const int64_t rows : {0, 1, 2, 7, 15, 16, 17, 33, 48}) {
        for (const int64_t columns : {1, 16, 17, 33, 48, 113}) {
            for (const int64_t inner : {0, 1, 2, 15, 16, 31, 32, 33, 48, 64, 99}) test_product(rows, inner, columns);
        }
    }
    test_gelu();
    test_product(128, 512, 48);
    std::puts(failures == 0 ? "all passed" : "some failed");
    return failures == 0 ? 0 : 1;
}
