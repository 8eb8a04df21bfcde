#include "core/philox.h"

#include <cmath>
#include <cstring>

#include "core/cpu_features.h"
#include "core/errors.h"
#include "core/philox_kernel.h"

namespace poco {
namespace {

void check_shape(int64_t rows, int64_t columns) {
    constexpr int64_t most_columns = int64_t{1} << 34;  // the counter holds column / 4 in 32 bits
    if (rows < 0 || columns < 0 || columns > most_columns) {
        fail("random numbers: rows and columns must be 0 or more and columns at most 2^34, got ", rows, " x ", columns);
    }
}

PhiloxFill fill_kernel() {
#if defined(POCO_X86_64)
    if (isa() >= Isa::avx512) return philox_fill_avx512;
    if (isa() == Isa::avx2) return philox_fill_avx2;
#endif
    return philox_fill_loop;
}

PhiloxKeep keep_kernel() {
#if defined(POCO_X86_64)
    if (isa() >= Isa::avx512) return philox_keep_avx512;
    if (isa() == Isa::avx2) return philox_keep_avx2;
#endif
    return philox_keep_loop;
}

}  // namespace

std::array<uint32_t, 4> philox_block(const std::array<uint32_t, 4>& counter, const std::array<uint32_t, 2>& key) {
    const Counter c = philox_rounds({counter[0], counter[1], counter[2], counter[3]}, key[0], key[1]);
    return {c.c0, c.c1, c.c2, c.c3};
}

void philox_fill(uint64_t seed, uint64_t first_row, int64_t rows, int64_t columns, uint32_t* out) {
    check_shape(rows, columns);
    fill_kernel()(seed, first_row, rows, columns, out);
}

uint64_t dropout_threshold(double p) {
    if (!(p >= 0.0 && p < 1.0)) fail("dropout: the probability must be at least 0 and below 1, got ", p);
    return static_cast<uint64_t>(std::nearbyint(p * 4294967296.0));
}

void dropout_fill(uint64_t seed, uint64_t first_row, int64_t rows, int64_t columns, double p, uint8_t* keep) {
    check_shape(rows, columns);
    const uint64_t threshold = dropout_threshold(p);
    if (threshold == 0 || threshold > 0xffffffffu) {
        std::memset(keep, threshold == 0 ? 1 : 0, static_cast<size_t>(rows) * static_cast<size_t>(columns));
        return;
    }
    keep_kernel()(seed, first_row, rows, columns, static_cast<uint32_t>(threshold), keep);
}

}  // namespace poco
