// A POCO out of a model file, and its forecasts of one window after another.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/memory.h"
#include "cpu/inference.h"
#include "stream/json.h"
#include "stream/model.h"
#include "stream/safetensors.h"

namespace poco {

// Sizes (in the letters of cpu/kernels.h) and parameters of a POCO, without its embeddings. It never changes.
struct Network : ModelSizes {
    int64_t context = 0, seen = 0;   // `seen`: the last frames of the context, which it looks at
    Floats initial;                  // [Q, d] the latents before they read
    Floats frequencies;              // [dh / 4]
    std::vector<Floats> parameters;  // ModelParameters of poco/ops/parameters.py

    // Throws Error if a size is out of range or a tensor is missing or of another shape.
    Network(const Json& config, const SafeTensors& tensors, const std::string& prefix);
};

// Forecasts by a network of a session whose units have these embeddings, table [N, d].
// `latent_shift` [d] is added to the initial latents, empty: nothing. The network outlives the forecaster.
std::unique_ptr<Forecaster> network_forecaster(const Network& network, const Floats& table, const Floats& latent_shift,
                                               const Arithmetic& arithmetic);

}  // namespace poco
