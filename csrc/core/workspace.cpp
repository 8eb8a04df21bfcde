#include "core/workspace.h"

#include <atomic>
#include <new>

#include "core/memory.h"

namespace poco {
namespace {

// Blocks that nobody uses at the moment: fresh memory of a few megabytes costs as much as the work in it, as the system
// hands it out page by page. As many as calls that may be in each other or side by side in a large program. The size of
// each is written at its beginning.
constexpr size_t kSpares = 64;
std::atomic<void*> spare_blocks[kSpares];

constexpr size_t kKeepAtMost = kFreshMemory ? 0 : size_t{64} << 20;

size_t size_of(void* block) {
    return *static_cast<size_t*>(block);
}

void give_back(void* block) {
    if (block != nullptr) release(block, size_of(block));
}

// Makes a block a spare one, if there is a place for it.
void keep(void* block) {
    if (block == nullptr) return;
    for (std::atomic<void*>& spare : spare_blocks) {
        void* empty = nullptr;
        if (spare.compare_exchange_strong(empty, block, std::memory_order_release, std::memory_order_relaxed)) return;
    }
    give_back(block);
}

// The smallest spare block of at least `bytes`; nullptr if there is none, and then one that is too small is given up.
void* take_spare(size_t bytes) {
    void* best = nullptr;
    for (std::atomic<void*>& spare : spare_blocks) {
        if (spare.load(std::memory_order_relaxed) == nullptr) continue;
        void* const block = spare.exchange(nullptr, std::memory_order_acquire);
        if (block == nullptr) continue;
        const bool fits = size_of(block) >= bytes, best_fits = best != nullptr && size_of(best) >= bytes;
        const bool better = best == nullptr || (fits && (!best_fits || size_of(block) < size_of(best)));
        keep(better ? best : block);
        if (better) best = block;
    }
    if (best != nullptr && size_of(best) >= bytes) return best;
    give_back(best);
    return nullptr;
}

}  // namespace

Workspace::Workspace(size_t bytes) {
    static_assert(kLine <= kAlignment, "blocks begin on a cache line");
    const size_t whole = bytes + kLine;
    if (whole <= kKeepAtMost) block_ = take_spare(whole);  // a larger one is not among them, nor takes the place of one
    if (block_ == nullptr) {
        block_ = allocate(whole);
        *static_cast<size_t*>(block_) = whole;
    }
    size_ = size_of(block_);
}

Workspace::~Workspace() {
    if (size_ <= kKeepAtMost) {
        keep(block_);
    } else {
        give_back(block_);
    }
}

int64_t Workspace::spares() {
    int64_t count = 0;
    for (const std::atomic<void*>& spare : spare_blocks) count += spare.load(std::memory_order_relaxed) != nullptr;
    return count;
}

void Workspace::give_up_spares() {
    for (std::atomic<void*>& spare : spare_blocks) give_back(spare.exchange(nullptr, std::memory_order_acquire));
}

void* Workspace::take(size_t bytes) {
    const size_t whole = bytes_of(static_cast<int64_t>(bytes), 1);
    if (whole > size_ - used_) throw std::bad_alloc();
    void* piece = static_cast<unsigned char*>(block_) + used_;
    used_ += whole;
    return piece;
}

}  // namespace poco
