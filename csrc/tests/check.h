// What the core's tests share: CHECK counts a failure and says where it is, kFreshMemory how memory is taken.
#pragma once

#include <cstdio>

namespace {

// Under the address sanitizer every call takes memory of its own, so that what goes past its end is seen.
#if defined(__SANITIZE_ADDRESS__)
[[maybe_unused]] constexpr bool kFreshMemory = true;
#else
[[maybe_unused]] constexpr bool kFreshMemory = false;
#endif

int failures = 0;

inline void check(bool ok, const char* what, int line) {
    if (ok) return;
    std::printf("FAILED line %d: %s\n", line, what);
    ++failures;
}

}  // namespace

#define CHECK(condition) check((condition), #condition, __LINE__)
