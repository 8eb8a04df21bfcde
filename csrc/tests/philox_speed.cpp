// Prints how many random words a second one thread makes; set POCO_CPU to compare instruction sets.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "core/cpu_features.h"
#include "core/philox.h"

int main() {
    const int64_t rows = 2048;
    const int64_t columns = 512;
    std::vector<uint32_t> words(rows * columns);
    std::vector<uint8_t> keep(rows * columns);
    double best_fill = 1e9;
    double best_keep = 1e9;
    for (int repeat = 0; repeat < 20; ++repeat) {
        const auto begin = std::chrono::steady_clock::now();
        poco::philox_fill(1, 0, rows, columns, words.data());
        const auto middle = std::chrono::steady_clock::now();
        poco::dropout_fill(1, 0, rows, columns, 0.2, keep.data());
        const auto end = std::chrono::steady_clock::now();
        best_fill = std::min(best_fill, std::chrono::duration<double>(middle - begin).count());
        best_keep = std::min(best_keep, std::chrono::duration<double>(end - middle).count());
    }
    const double millions = static_cast<double>(rows * columns) * 1e-6;
    std::printf("%s: %.0f M words/s, %.0f M dropout masks/s\n", poco::name(poco::isa()), millions / best_fill,
                millions / best_keep);
    return 0;
}
