#include "stream/realtime.h"

#include "core/errors.h"

#if defined(__linux__)

#include <sched.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstring>

namespace poco {
namespace {

void pin(const std::vector<int32_t>& cpus) {
    cpu_set_t chosen;
    CPU_ZERO(&chosen);
    for (const int32_t cpu : cpus) {
        if (cpu < 0 || cpu >= CPU_SETSIZE) fail("there is no CPU ", cpu);
        CPU_SET(static_cast<size_t>(cpu), &chosen);
    }
    for (const int32_t cpu : cpus) {
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(static_cast<size_t>(cpu), &one);
        if (sched_setaffinity(0, sizeof one, &one) == 0) continue;
        if (errno == EINVAL) fail("there is no CPU ", cpu, " that this process may use");
        fail("CPU ", cpu, " cannot be chosen: ", std::strerror(errno));
    }
    sched_setaffinity(0, sizeof chosen, &chosen);
}

void lock() {
    if (mlockall(MCL_CURRENT | MCL_FUTURE) == 0) return;
    fail("memory cannot be locked (", std::strerror(errno),
         "): raise 'memlock' of the user in /etc/security/limits.conf, for example to unlimited, and log in again, or "
         "leave memory unlocked");
}

void raise(int32_t priority) {
    sched_param parameters{};
    parameters.sched_priority = priority;
    if (sched_setscheduler(0, SCHED_FIFO, &parameters) == 0) return;
    if (errno == EPERM) {
        fail("real-time priority ", priority,
             " is not permitted: raise 'rtprio' of the user in /etc/security/limits.conf, for example to 95, and log "
             "in again, or leave the priority 0");
    }
    fail("real-time priority ", priority, " cannot be had: ", std::strerror(errno));
}

}  // namespace

void set_realtime(const Realtime& wanted) {
    const int lowest = sched_get_priority_min(SCHED_FIFO), highest = sched_get_priority_max(SCHED_FIFO);
    if (wanted.priority != 0 && (wanted.priority < lowest || wanted.priority > highest)) {
        fail("a real-time priority is ", lowest, " to ", highest, ", or 0 for none, not ", wanted.priority);
    }
    cpu_set_t before;
    if (sched_getaffinity(0, sizeof before, &before) != 0) fail("the CPUs cannot be read: ", std::strerror(errno));
    const int policy = sched_getscheduler(0);
    sched_param parameters{};
    sched_getparam(0, &parameters);
    bool raised = false;
    try {
        if (!wanted.cpus.empty()) pin(wanted.cpus);
        if (wanted.priority != 0) {
            raise(wanted.priority);
            raised = true;
        }
        // Last, as nobody can tell what was locked before.
        if (wanted.lock_memory) lock();
    } catch (...) {
        if (raised) sched_setscheduler(0, policy, &parameters);
        sched_setaffinity(0, sizeof before, &before);
        throw;
    }
}

}  // namespace poco

#else

namespace poco {

void set_realtime(const Realtime&) {
    fail("a real-time set-up is offered on Linux alone");
}

}  // namespace poco

#endif
