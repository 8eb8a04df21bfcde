// Several models of one kind that forecast as one: see poco.ensemble.
#pragma once

#include <memory>
#include <vector>

#include "stream/model.h"

namespace poco {

// Forecasts the mean of the members' forecasts. Throws Error unless they know the same sessions, with the same units
// and normalisation, and have the same context and horizon.
std::shared_ptr<const Model> ensemble_of(std::vector<std::shared_ptr<const Model>> members);

}  // namespace poco
