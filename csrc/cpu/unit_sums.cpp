#include "cpu/unit_sums.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/thread_pool.h"

namespace poco {

UnitSums::UnitSums(const int32_t* unit_index, int64_t rows, int64_t units, int64_t width, float* table, int threads,
                   int64_t wave_rows)
    : unit_index_(unit_index), width_(width), table_(table) {
    if (table == nullptr) return;
    bool twice = false;
    std::vector<bool> seen(static_cast<size_t>(units));
    for (int64_t r = 0; r < rows && !twice; ++r) {
        const auto unit = static_cast<size_t>(unit_index[r]);
        twice = seen[unit];
        seen[unit] = true;
    }
    if (twice) buffer_ = new float[static_cast<size_t>(std::min(wave_rows, rows) * width)];
    constexpr int64_t at_once = 1024;
    parallel_for((units + at_once - 1) / at_once, threads, [&](int64_t block, int) {
        for (int64_t u = block * at_once; u < std::min(units, (block + 1) * at_once); ++u) {
            if (!twice && seen[static_cast<size_t>(u)]) continue;  // its row will be written there
            std::memset(table + u * width, 0, static_cast<size_t>(width) * sizeof(float));
        }
    });
}

UnitSums::~UnitSums() {
    delete[] buffer_;
}

void UnitSums::add(int64_t last, int threads) {
    if (buffer_ == nullptr) return;
    // A part takes the units whose number ends in its own, so that neighbours go to different threads.
    int32_t parts = 1;
    while (parts < threads) parts *= 2;
    parallel_for(parts, threads, [&](int64_t part, int) {
        for (int64_t r = added_; r < last; ++r) {
            const int32_t unit = unit_index_[r];
            if ((unit & (parts - 1)) != part) continue;
            float* sum = table_ + unit * width_;
            const float* one = row(r);
            for (int64_t j = 0; j < width_; ++j) sum[j] += one[j];
        }
    });
    added_ = last;
}

}  // namespace poco
