// Built with the compiler's options for avx2; called only where the processor has it.
#include "cpu/dispatch.h"
#include "cpu/film_forecast.h"
#include "cpu/film_forecast_backward.h"
#include "cpu/film_shift.h"
#include "cpu/latent_pool.h"
#include "cpu/latent_transformer.h"

namespace poco {

const CpuKernels cpu_kernels_avx2{
    "avx2",
    {latent_pool, latent_pool_backward, film_forecast, film_forecast_backward, latent_queries, latent_transformer,
     film_shift},
    {latent_pool, latent_pool_backward, nullptr, nullptr, latent_queries, latent_transformer, film_shift}};

}  // namespace poco
