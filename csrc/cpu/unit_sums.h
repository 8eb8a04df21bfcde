// Gradient of the unit table: the sum, for every unit, of what its rows contribute, in the order of the rows.
#pragma once

#include <cstddef>
#include <cstdint>

namespace poco {

class UnitSums {
public:
    // `table` [units, width] takes the sums; nullptr makes all this do nothing. If no unit has two rows, rows are
    // written straight into the table; otherwise they wait in a buffer [rows, width]. Throws std::bad_alloc.
    UnitSums(const int32_t* unit_index, int64_t rows, int64_t units, int64_t width, float* table);
    ~UnitSums();
    UnitSums(const UnitSums&) = delete;
    UnitSums& operator=(const UnitSums&) = delete;

    // Where the `width` values of row r go: every row exactly once, by any thread, before finish().
    float* row(int64_t r) const {
        return (buffer_ != nullptr ? buffer_ + r * width_ : table_ + unit_index_[r] * width_);
    }

    // Fills the table.
    void finish(int threads);

private:
    const int32_t* unit_index_;
    int64_t units_;
    int64_t width_;
    float* table_;
    int64_t* begin_ = nullptr;  // [units + 1]: rows of unit u are order_[begin_[u] .. begin_[u + 1] - 1]
    int32_t* order_ = nullptr;  // [rows]
    float* buffer_ = nullptr;   // [rows, width]
};

}  // namespace poco
