// The arrays that a call or a worker needs, out of one block of memory.
#pragma once

#include "core/workspace.h"
#include "cpu/tile.h"

namespace poco {
namespace {

// Cuts a block of memory into arrays, each on a cache line; without a block it only counts, and hands out nullptr.
// Planes are handed out from row `first_row` of the tile on.
class Pieces {
public:
    explicit Pieces(char* block = nullptr, int64_t first_row = 0) : block_(block), first_row_(first_row) {}

    template <typename T>
    T* array(int64_t count) {
        T* piece = block_ == nullptr ? nullptr : reinterpret_cast<T*>(block_ + used_);
        used_ += Workspace::bytes_of(count, sizeof(T));
        return piece;
    }
    float* floats(int64_t count) { return array<float>(count); }
    template <typename T = float>
    T* plane(int64_t features) {
        T* const from = array<T>(features * kTile);
        return from == nullptr ? nullptr : from + first_row_;
    }
    size_t used() const { return used_; }

private:
    char* block_;
    int64_t first_row_;
    size_t used_ = 0;
};

}  // namespace
}  // namespace poco
