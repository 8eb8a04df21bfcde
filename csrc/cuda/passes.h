// The forecasts of a network by a GPU: both passes and what is between them as one graph.
#pragma once

#include <cstdint>
#include <memory>

#include "cpu/kernels.h"
#include "cuda/driver.h"

namespace poco {

template <typename T>
class CudaPasses {
public:
    virtual ~CudaPasses() = default;

    // Makes the forecast of `x`, without the units whose `seen` is 0 in pass 1; waits as Gpu::run does. Allocates
    // nothing. Throws Error if the GPU fails.
    virtual void run(bool spin) = 0;

    // Of the host, pinned.
    T* x = nullptr;           // [N, C]
    uint8_t* seen = nullptr;  // [N]
    T* forecast = nullptr;    // [N, H]
};

// What a processor does by calls of latent_pool, latent_transformer and film_forecast, for one window of all units in
// their order. Weights, embeddings, queries and the folded shift are read from these calls now, and nothing later.
// Throws Error if there is no such GPU or the network does not fit it.
template <typename T>
std::unique_ptr<CudaPasses<T>> cuda_passes(const CudaDriver& driver, const void* image, int gpu,
                                           const LatentPool<T>& pool, const LatentTransformer<T>& between,
                                           const FilmForecast<T>& film);

}  // namespace poco
