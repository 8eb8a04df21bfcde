// The arrays that a call or a worker needs, out of one block of memory.
#pragma once

#include "core/workspace.h"
#include "cpu/tile.h"

namespace poco {
namespace {

// Cuts a block of memory into arrays, each on a cache line; without a block it only counts, and hands out nullptr.
class Pieces {
public:
    explicit Pieces(char* block = nullptr) : block_(block) {}

    template <typename T>
    T* array(int64_t count) {
        T* piece = block_ == nullptr ? nullptr : reinterpret_cast<T*>(block_ + used_);
        used_ += Workspace::bytes_of(count, sizeof(T));
        return piece;
    }
    float* floats(int64_t count) { return array<float>(count); }
    float* plane(int64_t features) { return floats(features * kTile); }
    size_t used() const { return used_; }

private:
    char* block_;
    size_t used_ = 0;
};

}  // namespace
}  // namespace poco
