// Tests of the thread pool; run it under ThreadSanitizer when the pool changes.
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <stdexcept>
#include <thread>
#include <vector>

#include "core/thread_pool.h"

#if !defined(_WIN32)
#include <pthread.h>
#include <signal.h>
#endif
#if defined(__linux__)
#include <sched.h>
#endif

namespace {

thread_local bool no_memory = false;

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

// The loop goes on with the helpers that there are, and later ones have more again.
bool goes_on_without_memory_for_a_helper() {
    std::atomic<int> calls{0};
    no_memory = true;
    bool ran = true;
    try {
        poco::parallel_for(100, 30, [&](int64_t, int) { ++calls; });
    } catch (const std::bad_alloc&) {
        ran = false;
    }
    no_memory = false;
    bool open = true;
#if !defined(_WIN32)
    sigset_t mask;
    pthread_sigmask(SIG_SETMASK, nullptr, &mask);
    open = sigismember(&mask, SIGINT) == 0 && sigismember(&mask, SIGTERM) == 0;
#endif
    std::atomic<bool> helped{false};  // a pool that stayed busy would leave all to the caller
    for (int i = 0; i < 10000 && !helped; ++i) {
        poco::parallel_for(64, 3, [&](int64_t, int worker) {
            if (worker > 0) helped = true;
            std::this_thread::yield();
        });
    }
    return ran && calls == 100 && open && helped && covers(40, 3);
}

#if defined(__linux__)
// Whether a helper comes to run with this policy when its caller does. SCHED_BATCH needs no privilege.
bool helpers_have_the_policy(int policy) {
    bool found = false;
    std::thread([&] {
        const sched_param parameters{};
        if (sched_setscheduler(0, policy, &parameters) != 0) return;
        for (int i = 0; i < 10000 && !found; ++i) {
            std::atomic<int> with{0}, without{0};
            poco::parallel_for(64, 3, [&](int64_t, int worker) {
                if (worker > 0) ++(sched_getscheduler(0) == policy ? with : without);
                std::this_thread::yield();
            });
            found = with > 0 && without == 0;
        }
    }).join();
    return found;
}
#endif

}  // namespace

void* operator new(size_t size) {
    void* const block = no_memory ? nullptr : std::malloc(size > 0 ? size : 1);
    if (block == nullptr) throw std::bad_alloc();
    return block;
}

void operator delete(void* block) noexcept {
    std::free(block);
}

void operator delete(void* block, size_t) noexcept {
    std::free(block);
}

int main() {
    for (int i = 0; i < 2000; ++i) check(covers(i % 97, 1 + i % 6), "every index once");
    check(nested_loop_runs_inline(), "a nested loop runs inline");
    check(error_comes_back(1) && error_comes_back(3) && covers(40, 3), "what a body throws comes back");
    check(callers_do_not_disturb_each_other(), "several callers at once");
    for (int i = 0; i < 500; ++i) check(phases_follow_each_other(1 + i % 6), "phases follow each other");
    check(error_of_a_phase_comes_back(1) && error_of_a_phase_comes_back(3), "what a phase throws comes back");
#if defined(__linux__)
    check(helpers_have_the_policy(SCHED_BATCH) && helpers_have_the_policy(SCHED_OTHER), "helpers follow their caller");
#endif
    check(goes_on_without_memory_for_a_helper(), "no memory for a helper");
    if (failures == 0) std::printf("all passed\n");
    return failures == 0 ? 0 : 1;
}
