// Threads of our own: a few workers that share the pieces of one loop.
#pragma once

#include <cstdint>
#include <type_traits>

namespace poco {

constexpr int kMostThreads = 1024;

// Body of a loop: called once for every index, by worker 0 .. threads - 1.
using LoopBody = void (*)(void* context, int64_t index, int worker);

// Calls body(context, index, worker) for index = 0 .. count - 1, on at most `threads` threads including the calling
// one; returns when all are done. No two calls that run at the same time have the same worker, so scratch memory may
// be kept per worker. Who does which index is a matter of timing: a result may depend on the index, never on the
// worker. A call from inside a body runs on the calling thread alone, as worker 0; so does a call made while another
// thread's loop is running. Works in a child process after fork. What a body throws is thrown here when the loop has
// ended; the first one if there are more.
void parallel_for(int64_t count, int threads, LoopBody body, void* context);

// The same for a callable f(index, worker).
template <typename F>
void parallel_for(int64_t count, int threads, F&& f) {
    using Callable = std::remove_reference_t<F>;
    parallel_for(
        count, threads,
        [](void* context, int64_t index, int worker) { (*static_cast<Callable*>(context))(index, worker); },
        const_cast<void*>(static_cast<const void*>(&f)));
}

// Body of a loop in phases: called once for every index.
using PhaseBody = void (*)(void* context, int phase, int64_t index, int worker);

// A loop in phases: phase p is the indices first[p] .. first[p + 1] - 1, and begins when all of phase p - 1 are done.
// Waking the threads once costs less than a loop for each phase. All else as in parallel_for, but after an exception
// the rest is still run.
void parallel_phases(int phases, const int64_t* first, int threads, PhaseBody body, void* context);

// The same for a callable f(phase, index, worker).
template <typename F>
void parallel_phases(int phases, const int64_t* first, int threads, F&& f) {
    using Callable = std::remove_reference_t<F>;
    parallel_phases(
        phases, first, threads,
        [](void* context, int phase, int64_t index, int worker) {
            (*static_cast<Callable*>(context))(phase, index, worker);
        },
        const_cast<void*>(static_cast<const void*>(&f)));
}

}  // namespace poco
