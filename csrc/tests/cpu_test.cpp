// Tests of what the kernels of the two passes are made of: vectors, tile products, tiles of rows. Built once per
// instruction set; exit code 77 means that this processor lacks it. The passes themselves are tested from Python,
// against the reference.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <vector>

#include "check.h"
#include "core/philox.h"
#include "cpu/operands.h"

namespace {

using namespace poco;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
// Numbers in (-1, 1), always the same.
std::vector<float> numbers(int64_t count, uint64_t seed) {
    std::vector<uint32_t> words(static_cast<size_t>(count));
    philox_fill(seed, 0, 1, count, words.data());
    std::vector<float> values;
    for (const uint32_t word : words) values.push_back(static_cast<float>(word) * 4.656612e-10f - 1.0f);
    return values;
}

bool close(double value, double wanted, double tolerance) {
    return std::fabs(value - wanted) <= tolerance * std::fmax(1.0, std::fabs(wanted));
}

void test_vectors() {
    std::vector<float> values = numbers(2 * kLanes, 1);
    const Vector v = load(values.data() + 1);
    double total = 0;
    float top = -2;
    for (int i = 0; i < kLanes; ++i) {
        CHECK(v[i] == values[static_cast<size_t>(i) + 1]);
        total += v[i];
        top = std::fmax(top, v[i]);
    }
    CHECK(close(sum(v), total, 1e-6));
    CHECK(largest(v) == top);
    for (int count = 0; count <= kLanes; ++count) {
        const Vector some = load_some(values.data(), count);
        std::vector<float> to(kLanes, 7.0f);
        store_some(to.data(), v, count);
        const IntVector inside = lanes_between(1, count);
        for (int i = 0; i < kLanes; ++i) {
            CHECK(some[i] == (i < count ? values[static_cast<size_t>(i)] : 0.0f));
            CHECK(to[static_cast<size_t>(i)] == (i < count ? v[i] : 7.0f));
            CHECK(inside[i] == (i >= 1 && i < count ? -1 : 0));
        }
    }
    CHECK(max(broadcast(1.0f), broadcast(2.0f))[0] == 2.0f);
    CHECK(std::isnan(max(Vector{}, broadcast(kNan))[0]));
    CHECK(sqrt(broadcast(2.25f))[kLanes - 1] == 1.5f);
}

void test_functions() {
    double exp_error = 0, gelu_error = 0, slope_error = 0;
    for (double at = -87.3; at < 88.7; at += 0.00371) {
        const float x = static_cast<float>(at);
        exp_error = std::fmax(exp_error, std::fabs(poco::exp(broadcast(x))[0] / std::exp(static_cast<double>(x)) - 1));
    }
    for (double at = -12; at < 12; at += 0.00037) {
        const double x = static_cast<float>(at);
        const double cdf = 0.5 * std::erfc(-x * std::sqrt(0.5));
        Vector value, slope;
        gelu_and_slope(broadcast(static_cast<float>(at)), value, slope);
        CHECK(value[0] == gelu(broadcast(static_cast<float>(at)))[0]);
        gelu_error = std::fmax(gelu_error, std::fabs(value[0] - x * cdf) / std::fmax(1.0, std::fabs(x)));
        slope_error = std::fmax(slope_error, std::fabs(slope[0] - cdf - x * std::exp(-x * x / 2) * 0.3989422804014327));
    }
    CHECK(exp_error < 2e-7);
    CHECK(gelu_error < 5e-7);
    CHECK(slope_error < 5e-7);
    for (const float far : {6.0f, 50.0f, 1e4f, 3e38f}) {
        Vector value, slope;
        gelu_and_slope(broadcast(-far), value, slope);
        CHECK(value[0] == 0 && gelu(broadcast(-far))[0] == 0 && std::fabs(slope[0]) < 1e-7);
        gelu_and_slope(broadcast(far), value, slope);
        CHECK(value[0] == far && gelu(broadcast(far))[0] == far && std::fabs(slope[0] - 1) < 1e-7);
    }
    CHECK(poco::exp(Vector{})[0] == 1.0f);
    CHECK(poco::exp(broadcast(-kInfinity))[0] == 0.0f && poco::exp(broadcast(-90.0f))[0] == 0.0f);
    CHECK(poco::exp(broadcast(kInfinity))[0] == kInfinity && poco::exp(broadcast(89.0f))[0] == kInfinity);
    CHECK(std::isnan(poco::exp(broadcast(kNan))[0]) && std::isnan(gelu(broadcast(kNan))[0]));
}

// One product of all sizes and kinds against plain loops; what lies outside the rounded-up C must not change.
void test_product(int64_t rows, int64_t inner, int64_t columns, bool transposed) {
    const int64_t line = round_up(columns);
    const std::vector<float> a = numbers(rows * inner + 1, 1);
    const std::vector<float> b = numbers(inner * line + 1, 2);
    const std::vector<float> bias = numbers(rows + 1, 3);
    const std::vector<float> before = numbers((rows + 1) * line + 1, 4);
    const Strided straight{a.data(), inner, 1};
    const Strided strided = transposed ? Strided{a.data(), 1, rows} : straight;
    std::vector<float> c[3] = {before, before, before};
    multiply<Onto::zero>(rows, inner, columns, strided, b.data(), line, c[0].data(), line);
    multiply<Onto::bias>(rows, inner, columns, strided, b.data(), line, c[1].data(), line, bias.data());
    multiply<Onto::c>(rows, inner, columns, strided, b.data(), line, c[2].data(), line);
    for (int64_t i = 0; i < rows; ++i) {
        for (int64_t j = 0; j < columns; ++j) {
            double wanted = 0;
            for (int64_t k = 0; k < inner; ++k) {
                wanted += static_cast<double>(strided.from(i, k).at[0]) * b[static_cast<size_t>(k * line + j)];
            }
            const size_t at = static_cast<size_t>(i * line + j);
            CHECK(close(c[0][at], wanted, 2e-6));
            CHECK(close(c[1][at], wanted + bias[static_cast<size_t>(i)], 2e-6));
            CHECK(close(c[2][at], wanted + before[at], 2e-6));
        }
    }
    for (const std::vector<float>& one : c) {
        for (size_t at = static_cast<size_t>(rows * line); at < one.size(); ++at) CHECK(one[at] == before[at]);
    }
}

void test_products() {
    for (const int64_t rows : {0, 1, 2, 3, 4, 7, 8, 15, 17}) {
        for (const int64_t columns : {1, 4, 5, 16, 17, 32, 33, 48, 49, 113}) {
            for (const int64_t inner : {0, 1, 2, 33}) {
                test_product(rows, inner, columns, false);
                test_product(rows, inner, columns, true);
            }
        }
    }
}

void test_transpose() {
    for (const int64_t rows : {1, 3, 4, 7, 37, 48}) {
        for (const int64_t features : {1, 2, 4, 9, 16}) {
            const std::vector<float> from = numbers(rows * features + 1, 5);
            std::vector<float> plane(static_cast<size_t>(features * kTile), kNan);
            std::vector<float> back(static_cast<size_t>(rows * features), kNan);
            rows_to_plane(rows, features, from.data(), plane.data());
            plane_to_rows(rows, features, plane.data(), back.data(), features);
            for (int64_t i = 0; i < features; ++i) {
                for (int64_t lane = 0; lane < round_up(rows); ++lane) {
                    const float value = plane[static_cast<size_t>(i * kTile + lane)];
                    CHECK(value == (lane < rows ? from[static_cast<size_t>(lane * features + i)] : 0.0f));
                }
            }
            for (size_t i = 0; i < back.size(); ++i) CHECK(back[i] == from[i]);
        }
    }
}

// Both normalisations of a row, and their gradients against differences.
void test_rows() {
    const int64_t features = 5;
    const size_t size = static_cast<size_t>(features * kTile);
    const std::vector<float> x = numbers(features * kTile, 6), grad = numbers(features * kTile, 7);
    const std::vector<float> weight = numbers(features, 8), bias = numbers(features, 9);
    const auto normalised = [&](const std::vector<float>& of, std::vector<float>& standard, std::vector<float>& scale) {
        std::vector<float> result(size);
        standardise(features, kTile, 1e-5f, of.data(), standard.data(), scale.data());
        scale_and_shift(features, kTile, standard.data(), weight.data(), bias.data(), OperandPlane{result.data()});
        return result;
    };
    std::vector<float> standard(size), scale(kTile), unused(size), unused_scale(kTile);
    normalised(x, standard, scale);
    std::vector<float> grad_norm(size, 0.0f), grad_softmax = grad, weights = x;
    standardise_backward(features, kTile, grad.data(), standard.data(), scale.data(), weight.data(), grad_norm.data());
    softmax(features, kTile, weights.data());
    softmax_backward(features, kTile, weights.data(), grad_softmax.data());
    for (int64_t i = 0; i < features; ++i) {
        constexpr float step = 0.01f;
        std::vector<float> up = x, down = x;
        for (int64_t lane = 0; lane < kTile; ++lane) {
            up[static_cast<size_t>(i * kTile + lane)] += step;
            down[static_cast<size_t>(i * kTile + lane)] -= step;
        }
        const std::vector<float> norm_up = normalised(up, unused, unused_scale);
        const std::vector<float> norm_down = normalised(down, unused, unused_scale);
        softmax(features, kTile, up.data());
        softmax(features, kTile, down.data());
        for (int64_t lane = 0; lane < kTile; ++lane) {
            double norm_slope = 0, softmax_slope = 0, total = 0;
            for (int64_t j = 0; j < features; ++j) {
                const size_t at = static_cast<size_t>(j * kTile + lane);
                norm_slope += grad[at] * (norm_up[at] - norm_down[at]) / (2 * step);
                softmax_slope += grad[at] * (up[at] - down[at]) / (2 * step);
                total += weights[at];
            }
            CHECK(close(grad_norm[static_cast<size_t>(i * kTile + lane)], norm_slope, 0.01));
            CHECK(close(grad_softmax[static_cast<size_t>(i * kTile + lane)], softmax_slope, 0.001));
            CHECK(close(total, 1, 1e-6));
        }
    }
}

// The same words as core/philox.h.
void test_dropout() {
    const uint64_t seed = 0x0123456789abcdefULL;
    const int64_t first_row = 1000, first_column = 64, count = 7;
    for (const double p : {0.25, 0.999, std::nextafter(1.0, 0.0)}) {
        std::vector<uint8_t> keep(static_cast<size_t>(kTile * (first_column + count)));
        dropout_fill(seed, first_row, kTile, first_column + count, p, keep.data());
        std::vector<float> mask(static_cast<size_t>((count + 1) * kTile), -1.0f);
        Dropout{seed, dropout_threshold(p), 3.0f}.fill(first_row, kTile, first_column, count, mask.data());
        for (int64_t i = 0; i < count; ++i) {
            for (int64_t row = 0; row < kTile; ++row) {
                const bool kept = keep[static_cast<size_t>(row * (first_column + count) + first_column + i)] != 0;
                CHECK(mask[static_cast<size_t>(i * kTile + row)] == (kept ? 3.0f : 0.0f));
            }
        }
        for (int64_t row = 0; row < kTile; ++row) CHECK(mask[static_cast<size_t>(count * kTile + row)] == -1.0f);
    }
}

// Not part of main, which must run on any processor until it has looked at what this one is.
__attribute__((noinline)) int run_all() {
    test_vectors();
    test_functions();
    test_products();
    test_transpose();
    test_rows();
    test_dropout();
    std::printf(failures == 0 ? "all passed (%d lanes)\n" : "some failed (%d lanes)\n", kLanes);
    return failures == 0 ? 0 : 1;
}

}  // namespace

int main() {
#if defined(__AVX512F__)
    const bool can_run = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq");
#elif defined(__AVX2__)
    const bool can_run = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
    const bool can_run = true;
#endif
    if (!can_run) {
        std::puts("skipped: this processor lacks the instruction set");
        return 77;
    }
    return run_all();
}
