// What this library is and what it was built with.
#pragma once

namespace poco {

// For example "GCC 12.2.0".
const char* compiler();

// Version of the CUDA compiler found when building, or "none".
const char* cuda_compiler();

}  // namespace poco
