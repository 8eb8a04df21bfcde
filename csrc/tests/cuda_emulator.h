// CUDA on a processor, for tests: the threads of a block are fibres that run one after another from barrier to barrier,
// and a driver whose device is this process's own memory, and does what is queued no earlier than somebody waits for
// it. What it finds wrong ends the program with a message: threads that wait at different barriers, and kernels or
// handles that are not there.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "cuda/driver.h"

#define __device__
#define __global__

struct EmulatedIndex {
    unsigned x = 0, y = 0;
};
extern EmulatedIndex threadIdx, blockIdx;

void __syncthreads();
void __syncwarp();
float __shfl_xor_sync(unsigned lanes, float value, int lane);
inline float rsqrtf(float value) {
    return 1.0f / std::sqrt(value);
}

namespace poco {

// The memory of the block that runs.
unsigned char* emulated_block_memory();

// A kernel under its name, called with its one argument, of so many bytes.
void add_emulated_kernel(const char* name, void (*run)(const void* argument), size_t bytes);

// In which order the threads between two barriers run: 0 upwards, 1 downwards, 2 mixed.
void set_emulated_order(int order);

// Memory that is held, in bytes, graphs and queues that are open, and kernels that were run.
struct EmulatedUse {
    int64_t memory = 0, handles = 0, launches = 0;
};
EmulatedUse emulated_use();

// The next graph that is launched fails.
void fail_emulated_launch();

// Of one device, whose blocks have so much memory.
const CudaDriver& emulated_driver(int shared_bytes, int multiprocessors);

}  // namespace poco
