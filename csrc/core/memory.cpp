#include "core/memory.h"

#include <atomic>
#include <cstdint>

#include "core/errors.h"

namespace poco {
namespace {

MemoryHooks given;
std::atomic<int64_t> held{0};  // blocks

}  // namespace

void check_memory_hooks(const MemoryHooks& hooks, int64_t spare) {
    if ((hooks.allocate == nullptr) != (hooks.release == nullptr)) {
        fail("an allocator is two functions, and one of them is NULL: give both, or none for the default");
    }
    const int64_t blocks = held.load() - spare;
    if (blocks != 0) {
        fail("the allocator cannot be changed while ", blocks,
             " blocks of memory are in use: set it first, or close all streams and models before");
    }
}

void set_memory_hooks(const MemoryHooks& hooks) {
    check_memory_hooks(hooks, 0);
    given = hooks;
}

void* allocate(size_t bytes) {
    void* const block = given.allocate == nullptr ? ::operator new(bytes, std::align_val_t{kAlignment})
                                                  : given.allocate(bytes, kAlignment, given.user);
    if (block == nullptr) throw std::bad_alloc();
    held.fetch_add(1, std::memory_order_relaxed);
    return block;
}

void release(void* block, size_t bytes) noexcept {
    if (block == nullptr) return;
    held.fetch_sub(1, std::memory_order_relaxed);
    if (given.release == nullptr) {
        ::operator delete(block, std::align_val_t{kAlignment});
    } else {
        given.release(block, bytes, given.user);
    }
}

}  // namespace poco
