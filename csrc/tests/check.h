// What the core's tests share: CHECK counts a failure and says where it is.
#pragma once

#include <cstdio>

namespace {

int failures = 0;

inline void check(bool ok, const char* what, int line) {
    if (ok) return;
    std::printf("FAILED line %d: %s\n", line, what);
    ++failures;
}

}  // namespace

#define CHECK(condition) check((condition), #condition, __LINE__)
