// What the tests of kernels share: numbers in double precision to compare theirs with, and which kernels are tested.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "check.h"
#include "core/cpu_features.h"
#include "core/errors.h"
#include "cpu/dispatch.h"

#if defined(POCO_EMULATED)
namespace poco_test {

extern const poco::Passes<poco::Bfloat16> avx512_bf16_emulated, amx_emulated;

}  // namespace poco_test
#endif

namespace {

using Numbers = std::vector<double>;

inline size_t size_of(int64_t count) {
    return static_cast<size_t>(count);
}

// How far off they are together, over their size; NaN if one of them is.
template <typename Found, typename Exact>
double relative_error(const std::vector<Found>& found, const std::vector<Exact>& exact) {
    double off = 0, size = 1e-30;
    for (size_t i = 0; i < exact.size(); ++i) {
        const auto wanted = static_cast<double>(exact[i]);
        const double difference = static_cast<double>(poco::to_float(found[i])) - wanted;
        off += difference * difference;
        size += wanted * wanted;
    }
    return std::sqrt(off / size);
}

inline Numbers normalised(const Numbers& x, const Numbers& weight, const Numbers& bias) {
    double mean = 0, variance = 0;
    for (const double one : x) mean += one / static_cast<double>(x.size());
    for (const double one : x) variance += (one - mean) * (one - mean) / static_cast<double>(x.size());
    Numbers y;
    for (size_t j = 0; j < x.size(); ++j) {
        y.push_back((x[j] - mean) / std::sqrt(variance + 1e-5) * weight[j] + bias[j]);
    }
    return y;
}

// The kernels in bfloat16 for an instruction set that the processor lacks, emulated; nullptr where it has it, or where
// they cannot be.
inline const poco::Passes<poco::Bfloat16>* emulated_kernels([[maybe_unused]] const std::string& set) {
#if defined(POCO_EMULATED)
    if (!poco::can_run(poco::Isa::avx2)) return nullptr;
    if (set == "avx512_bf16" && !poco::can_run(poco::Isa::avx512_bf16)) return &poco_test::avx512_bf16_emulated;
    if (set == "amx" && !poco::can_run(poco::Isa::amx)) return &poco_test::amx_emulated;
#endif
    return nullptr;
}

// Runs tests of the kernels of the instruction set that POCO_CPU names, and the argument of the program too. Its exit
// code; 77: skipped.
template <typename Tests>
int test_kernels(int argc, char** argv, const Tests& tests) {
    try {
        const std::string name = poco::cpu_kernels().name;
        if (argc > 1 && name != argv[1]) {
            std::printf("FAILED: the kernels in use are %s\n", name.c_str());
            return 1;
        }
    } catch (const poco::Error& error) {
        std::printf("skipped: %s\n", error.what());
        return 77;
    }
    tests();
    if (failures == 0) std::printf("all passed\n");
    return failures == 0 ? 0 : 1;
}

}  // namespace
