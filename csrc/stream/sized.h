// Structs of the C interface that may grow at their end. The caller's `size` says how much of one there is; nothing
// beyond it is read or written.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "core/errors.h"

namespace poco {

// More than any of them will have. A size above it was never set.
constexpr size_t kLargestStruct = 4096;

// What the interface's first version had of each. None ends in padding, nor may it when it has grown: a field that is
// added later would lie in it, and be read out of what an older caller left there.
template <typename T>
struct FirstVersion;

#define POCO_FIRST_VERSION(type, last)                                                                \
    template <>                                                                                       \
    struct FirstVersion<type> {                                                                       \
        static constexpr const char* name = #type;                                                    \
        static constexpr size_t size = offsetof(type, last) + sizeof(type::last);                     \
        static_assert(size % alignof(type) == 0, "it ends in padding: add a field that is reserved"); \
    }

template <typename T>
void check_size(const T* given) {
    const char* const name = FirstVersion<T>::name;
    if (given == nullptr) fail("a ", name, " is needed, and NULL was given");
    if (given->size >= FirstVersion<T>::size && given->size <= kLargestStruct) return;
    fail("a ", name, " of ", given->size, " bytes was given: set its 'size' to sizeof(", name, ") first");
}

// Writes an answer: what the caller has room for, and zeros where a newer caller has room for more.
template <typename T>
void write_sized(const T& made, T* to) {
    const size_t size = to->size, known = std::min(size, sizeof made);
    std::memcpy(to, &made, known);
    std::memset(reinterpret_cast<unsigned char*>(to) + known, 0, size - known);
    to->size = size;
}

// Reads what is asked for: what an older caller does not know keeps its default; what a newer one asks for and is not
// known here is an error.
template <typename T>
T read_sized(const T* given, const T& defaults) {
    check_size(given);
    T found = defaults;
    std::memcpy(&found, given, std::min(given->size, sizeof found));
    const auto* const bytes = reinterpret_cast<const unsigned char*>(given);
    for (size_t i = sizeof found; i < given->size; ++i) {
        if (bytes[i] == 0) continue;
        fail("a ", FirstVersion<T>::name, " asks for something that this libpoco does not know: use a newer libpoco");
    }
    return found;
}

}  // namespace poco
