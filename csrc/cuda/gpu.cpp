#include "cuda/gpu.h"

#include <algorithm>
#include <cstring>

#include "core/errors.h"
#include "cuda/calls.h"

namespace poco {
namespace {

constexpr int kMultiprocessors = 16, kMajor = 75, kSharedMemory = 97;  // CU_DEVICE_ATTRIBUTE_...
constexpr int kDynamicSharedMemory = 8;  // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
constexpr int kThreadLocal = 1;          // CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
constexpr unsigned kNonBlocking = 1;     // CU_STREAM_NON_BLOCKING
constexpr int kOldest = 8;               // compute capability: it has products of bfloat16
constexpr int kNotReady = 600;           // CUDA_ERROR_NOT_READY
constexpr int64_t kWidestGrid = 2147483647, kTallestGrid = 65535;

void must_be(const CudaDriver& driver, int error, const char* what) {
    if (error == 0) return;
    const char* text = nullptr;
    if (driver.get_error_string(error, &text) != 0 || text == nullptr) text = "unknown";
    fail<GpuError>("CUDA could not ", what, ": ", text, " (error ", error, ")");
}

}  // namespace

std::vector<std::string> gpu_names(const CudaDriver& driver) {
    int count = 0;
    must_be(driver, driver.device_get_count(&count), "count the GPUs");
    std::vector<std::string> names;
    for (int number = 0; number < count; ++number) {
        int device = 0;
        char name[256] = "";
        must_be(driver, driver.device_get(&device, number), "find a GPU");
        must_be(driver, driver.device_get_name(name, sizeof name, device), "name a GPU");
        names.emplace_back(name);
    }
    return names;
}

Gpu::Current::Current(const Gpu& gpu) : driver_(gpu.driver_) {
    gpu.must(driver_.context_push(gpu.context_), "turn to the GPU");
}

Gpu::Current::~Current() {
    CudaDriver::Context* before = nullptr;
    driver_.context_pop(&before);
}

// What was opened is closed by the destructor if the rest fails.
Gpu::Gpu(const CudaDriver& driver, const void* image, int number) : Gpu(driver) {
    const auto count = static_cast<int>(gpu_names(driver).size());
    if (number < 0 || number >= count) fail<GpuError>("there is no GPU ", number, "; this machine has ", count);
    must(driver.device_get(&device_, number), "find the GPU");
    const int major = attribute(kMajor);
    if (major < kOldest)
        fail<GpuError>("GPU ", number, " is of compute capability ", major, ".x; 8.0 or later is needed");
    multiprocessors_ = attribute(kMultiprocessors);
    shared_bytes_ = attribute(kSharedMemory);
    must(driver.primary_context_retain(&context_, device_), "open the GPU");
    const Current current(*this);
    must(driver.module_load_data(&module_, image), "load the kernels");
    must(driver.queue_create(&queue_, kNonBlocking), "make a queue");
}

Gpu::~Gpu() {
    if (context_ == nullptr) return;
    if (driver_.context_push(context_) == 0) {
        if (queue_ != nullptr) driver_.queue_synchronise(queue_);
        if (graph_ != nullptr) driver_.executable_destroy(graph_);
        if (queue_ != nullptr) driver_.queue_destroy(queue_);
        for (void* const memory : host_memory_) driver_.memory_free_host(memory);
        for (const CudaDriver::Address address : memory_) driver_.memory_free(address);
        if (module_ != nullptr) driver_.module_unload(module_);
        CudaDriver::Context* before = nullptr;
        driver_.context_pop(&before);
    }
    driver_.primary_context_release(device_);
}

void Gpu::must(int error, const char* what) const {
    must_be(driver_, error, what);
}

int Gpu::attribute(int which) const {
    int value = 0;
    must(driver_.device_get_attribute(&value, which, device_), "describe the GPU");
    return value;
}

CudaDriver::Address Gpu::allocate(size_t bytes) {
    CudaDriver::Address address = 0;
    must(driver_.memory_allocate(&address, std::max<size_t>(bytes, 1)), "allocate memory of the GPU");
    memory_.push_back(address);
    return address;
}

void* Gpu::allocate_host(size_t bytes) {
    void* memory = nullptr;
    must(driver_.memory_allocate_host(&memory, std::max<size_t>(bytes, 1), 0), "allocate pinned memory");
    host_memory_.push_back(memory);
    std::memset(memory, 0, bytes);
    return memory;
}

void Gpu::fill(CudaDriver::Address to, const void* from, size_t bytes) {
    if (bytes == 0) return;
    // By the queue that the kernels run in, which waits for no other; `from` may go once it is done.
    must(driver_.copy_to_device_queued(to, from, bytes, queue_), "copy to the GPU");
    must(driver_.queue_synchronise(queue_), "copy to the GPU");
}

void Gpu::begin_graph() {
    must(driver_.capture_begin(queue_, kThreadLocal), "record a forecast");
}

void Gpu::end_graph() {
    CudaDriver::Graph* graph = nullptr;
    must(driver_.capture_end(queue_, &graph), "record a forecast");
    const int error = driver_.graph_instantiate(&graph_, graph, 0);
    driver_.graph_destroy(graph);
    must(error, "prepare a forecast");
}

void Gpu::copy_in(const void* to, const void* from, size_t bytes) {
    must(driver_.copy_to_device_queued(reinterpret_cast<CudaDriver::Address>(to), from, bytes, queue_), "copy");
}

void Gpu::copy_out(void* to, const void* from, size_t bytes) {
    must(driver_.copy_to_host_queued(to, reinterpret_cast<CudaDriver::Address>(from), bytes, queue_), "copy");
}

void Gpu::launch_with(const std::string& kernel, const void* call, int64_t grid_x, int64_t grid_y, int64_t shared) {
    if (shared > shared_bytes_) {
        fail<GpuError>("the model is too large for this GPU: ", kernel, " needs ", shared,
                       " bytes of the memory of a block, which "
                       "has ",
                       shared_bytes_);
    }
    if (grid_x > kWidestGrid || grid_y > kTallestGrid) fail<GpuError>("the model is too large for a GPU: ", kernel);
    CudaDriver::Function* function = nullptr;
    must(driver_.module_get_function(&function, module_, kernel.c_str()), "find a kernel");
    must(driver_.function_set_attribute(function, kDynamicSharedMemory, static_cast<int>(shared)),
         "give a kernel its memory");
    void* arguments[] = {const_cast<void*>(call)};
    must(driver_.launch_kernel(function, static_cast<unsigned>(grid_x), static_cast<unsigned>(grid_y), 1,
                               cuda::kThreads, 1, 1, static_cast<unsigned>(shared), queue_, arguments, nullptr),
         "start a kernel");
}

void Gpu::run(bool spin) {
    must(driver_.graph_launch(graph_, queue_), "start a forecast");
    while (spin) {
        const int state = driver_.queue_query(queue_);
        if (state == kNotReady) continue;
        return must(state, "make a forecast");
    }
    wait();
}

void Gpu::wait() {
    must(driver_.queue_synchronise(queue_), "make a forecast");
}

}  // namespace poco
