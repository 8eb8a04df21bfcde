// The driver of CUDA, found at run time: nothing of CUDA is linked, and where there is no driver all else works.
#pragma once

#include <cstddef>
#include <cstdint>

namespace poco {

// The entries of libcuda that are used, under their own names without "cu"; every one returns 0 or what went wrong.
// Handles are pointers to what only the driver knows.
struct CudaDriver {
    using Address = uint64_t;  // in memory of a device
    struct Context;
    struct Module;
    struct Function;
    struct Queue;  // CUstream
    struct Graph;
    struct Executable;  // CUgraphExec

    int (*init)(unsigned flags);
    int (*get_error_string)(int error, const char** text);
    int (*device_get_count)(int* count);
    int (*device_get)(int* device, int number);
    int (*device_get_name)(char* name, int length, int device);
    int (*device_get_attribute)(int* value, int attribute, int device);
    int (*primary_context_retain)(Context** context, int device);
    int (*primary_context_release)(int device);
    int (*context_push)(Context* context);
    int (*context_pop)(Context** context);
    int (*module_load_data)(Module** module, const void* image);
    int (*module_unload)(Module* module);
    int (*module_get_function)(Function** function, Module* module, const char* name);
    int (*function_set_attribute)(Function* function, int attribute, int value);
    int (*memory_allocate)(Address* address, size_t bytes);
    int (*memory_free)(Address address);
    int (*copy_to_device_queued)(Address to, const void* from, size_t bytes, Queue* queue);
    int (*copy_to_host_queued)(void* to, Address from, size_t bytes, Queue* queue);
    int (*memory_allocate_host)(void** memory, size_t bytes, unsigned flags);
    int (*memory_free_host)(void* memory);
    int (*queue_create)(Queue** queue, unsigned flags);
    int (*queue_destroy)(Queue* queue);
    int (*queue_synchronise)(Queue* queue);
    int (*queue_query)(Queue* queue);  // 600 while it is not done
    int (*capture_begin)(Queue* queue, int mode);
    int (*capture_end)(Queue* queue, Graph** graph);
    int (*graph_instantiate)(Executable** executable, Graph* graph, unsigned long long flags);
    int (*graph_destroy)(Graph* graph);
    int (*graph_launch)(Executable* executable, Queue* queue);
    int (*executable_destroy)(Executable* executable);
    int (*launch_kernel)(Function* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                         unsigned block_y, unsigned block_z, unsigned shared_bytes, Queue* queue, void** arguments,
                         void** extra);
};

// Throws Error, which says why, if the kernels were not built, there is no driver, or it cannot be used. Thread-safe.
const CudaDriver& cuda_driver();

// The kernels as nvcc built them; nullptr where it did not.
const void* cuda_image();

}  // namespace poco
