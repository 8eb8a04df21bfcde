// Memory of one call: one block, handed out in pieces that begin on a cache line. Blocks are kept for later calls, up
// to a size and a number.
#pragma once

#include <cstddef>
#include <cstdint>

namespace poco {

// Under the address sanitizer every call takes memory of its own, so that what goes past its end is seen.
#if defined(__SANITIZE_ADDRESS__)
constexpr bool kFreshMemory = true;
#elif defined(__clang__)
constexpr bool kFreshMemory = __has_feature(address_sanitizer);
#else
constexpr bool kFreshMemory = false;
#endif

class Workspace {
public:
    // Throws std::bad_alloc. The memory holds anything.
    explicit Workspace(size_t bytes);
    ~Workspace();
    Workspace(const Workspace&) = delete;
    Workspace& operator=(const Workspace&) = delete;

    // The bytes that a piece of `count` elements of `size` bytes takes up: whole cache lines.
    static constexpr size_t bytes_of(int64_t count, size_t size) {
        return (static_cast<size_t>(count) * size + kLine - 1) / kLine * kLine;
    }

    // How many blocks are kept for later calls. Thread-safe.
    static int64_t spares();

    // Lets go of them. Thread-safe.
    static void give_up_spares();

    // The next `bytes` bytes (whole cache lines). The sum of all pieces must not pass the size of the workspace.
    void* take(size_t bytes);

private:
    static constexpr size_t kLine = 64;
    void* block_ = nullptr;
    size_t size_ = 0;      // of the block, its first line included
    size_t used_ = kLine;  // the first line holds the size
};

}  // namespace poco
