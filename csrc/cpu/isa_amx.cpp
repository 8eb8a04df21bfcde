// Built with the compiler's options for amx; called only where the processor has it.
#include "cpu/dispatch.h"
#include "cpu/film_forecast_backward.h"
#include "cpu/latent_pool_backward.h"

namespace poco {

const Passes<Bfloat16> bfloat16_passes_amx{latent_pool, latent_pool_backward, film_forecast, film_forecast_backward};

}  // namespace poco
