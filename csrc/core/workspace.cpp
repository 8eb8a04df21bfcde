#include "core/workspace.h"

#include <atomic>
#include <new>

namespace poco {
namespace {

// A block that nobody uses at the moment: fresh memory of a few megabytes costs as much as the work in it, as the
// system hands it out page by page. Its size is written at its beginning.
std::atomic<void*> spare{nullptr};

#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kKeepAtMost = 0;  // so that it sees what goes past the end of a block
#else
constexpr size_t kKeepAtMost = size_t{64} << 20;
#endif

size_t size_of(void* block) {
    return *static_cast<size_t*>(block);
}

}  // namespace

Workspace::Workspace(size_t bytes) {
    block_ = spare.exchange(nullptr, std::memory_order_acquire);
    if (block_ != nullptr && size_of(block_) < bytes + kLine) {
        ::operator delete(block_, std::align_val_t{kLine});
        block_ = nullptr;
    }
    if (block_ == nullptr) {
        block_ = ::operator new(bytes + kLine, std::align_val_t{kLine});
        *static_cast<size_t*>(block_) = bytes + kLine;
    }
    size_ = size_of(block_);
}

Workspace::~Workspace() {
    if (size_ <= kKeepAtMost) block_ = spare.exchange(block_, std::memory_order_acq_rel);
    if (block_ != nullptr) ::operator delete(block_, std::align_val_t{kLine});
}

void* Workspace::take(size_t bytes) {
    const size_t whole = bytes_of(static_cast<int64_t>(bytes), 1);
    if (whole > size_ - used_) throw std::bad_alloc();
    void* piece = static_cast<unsigned char*>(block_) + used_;
    used_ += whole;
    return piece;
}

}  // namespace poco
