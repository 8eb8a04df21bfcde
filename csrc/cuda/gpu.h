// A GPU for one forecaster: its memory, its kernels, and one forecast recorded as a graph.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/memory.h"
#include "cuda/driver.h"

namespace poco {

// Names of the GPUs of this machine, by their numbers. Throws Error if the driver cannot say.
std::vector<std::string> gpu_names(const CudaDriver& driver);

// Everything is given back when it goes. Whoever calls it has made it current.
class Gpu {
public:
    // Throws Error if there is no GPU of this number, it is too old, or the image does not fit it.
    Gpu(const CudaDriver& driver, const void* image, int number);
    ~Gpu();
    Gpu(const Gpu&) = delete;

    // Makes it what the thread's calls go to, while this lives.
    class Current {
    public:
        explicit Current(const Gpu& gpu);
        ~Current();
        Current(const Current&) = delete;

    private:
        const CudaDriver& driver_;
    };

    int multiprocessors() const { return multiprocessors_; }
    int64_t shared_bytes() const { return shared_bytes_; }  // the most that a block can have

    // Memory of the GPU, and of the host where copies need not wait for the processor.
    template <typename T>
    T* room(int64_t count) {
        return reinterpret_cast<T*>(allocate(sizeof(T) * static_cast<size_t>(count)));
    }
    template <typename T>
    T* host_room(int64_t count) {
        return static_cast<T*>(allocate_host(sizeof(T) * static_cast<size_t>(count)));
    }
    template <typename T>
    const T* copy(const Buffer<T>& from) {
        T* const to = room<T>(static_cast<int64_t>(from.size()));
        fill(reinterpret_cast<CudaDriver::Address>(to), from.data(), from.size() * sizeof(T));
        return to;
    }

    // What `queue_all` queues becomes the graph. It is run once as it is, so that all kernels are loaded and what does
    // not fit is found. Throws Error if it cannot be.
    template <typename Queued>
    void record(const Queued& queue_all) {
        queue_all();
        wait();
        begin_graph();
        queue_all();
        end_graph();
    }
    void copy_in(const void* to, const void* from, size_t bytes);
    void copy_out(void* to, const void* from, size_t bytes);
    template <typename Call>
    void launch(const std::string& kernel, const Call& call, int64_t grid_x, int64_t grid_y, int64_t shared) {
        launch_with(kernel, &call, grid_x, grid_y, shared);
    }

    // Runs the graph to its end, asking without a pause whether it is there, or as the driver waits. Throws Error if
    // the GPU fails.
    void run(bool spin);

private:
    explicit Gpu(const CudaDriver& driver) : driver_(driver) {}

    void begin_graph();
    void end_graph();
    void wait();
    void must(int error, const char* what) const;
    int attribute(int which) const;
    CudaDriver::Address allocate(size_t bytes);
    void* allocate_host(size_t bytes);
    void fill(CudaDriver::Address to, const void* from, size_t bytes);
    void launch_with(const std::string& kernel, const void* call, int64_t grid_x, int64_t grid_y, int64_t shared);

    const CudaDriver& driver_;
    int device_ = 0, multiprocessors_ = 0;
    int64_t shared_bytes_ = 0;
    CudaDriver::Context* context_ = nullptr;
    CudaDriver::Module* module_ = nullptr;
    CudaDriver::Queue* queue_ = nullptr;
    CudaDriver::Executable* graph_ = nullptr;
    std::vector<CudaDriver::Address> memory_;
    std::vector<void*> host_memory_;
};

}  // namespace poco
