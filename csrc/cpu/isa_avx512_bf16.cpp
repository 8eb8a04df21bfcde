// Built with the compiler's options for avx512_bf16; called only where the processor has it.
#include "cpu/dispatch.h"
#include "cpu/film_shift.h"
#include "cpu/latent_pool.h"
#include "cpu/latent_transformer.h"

namespace poco {

const Passes<Bfloat16> bfloat16_passes_avx512_bf16{latent_pool,    latent_pool_backward, nullptr,   nullptr,
                                                   latent_queries, latent_transformer,   film_shift};

}  // namespace poco
