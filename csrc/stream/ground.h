// A forecaster on the ground out of a model file: see poco.ground for what it computes.
#pragma once

#include <memory>

#include "stream/json.h"
#include "stream/model.h"
#include "stream/safetensors.h"

namespace poco {

// The model of class Grounded with these sizes, rates (of the description) and tensors. Throws Error if something does
// not fit.
std::shared_ptr<const Model> load_grounded(const Json& config, const Json& description, const SafeTensors& tensors);

}  // namespace poco
