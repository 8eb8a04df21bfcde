// What a real-time set-up asks of the operating system.
#pragma once

#include <cstdint>
#include <vector>

namespace poco {

// Of the calling thread and of the threads that it makes later. Helpers of the pool follow their caller.
struct Realtime {
    std::vector<int32_t> cpus;  // it may run on; empty: as it is
    int32_t priority = 0;       // of SCHED_FIFO, 1 to 99; 0: as it is
    bool lock_memory = false;   // of the whole process, what it has and what it will take
};

// Asks for it. Throws with what is not permitted or not there, and how to get it; then everything is as it was.
void set_realtime(const Realtime& wanted);

}  // namespace poco
