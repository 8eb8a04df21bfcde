// Built with the compiler's options for avx2; called only where the processor has it.
#include "cpu/dispatch.h"
#include "cpu/film_forecast.h"
#include "cpu/film_forecast_backward.h"
#include "cpu/latent_pool_backward.h"

namespace poco {

const CpuKernels cpu_kernels_avx2{"avx2",
                                  {latent_pool, latent_pool_backward, film_forecast, film_forecast_backward},
                                  {latent_pool, latent_pool_backward, film_forecast, film_forecast_backward}};

}  // namespace poco
