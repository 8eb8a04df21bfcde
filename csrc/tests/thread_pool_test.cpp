// Tests of the thread pool; run it under ThreadSanitizer when the pool changes.
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <stdexcept>
#include <thread>
#include <vector>

#include "core/thread_pool.h"

namespace {

int failures = 0;

void check(bool ok, const char* what) {
    if (ok) return;
    std::printf("FAILED: %s\n", what);
    ++failures;
}

// Every index once, and scratch memory per worker used by one thread at a time.
bool covers(int64_t count, int threads) {
    std::vector<int> seen(static_cast<size_t>(count), 0);
    std::vector<int64_t> done(static_cast<size_t>(threads), 0);
    poco::parallel_for(count, threads, [&](int64_t index, int worker) {
        ++seen[static_cast<size_t>(index)];
        ++done[static_cast<size_t>(worker)];
    });
    int64_t total = 0;
    for (const int64_t one : done) total += one;
    bool once = total == count;
    for (const int times : seen) once = once && times == 1;
    return once;
}

bool nested_loop_runs_inline() {
    std::atomic<int> wrong{0};
    std::atomic<int> calls{0};
    poco::parallel_for(4, 3, [&](int64_t, int) {
        const std::thread::id here = std::this_thread::get_id();
        poco::parallel_for(5, 3, [&](int64_t, int worker) {
            ++calls;
            if (worker != 0 || std::this_thread::get_id() != here) ++wrong;
        });
    });
    return wrong == 0 && calls == 20;
}

bool error_comes_back(int threads) {
    std::atomic<int> calls{0};
    try {
        poco::parallel_for(50, threads, [&](int64_t index, int) {
            ++calls;
            if (index == 20) throw std::runtime_error("twenty");
        });
    } catch (const std::runtime_error&) {
        return calls > 20;
    }
    return false;
}

bool callers_do_not_disturb_each_other() {
    std::atomic<int> wrong{0};
    std::vector<std::thread> callers;
    for (int caller = 0; caller < 4; ++caller) {
        callers.emplace_back([&] {
            for (int i = 0; i < 300; ++i) {
                if (!covers(31, 3)) ++wrong;
            }
        });
    }
    for (std::thread& caller : callers) caller.join();
    return wrong == 0;
}

// Every index once, and none before the phase before its own is done.
bool phases_follow_each_other(int threads) {
    const int64_t first[] = {0, 7, 7, 8, 40, 43};
    std::vector<std::atomic<int>> seen(43);
    std::atomic<int> early{0};
    poco::parallel_phases(5, first, threads, [&](int phase, int64_t index, int) {
        if (index < first[phase] || index >= first[phase + 1]) ++early;
        for (int64_t i = 0; i < first[phase]; ++i) early += seen[static_cast<size_t>(i)] != 1;
        ++seen[static_cast<size_t>(index)];
    });
    for (const std::atomic<int>& times : seen) early += times != 1;
    return early == 0;
}

bool error_of_a_phase_comes_back(int threads) {
    const int64_t first[] = {0, 5, 20};
    std::atomic<int> calls{0};
    try {
        poco::parallel_phases(2, first, threads, [&](int, int64_t index, int) {
            ++calls;
            if (index == 3) throw std::runtime_error("three");
        });
    } catch (const std::runtime_error&) {
        return calls == 20;
    }
    return false;
}

}  // namespace

int main() {
    for (int i = 0; i < 2000; ++i) check(covers(i % 97, 1 + i % 6), "every index once");
    check(nested_loop_runs_inline(), "a nested loop runs inline");
    check(error_comes_back(1) && error_comes_back(3) && covers(40, 3), "what a body throws comes back");
    check(callers_do_not_disturb_each_other(), "several callers at once");
    for (int i = 0; i < 500; ++i) check(phases_follow_each_other(1 + i % 6), "phases follow each other");
    check(error_of_a_phase_comes_back(1) && error_of_a_phase_comes_back(3), "what a phase throws comes back");
    if (failures == 0) std::printf("all passed\n");
    return failures == 0 ? 0 : 1;
}
