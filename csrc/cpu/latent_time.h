// When the latents are, in frames: see LatentQueries in kernels.h.
#pragma once

#include <cstdint>

namespace poco {
namespace {

inline double latent_time(int64_t latent, int64_t latents, int64_t context) {
    const double apart = static_cast<double>(context) / static_cast<double>(latents);
    return static_cast<double>(static_cast<float>(static_cast<double>(latent) * apart));
}

}  // namespace
}  // namespace poco
