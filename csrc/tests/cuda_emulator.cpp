#include "cuda_emulator.h"

#include <setjmp.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

EmulatedIndex threadIdx, blockIdx;

namespace poco {
namespace {

[[noreturn]] void give_up(const char* what) {
    std::fprintf(stderr, "CUDA emulator: %s\n", what);
    std::abort();
}

constexpr unsigned kLanes = 32;
constexpr size_t kStack = 128 * 1024;

enum class At { ready, warp, block, end };

// A fibre begins by a context of its own, and goes on by jumps, which ask nothing of the system.
struct Fibre {
    ucontext_t context;
    jmp_buf place;
    bool begun = false;
    std::vector<char> stack = std::vector<char>(kStack);
    At at = At::ready;
    float value = 0;  // that it shows to its warp
};

std::vector<std::unique_ptr<Fibre>> fibres;
ucontext_t unused;
jmp_buf scheduler;
unsigned running = 0;
int order = 0;
std::vector<unsigned char> block_memory;
void (*body)(const void*) = nullptr;
const void* body_argument = nullptr;
EmulatedUse use;
bool fails = false;
struct Kernel {
    void (*run)(const void*);
    size_t bytes;
};
std::map<std::string, Kernel> kernels;

void fibre_main() {
    body(body_argument);
    fibres[running]->at = At::end;
    _longjmp(scheduler, 1);
}

void wait_at(At place) {
    Fibre& own = *fibres[running];
    own.at = place;
    if (_setjmp(own.place) == 0) _longjmp(scheduler, 1);
}

unsigned in_order(unsigned i, unsigned count) {
    if (order == 1) return count - 1 - i;
    return order == 2 ? (i * 13 + 5) % count : i;  // counts are powers of two
}

void go_on(unsigned thread) {
    running = thread;
    threadIdx.x = thread;
    Fibre& next = *fibres[thread];
    next.at = At::ready;
    if (_setjmp(scheduler) != 0) return;
    if (next.begun) _longjmp(next.place, 1);
    next.begun = true;
    swapcontext(&unused, &next.context);
}

// Runs a warp until all its threads wait for the block or are at their end.
void run_warp(unsigned first) {
    for (;;) {
        unsigned at_warp = 0;
        for (unsigned lane = 0; lane < kLanes; ++lane) {
            const unsigned thread = first + in_order(lane, kLanes);
            if (fibres[thread]->at == At::ready) go_on(thread);
        }
        for (unsigned lane = 0; lane < kLanes; ++lane) at_warp += fibres[first + lane]->at == At::warp;
        if (at_warp == 0) return;
        if (at_warp < kLanes) give_up("some threads of a warp wait for the others, which do not come");
        for (unsigned lane = 0; lane < kLanes; ++lane) fibres[first + lane]->at = At::ready;
    }
}

void run_block(unsigned threads) {
    while (fibres.size() < threads) fibres.push_back(std::make_unique<Fibre>());
    for (unsigned i = 0; i < threads; ++i) {
        Fibre& fibre = *fibres[i];
        getcontext(&fibre.context);
        fibre.context.uc_stack.ss_sp = fibre.stack.data();
        fibre.context.uc_stack.ss_size = fibre.stack.size();
        fibre.context.uc_link = nullptr;
        makecontext(&fibre.context, fibre_main, 0);
        fibre.at = At::ready;
        fibre.begun = false;
    }
    for (;;) {
        unsigned ended = 0;
        for (unsigned w = 0; w < threads / kLanes; ++w) run_warp(in_order(w, threads / kLanes) * kLanes);
        for (unsigned i = 0; i < threads; ++i) ended += fibres[i]->at == At::end;
        if (ended == threads) return;
        if (ended > 0) give_up("some threads of a block wait for the others, which are at their end");
        for (unsigned i = 0; i < threads; ++i) fibres[i]->at = At::ready;
    }
}

}  // namespace

unsigned char* emulated_block_memory() {
    return block_memory.data();
}

void add_emulated_kernel(const char* name, void (*run)(const void*), size_t bytes) {
    kernels[name] = {run, bytes};
}

void set_emulated_order(int wanted) {
    order = wanted;
}

void fail_emulated_launch() {
    fails = true;
}

EmulatedUse emulated_use() {
    return use;
}

// ---- The driver.

struct CudaDriver::Context {
    int depth = 0;
};
struct CudaDriver::Module {};
struct CudaDriver::Function {
    Kernel kernel;
};
struct CudaDriver::Graph {
    std::vector<std::function<void()>> steps;
};
struct CudaDriver::Executable {
    std::vector<std::function<void()>> steps;
};
struct CudaDriver::Queue {
    std::unique_ptr<CudaDriver::Graph> recording;
    std::vector<std::function<void()>> waiting;
};

namespace {

int shared_bytes = 0, multiprocessors = 0;
CudaDriver::Context context;
std::map<void*, size_t> sizes;

// Full of what is not a number of any kind, as memory of a device is.
void* take(size_t bytes) {
    void* const block = std::malloc(bytes);  // under the address sanitizer not a byte more
    std::memset(block, 0xff, bytes);
    sizes[block] = bytes;
    use.memory += static_cast<int64_t>(bytes);
    return block;
}

void give_back(void* block) {
    const auto found = sizes.find(block);
    if (found == sizes.end()) give_up("memory that was not taken is given back");
    use.memory -= static_cast<int64_t>(found->second);
    sizes.erase(found);
    std::free(block);
}

void current() {
    if (context.depth <= 0) give_up("a call without a context");
}

// What is not recorded runs as late as it may: when somebody waits for it. So memory that was given back too early, or
// what was read too early, shows.
int add_step(CudaDriver::Queue* queue, std::function<void()> step) {
    current();
    (queue->recording ? queue->recording->steps : queue->waiting).push_back(std::move(step));
    return 0;
}

int run_waiting(CudaDriver::Queue* queue) {
    for (const auto& step : std::exchange(queue->waiting, {})) step();
    return 0;
}

void* host(CudaDriver::Address address) {
    return reinterpret_cast<void*>(address);
}

CudaDriver make_driver() {
    CudaDriver d{};
    d.init = [](unsigned) { return 0; };
    d.get_error_string = [](int, const char** text) {
        *text = "emulated";
        return 0;
    };
    d.device_get_count = [](int* count) {
        *count = 1;
        return 0;
    };
    d.device_get = [](int* device, int number) {
        *device = number;
        return 0;
    };
    d.device_get_name = [](char* name, int length, int) {
        std::snprintf(name, static_cast<size_t>(length), "an emulated GPU");
        return 0;
    };
    d.device_get_attribute = [](int* value, int which, int) {
        *value = which == 75 ? 8 : which == 97 ? shared_bytes : which == 16 ? multiprocessors : -1;
        return 0;
    };
    d.primary_context_retain = [](CudaDriver::Context** to, int) {
        *to = &context;
        ++use.handles;
        return 0;
    };
    d.primary_context_release = [](int) {
        --use.handles;
        return 0;
    };
    d.context_push = [](CudaDriver::Context*) {
        ++context.depth;
        return 0;
    };
    d.context_pop = [](CudaDriver::Context**) {
        --context.depth;
        return 0;
    };
    d.module_load_data = [](CudaDriver::Module** module, const void* image) {
        current();
        if (image == nullptr) return 1;
        *module = new CudaDriver::Module;
        ++use.handles;
        return 0;
    };
    d.module_unload = [](CudaDriver::Module* module) {
        delete module;
        --use.handles;
        return 0;
    };
    d.module_get_function = [](CudaDriver::Function** function, CudaDriver::Module*, const char* name) {
        static std::map<std::string, CudaDriver::Function> functions;
        if (kernels.count(name) == 0) give_up(name);
        functions[name].kernel = kernels[name];
        *function = &functions[name];
        return 0;
    };
    d.function_set_attribute = [](CudaDriver::Function*, int which, int value) {
        return which == 8 && value <= shared_bytes ? 0 : 1;
    };
    d.memory_allocate = [](CudaDriver::Address* address, size_t bytes) {
        current();
        *address = reinterpret_cast<CudaDriver::Address>(take(bytes));
        return 0;
    };
    d.memory_free = [](CudaDriver::Address address) {
        give_back(host(address));
        return 0;
    };
    d.memory_allocate_host = [](void** memory, size_t bytes, unsigned) {
        current();
        *memory = take(bytes);
        return 0;
    };
    d.memory_free_host = [](void* memory) {
        give_back(memory);
        return 0;
    };
    d.copy_to_device_queued = [](CudaDriver::Address to, const void* from, size_t bytes, CudaDriver::Queue* queue) {
        return add_step(queue, [=] { std::memcpy(host(to), from, bytes); });
    };
    d.copy_to_host_queued = [](void* to, CudaDriver::Address from, size_t bytes, CudaDriver::Queue* queue) {
        return add_step(queue, [=] { std::memcpy(to, host(from), bytes); });
    };
    d.queue_create = [](CudaDriver::Queue** queue, unsigned) {
        *queue = new CudaDriver::Queue;
        ++use.handles;
        return 0;
    };
    d.queue_destroy = [](CudaDriver::Queue* queue) {
        delete queue;
        --use.handles;
        return 0;
    };
    d.queue_synchronise = [](CudaDriver::Queue* queue) {
        if (queue->recording) give_up("waiting for a queue that is recorded");
        return run_waiting(queue);
    };
    d.queue_query = [](CudaDriver::Queue* queue) {
        static int asked = 0;
        return ++asked % 3 == 0 ? run_waiting(queue) : 600;
    };
    d.capture_begin = [](CudaDriver::Queue* queue, int) {
        current();
        queue->recording = std::make_unique<CudaDriver::Graph>();
        return 0;
    };
    d.capture_end = [](CudaDriver::Queue* queue, CudaDriver::Graph** graph) {
        *graph = queue->recording.release();
        ++use.handles;
        return 0;
    };
    d.graph_instantiate = [](CudaDriver::Executable** executable, CudaDriver::Graph* graph, unsigned long long) {
        *executable = new CudaDriver::Executable{graph->steps};
        ++use.handles;
        return 0;
    };
    d.graph_destroy = [](CudaDriver::Graph* graph) {
        delete graph;
        --use.handles;
        return 0;
    };
    d.graph_launch = [](CudaDriver::Executable* executable, CudaDriver::Queue* queue) {
        if (std::exchange(fails, false)) return 700;
        for (const auto& step : executable->steps) add_step(queue, step);
        return 0;
    };
    d.executable_destroy = [](CudaDriver::Executable* executable) {
        delete executable;
        --use.handles;
        return 0;
    };
    d.launch_kernel = [](CudaDriver::Function* function, unsigned grid_x, unsigned grid_y, unsigned, unsigned block_x,
                         unsigned, unsigned, unsigned shared, CudaDriver::Queue* queue, void** arguments, void**) {
        const auto* const argument = static_cast<const char*>(arguments[0]);
        const std::vector<char> kept(argument, argument + function->kernel.bytes);  // as a graph does
        return add_step(queue, [=] {
            for (unsigned y = 0; y < grid_y; ++y) {
                for (unsigned x = 0; x < grid_x; ++x) {
                    blockIdx = {x, y};
                    block_memory.assign(shared, 0xff);
                    body = function->kernel.run;
                    body_argument = kept.data();
                    ++use.launches;
                    run_block(block_x);
                }
            }
        });
    };
    return d;
}

}  // namespace

const CudaDriver& emulated_driver(int shared, int count) {
    static const CudaDriver driver = make_driver();
    shared_bytes = shared;
    multiprocessors = count;
    return driver;
}

}  // namespace poco

void __syncthreads() {
    poco::wait_at(poco::At::block);
}

void __syncwarp() {
    poco::wait_at(poco::At::warp);
}

float __shfl_xor_sync(unsigned, float value, int lane) {
    poco::fibres[poco::running]->value = value;
    poco::wait_at(poco::At::warp);
    const unsigned own = poco::running;
    const float found = poco::fibres[own ^ static_cast<unsigned>(lane)]->value;
    poco::wait_at(poco::At::warp);  // nobody shows another before all have looked
    return found;
}
