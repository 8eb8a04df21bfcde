// Where large memory comes from: buffers of models, streams and calls. A program may bring its own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <new>
#include <vector>

namespace poco {

// Memory begins on a cache line.
constexpr size_t kAlignment = 64;

// As in poco.h. Whoever gives memory takes it back.
struct MemoryHooks {
    void* (*allocate)(size_t bytes, size_t alignment, void* user) = nullptr;
    void (*release)(void* block, size_t bytes, void* user) = nullptr;
    void* user = nullptr;
};

// Throws Error unless set_memory_hooks could take these once so many blocks are given back.
void check_memory_hooks(const MemoryHooks& hooks, int64_t spare);

// From now on memory comes from these; from C++'s own where they are null. Throws Error while any memory is held. Not
// while another call of the library is running.
void set_memory_hooks(const MemoryHooks& hooks);

// Throws std::bad_alloc. Thread-safe if the hooks are.
void* allocate(size_t bytes);
void release(void* block, size_t bytes) noexcept;

template <typename T>
struct Allocator {
    static_assert(alignof(T) <= kAlignment, "memory is aligned for less");
    using value_type = T;

    Allocator() = default;
    template <typename U>
    Allocator(const Allocator<U>&) {}

    T* allocate(size_t count) {
        if (count > std::numeric_limits<size_t>::max() / sizeof(T)) throw std::bad_alloc();
        return static_cast<T*>(poco::allocate(count * sizeof(T)));
    }
    void deallocate(T* block, size_t count) noexcept { poco::release(block, count * sizeof(T)); }
};

template <typename T, typename U>
bool operator==(const Allocator<T>&, const Allocator<U>&) {
    return true;
}
template <typename T, typename U>
bool operator!=(const Allocator<T>&, const Allocator<U>&) {
    return false;
}

template <typename T>
using Buffer = std::vector<T, Allocator<T>>;
using Floats = Buffer<float>;

}  // namespace poco
