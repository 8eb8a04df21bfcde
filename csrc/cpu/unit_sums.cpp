#include "cpu/unit_sums.h"

#include <algorithm>
#include <cstring>
#include <memory>

#include "core/thread_pool.h"

namespace poco {

UnitSums::UnitSums(const int32_t* unit_index, int64_t rows, int64_t units, int64_t width, float* table)
    : unit_index_(unit_index), units_(units), width_(width), table_(table) {
    if (table == nullptr) return;
    std::unique_ptr<int64_t[]> begin_memory(new int64_t[static_cast<size_t>(units) + 1]());
    int64_t* begin = begin_memory.get();
    for (int64_t r = 0; r < rows; ++r) ++begin[unit_index[r] + 1];
    if (*std::max_element(begin, begin + units + 1) < 2) {
        std::memset(table, 0, static_cast<size_t>(units * width) * sizeof(float));
        return;
    }
    for (int64_t u = 0; u < units; ++u) begin[u + 1] += begin[u];
    std::unique_ptr<int32_t[]> order_memory(new int32_t[static_cast<size_t>(rows)]);
    int32_t* order = order_memory.get();
    for (int64_t r = 0; r < rows; ++r) order[begin[unit_index[r]]++] = static_cast<int32_t>(r);
    for (int64_t u = units; u > 0; --u) begin[u] = begin[u - 1];  // filling moved every beginning to the next
    begin[0] = 0;
    buffer_ = new float[static_cast<size_t>(rows * width)];
    begin_ = begin_memory.release();
    order_ = order_memory.release();
}

UnitSums::~UnitSums() {
    delete[] begin_;
    delete[] order_;
    delete[] buffer_;
}

void UnitSums::finish(int threads) {
    if (buffer_ == nullptr) return;
    constexpr int64_t at_once = 64;
    parallel_for((units_ + at_once - 1) / at_once, threads, [&](int64_t block, int) {
        const int64_t last = std::min(units_, (block + 1) * at_once);
        for (int64_t u = block * at_once; u < last; ++u) {
            float* sum = table_ + u * width_;
            std::memset(sum, 0, static_cast<size_t>(width_) * sizeof(float));
            for (int64_t i = begin_[u]; i < begin_[u + 1]; ++i) {
                const float* one = buffer_ + order_[i] * width_;
                for (int64_t j = 0; j < width_; ++j) sum[j] += one[j];
            }
        }
    });
}

}  // namespace poco
