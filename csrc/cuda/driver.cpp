#include "cuda/driver.h"

#include <string>
#include <type_traits>

#if defined(_WIN32)
#include <windows.h>
#else
#include <dlfcn.h>
#endif

#include "core/errors.h"

#if defined(POCO_CUDA_IMAGE)
// Read by the assembler.
__asm__(
    ".section .rodata\n"
    ".balign 64\n"
    ".global poco_cuda_image\n"
    ".hidden poco_cuda_image\n"
    "poco_cuda_image:\n"
    ".incbin \"" POCO_CUDA_IMAGE
    "\"\n"
    ".byte 0\n"
    ".previous\n");
extern "C" const unsigned char poco_cuda_image[];
#endif

namespace poco {
namespace {

#if defined(_WIN32)
void* driver_library() {
    return reinterpret_cast<void*>(LoadLibraryA("nvcuda.dll"));
}
void* entry(void* library, const char* name) {
    return reinterpret_cast<void*>(GetProcAddress(static_cast<HMODULE>(library), name));
}
#else
void* driver_library() {
    return dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
}
void* entry(void* library, const char* name) {
    return dlsym(library, name);
}
#endif

// What was found, or why nothing was.
struct Found {
    CudaDriver driver{};
    std::string problem;

    Found() {
        if (cuda_image() == nullptr) {
            problem = "this build of poco has no kernels for CUDA: there was no nvcc when it was built";
            return;
        }
        void* const library = driver_library();  // stays loaded
        if (library == nullptr) {
            problem = "there is no driver of CUDA on this machine";
            return;
        }
        const auto find = [&](auto& to, const char* name) {
            void* const found = entry(library, name);
            if (found == nullptr) problem = std::string("the driver of CUDA is too old: it lacks ") + name;
            to = reinterpret_cast<std::remove_reference_t<decltype(to)>>(found);
        };
        CudaDriver& d = driver;
        find(d.init, "cuInit");
        find(d.get_error_string, "cuGetErrorString");
        find(d.device_get_count, "cuDeviceGetCount");
        find(d.device_get, "cuDeviceGet");
        find(d.device_get_name, "cuDeviceGetName");
        find(d.device_get_attribute, "cuDeviceGetAttribute");
        find(d.primary_context_retain, "cuDevicePrimaryCtxRetain");
        find(d.primary_context_release, "cuDevicePrimaryCtxRelease_v2");
        find(d.context_push, "cuCtxPushCurrent_v2");
        find(d.context_pop, "cuCtxPopCurrent_v2");
        find(d.module_load_data, "cuModuleLoadData");
        find(d.module_unload, "cuModuleUnload");
        find(d.module_get_function, "cuModuleGetFunction");
        find(d.function_set_attribute, "cuFuncSetAttribute");
        find(d.memory_allocate, "cuMemAlloc_v2");
        find(d.memory_free, "cuMemFree_v2");
        find(d.copy_to_device_queued, "cuMemcpyHtoDAsync_v2");
        find(d.copy_to_host_queued, "cuMemcpyDtoHAsync_v2");
        find(d.memory_allocate_host, "cuMemHostAlloc");
        find(d.memory_free_host, "cuMemFreeHost");
        find(d.queue_create, "cuStreamCreate");
        find(d.queue_destroy, "cuStreamDestroy_v2");
        find(d.queue_synchronise, "cuStreamSynchronize");
        find(d.queue_query, "cuStreamQuery");
        find(d.capture_begin, "cuStreamBeginCapture_v2");
        find(d.capture_end, "cuStreamEndCapture");
        find(d.graph_instantiate, "cuGraphInstantiateWithFlags");
        find(d.graph_destroy, "cuGraphDestroy");
        find(d.graph_launch, "cuGraphLaunch");
        find(d.executable_destroy, "cuGraphExecDestroy");
        find(d.launch_kernel, "cuLaunchKernel");
        if (!problem.empty()) return;
        const int error = d.init(0);
        if (error != 0) problem = "the driver of CUDA does not start: error " + std::to_string(error);
    }
};

}  // namespace

const CudaDriver& cuda_driver() {
    static const Found found;
    if (!found.problem.empty()) fail<GpuError>(found.problem);
    return found.driver;
}

const void* cuda_image() {
#if defined(POCO_CUDA_IMAGE)
    return poco_cuda_image;
#else
    return nullptr;
#endif
}

}  // namespace poco
