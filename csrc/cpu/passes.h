// All kernels, built for the instruction set that the including file is compiled for.
#pragma once

#include "cpu/film_forecast.h"
#include "cpu/film_forecast_backward.h"
#include "cpu/film_shift.h"
#include "cpu/ground.h"
#include "cpu/kernels.h"
#include "cpu/latent_pool.h"
#include "cpu/latent_pool_backward.h"
#include "cpu/latent_queries.h"
#include "cpu/latent_queries_backward.h"
#include "cpu/latent_training_backward.h"
#include "cpu/latent_transformer.h"

namespace poco {
namespace {

template <typename T>
constexpr Passes<T> built_passes{latent_pool,
                                 latent_pool_backward,
                                 film_forecast,
                                 film_forecast_backward,
                                 latent_queries,
                                 latent_transformer,
                                 film_shift,
                                 latent_tiles,
                                 latent_queries_backward,
                                 latent_training,
                                 latent_training_backward};

}  // namespace
}  // namespace poco
