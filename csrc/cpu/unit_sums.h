// Gradient of the unit table: the sum, for every unit, of what its rows contribute, in the order of the rows.
#pragma once

#include <cstdint>

namespace poco {

class UnitSums {
public:
    // `table` [units, width] takes the sums; nullptr makes all this do nothing. If no unit has two rows, rows are
    // written straight into the table; otherwise they wait in a buffer [wave_rows, width], and at most so many may be
    // written between two calls of add(). Throws std::bad_alloc.
    UnitSums(const int32_t* unit_index, int64_t rows, int64_t units, int64_t width, float* table, int threads,
             int64_t wave_rows);
    ~UnitSums();
    UnitSums(const UnitSums&) = delete;
    UnitSums& operator=(const UnitSums&) = delete;

    // Where the `width` values of row r go, by any thread: every row exactly once, before the call of add() for it.
    float* row(int64_t r) const {
        return buffer_ != nullptr ? buffer_ + (r - added_) * width_ : table_ + unit_index_[r] * width_;
    }

    // Adds the rows up to `last` - 1 that have not been added yet. The table is the same bit for bit however the rows
    // are divided among calls and threads.
    void add(int64_t last, int threads);

private:
    const int32_t* unit_index_;
    int64_t width_;
    float* table_;
    int64_t added_ = 0;        // rows
    float* buffer_ = nullptr;  // rows added_, added_ + 1, ...
};

}  // namespace poco
