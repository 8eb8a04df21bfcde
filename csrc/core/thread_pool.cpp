#include "core/thread_pool.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>

#include "core/log.h"

#if !defined(_WIN32)
#include <pthread.h>
#include <signal.h>
#endif
#if defined(__linux__)
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(POCO_X86_64)
#include <immintrin.h>
#endif

namespace poco {
namespace {

// How long a thread looks out for work before it sleeps: long enough to bridge the gap between two passes, too short
// to take a core from somebody who needs it.
constexpr std::chrono::microseconds kSpin{20};

void pause() {
#if defined(POCO_X86_64)
    _mm_pause();
#elif defined(__aarch64__) && !defined(_MSC_VER)
    __asm__ volatile("yield");
#endif
}

// Waits for `ready` a moment; whether it came.
template <typename Ready>
bool spin(const Ready& ready) {
    static const bool alone = std::thread::hardware_concurrency() < 2;  // nobody can make it ready meanwhile
    if (ready()) return true;
    if (alone) return false;
    const auto end = std::chrono::steady_clock::now() + kSpin;
    do {
        for (int i = 0; i < 32; ++i) {
            pause();
            if (ready()) return true;
        }
    } while (std::chrono::steady_clock::now() < end);
    return false;
}

// Keeps the workers off the caller's processor, on the others that the caller may use. Systems that spread threads by
// themselves do this sooner or later; some virtual machines wake a worker behind its busy caller and leave it there.
// Workers also have the policy and priority of their caller, who would wait for them at a lower one.
class Placement {
public:
#if defined(__linux__)
    void add(pid_t worker) { workers_[count_++] = worker; }

    // To be called by the caller of every loop: a few quick system calls unless something has changed.
    void update() {
        follow_priority();
        follow_processors();
        placed_ = count_;
    }

private:
    void follow_priority() {
        const int policy = sched_getscheduler(0);
        sched_param parameters{};
        if (policy < 0 || sched_getparam(0, &parameters) != 0) return;  // of C libraries that cannot tell
        const int priority = parameters.sched_priority;
        if (policy == policy_ && priority == priority_ && placed_ == count_) return;
        for (size_t i = 0; i < count_; ++i) sched_setscheduler(workers_[i], policy, &parameters);
        policy_ = policy;
        priority_ = priority;
    }

    void follow_processors() {
        cpu_set_t allowed;
        if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;  // more processors than the set has room for
        const int processor = sched_getcpu();
        if (processor < 0 || processor >= CPU_SETSIZE) return;
        if (processor == processor_ && placed_ == count_ && CPU_EQUAL(&allowed, &allowed_)) return;
        cpu_set_t others = allowed;
        CPU_CLR(processor, &others);
        if (CPU_COUNT(&others) == 0) others = allowed;
        for (size_t i = 0; i < count_; ++i) sched_setaffinity(workers_[i], sizeof others, &others);
        processor_ = processor;
        allowed_ = allowed;
    }

    std::array<pid_t, kMostThreads> workers_{};  // no memory is asked for in a worker, where nobody could be told
    size_t count_ = 0, placed_ = 0;
    int processor_ = -1, policy_ = -1, priority_ = -1;
    cpu_set_t allowed_{};
#else
    void update() {}
#endif
};

thread_local bool inside_loop = false;

void run_alone(int64_t count, LoopBody body, void* context) {
    for (int64_t index = 0; index < count; ++index) body(context, index, 0);
}

// Workers join a running loop when they wake up; one that wakes up too late finds it closed and sleeps again. So the
// caller never waits for a thread that the system has not run yet, only for pieces already begun.
class Pool {
public:
    void run(int64_t count, int threads, LoopBody body, void* context) {
        if (busy_.exchange(true, std::memory_order_acquire)) {
            run_alone(count, body, context);
            return;
        }
        const int helpers = add_workers(threads - 1);
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            body_ = body;
            context_ = context;
            count_ = count;
            next_.store(0, std::memory_order_relaxed);
            error_ = nullptr;
            joined_ = 0;
            wanted_ = helpers;
            placement_.update();
            epoch_.fetch_add(1, std::memory_order_release);
        }
        if (helpers == workers_) {
            wake_.notify_all();
        } else {
            for (int i = 0; i < helpers; ++i) wake_.notify_one();
        }
        work(0);
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            wanted_ = 0;  // closed
        }
        const auto finished = [this] { return active_.load(std::memory_order_acquire) == 0; };
        std::unique_lock<std::mutex> lock(mutex_, std::defer_lock);
        spin(finished);
        lock.lock();
        done_.wait(lock, finished);
        const std::exception_ptr error = error_;
        error_ = nullptr;
        lock.unlock();
        busy_.store(false, std::memory_order_release);
        if (error) std::rethrow_exception(error);
    }

private:
    // Workers are never taken away: they sleep, and a loop takes as many as it wants.
    int add_workers(int wanted) {
        wanted = std::min(wanted, kMostThreads);
        while (workers_ < wanted) {
#if !defined(_WIN32)
            // Signals belong to the threads of the program, but for a worker's own faults: blocked, those would end the
            // process without a word.
            sigset_t blocked;
            sigset_t before;
            sigfillset(&blocked);
            for (const int fault : {SIGILL, SIGFPE, SIGSEGV, SIGBUS, SIGTRAP}) sigdelset(&blocked, fault);
            pthread_sigmask(SIG_SETMASK, &blocked, &before);
#endif
            bool started = true;
            try {
                std::thread([this] { serve(); }).detach();
            } catch (const std::exception&) {  // no more threads, or no memory for one
                started = false;               // the loop goes on with those that there are
            }
#if !defined(_WIN32)
            pthread_sigmask(SIG_SETMASK, &before, nullptr);
#endif
            if (!started) {
                if (!short_of_workers_) {
                    log_line(kLogSetup,
                             "the system gives %d of %d helper threads: raise the limit of processes "
                             "(ulimit -u), or ask for fewer threads",
                             workers_, wanted);
                }
                short_of_workers_ = true;
                break;
            }
            ++workers_;
        }
        return std::min(wanted, workers_);
    }

    void serve() {
        inside_loop = true;
#if defined(__linux__)
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            placement_.add(static_cast<pid_t>(syscall(SYS_gettid)));
        }
#endif
        uint64_t seen = 0;
        for (;;) {
            const auto news = [&] { return epoch_.load(std::memory_order_acquire) != seen; };
            spin(news);
            std::unique_lock<std::mutex> lock(mutex_);
            wake_.wait(lock, news);
            seen = epoch_.load(std::memory_order_relaxed);
            if (joined_ >= wanted_) continue;
            const int worker = ++joined_;
            active_.fetch_add(1, std::memory_order_relaxed);
            lock.unlock();
            work(worker);
            lock.lock();
            if (active_.fetch_sub(1, std::memory_order_release) == 1) done_.notify_one();
        }
    }

    void work(int worker) {
        const bool before = inside_loop;
        inside_loop = true;
        for (;;) {
            const int64_t index = next_.fetch_add(1, std::memory_order_relaxed);
            if (index >= count_) break;
            try {
                body_(context_, index, worker);
            } catch (...) {
                const std::lock_guard<std::mutex> lock(mutex_);
                if (!error_) error_ = std::current_exception();
            }
        }
        inside_loop = before;
    }

    std::atomic<bool> busy_{false};  // one loop at a time
    int workers_ = 0;                // changed only by whoever holds busy_
    bool short_of_workers_ = false;  // likewise

    std::mutex mutex_;
    std::condition_variable wake_;
    std::condition_variable done_;
    LoopBody body_ = nullptr;
    void* context_ = nullptr;
    int64_t count_ = 0;
    Placement placement_;
    int joined_ = 0;
    int wanted_ = 0;
    std::exception_ptr error_;
    std::atomic<uint64_t> epoch_{0};
    std::atomic<int> active_{0};
    std::atomic<int64_t> next_{0};
};

std::atomic<Pool*> the_pool{nullptr};

// A child process has one thread and the state of the pool at some instant: it starts with a new one. The old one's
// memory stays, as nobody knows who held its locks.
void forget_pool() {
    the_pool.store(nullptr, std::memory_order_relaxed);
    inside_loop = false;
}

Pool& pool() {
#if !defined(_WIN32)
    static const int registered = pthread_atfork(nullptr, nullptr, forget_pool);
    static_cast<void>(registered);
#endif
    Pool* there = the_pool.load(std::memory_order_acquire);
    if (there != nullptr) return *there;
    // Never deleted: workers may sleep in it until the process ends.
    Pool* made = new Pool;
    if (the_pool.compare_exchange_strong(there, made, std::memory_order_acq_rel)) return *made;
    delete made;
    return *there;
}

}  // namespace

void parallel_for(int64_t count, int threads, LoopBody body, void* context) {
    if (count < 2 || threads < 2 || inside_loop) {
        run_alone(count, body, context);
        return;
    }
    pool().run(count, static_cast<int>(std::min<int64_t>(threads, count)), body, context);
}

// Threads take indices in order, so whoever has the smallest that is not done need not wait: there is always progress,
// however few threads take part.
void parallel_phases(int phases, const int64_t* first, int threads, PhaseBody body, void* context) {
    const int64_t count = first[phases];
    alignas(64) std::atomic<int64_t> next{first[0]};
    alignas(64) std::atomic<int64_t> done{first[0]};
    parallel_for(threads, threads, [&](int64_t, int worker) {
        int phase = 0;
        std::exception_ptr error;
        for (;;) {
            const int64_t index = next.fetch_add(1, std::memory_order_relaxed);
            if (index >= count) break;
            while (index >= first[phase + 1]) ++phase;
            const auto ready = [&] { return done.load(std::memory_order_acquire) >= first[phase]; };
            while (!spin(ready)) std::this_thread::yield();
            try {
                body(context, phase, index, worker);
            } catch (...) {
                error = std::current_exception();
            }
            done.fetch_add(1, std::memory_order_release);
        }
        if (error) std::rethrow_exception(error);
    });
}

}  // namespace poco
