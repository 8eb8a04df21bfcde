#include "core/workspace.h"

#include <new>

namespace poco {

Workspace::Workspace(size_t bytes)
    : block_(::operator new(bytes > 0 ? bytes : kLine, std::align_val_t{kLine})), size_(bytes) {}

Workspace::~Workspace() {
    ::operator delete(block_, std::align_val_t{kLine});
}

void* Workspace::take(size_t bytes) {
    const size_t whole = bytes_of(static_cast<int64_t>(bytes), 1);
    if (whole > size_ - used_) throw std::bad_alloc();
    void* piece = static_cast<unsigned char*>(block_) + used_;
    used_ += whole;
    return piece;
}

}  // namespace poco
