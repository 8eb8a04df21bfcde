// The sessions that a model file knows.
#pragma once

#include <string>
#include <vector>

#include "stream/json.h"
#include "stream/model.h"
#include "stream/safetensors.h"

namespace poco {

// The sessions of a vocabulary (JSON, see poco.nn.vocabulary), with the rates that the description knows of.
std::vector<Session> read_vocabulary(const std::string& text, const Json& description);

// The tensors `mean` and `std` [N] behind a prefix, and whether they were given; throws Error unless deviations are
// positive.
void read_normalisation(const SafeTensors& tensors, const std::string& prefix, Session& session);

}  // namespace poco
