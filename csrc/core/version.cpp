#include "core/version.h"

#include "poco/poco.h"

#define POCO_TEXT_OF(x) #x
#define POCO_TEXT(x) POCO_TEXT_OF(x)

extern "C" {

uint32_t poco_api_version(void) {
    return POCO_API_VERSION;
}

const char* poco_version(void) {
    return POCO_TEXT(POCO_VERSION_MAJOR) "." POCO_TEXT(POCO_VERSION_MINOR) "." POCO_TEXT(POCO_VERSION_PATCH);
}

uint32_t poco_version_number(void) {
    return POCO_VERSION_MAJOR * 10000u + POCO_VERSION_MINOR * 100u + POCO_VERSION_PATCH;
}

}  // extern "C"

namespace poco {

const char* compiler() {
#if defined(__clang__)
    return "Clang " __clang_version__;
#elif defined(__GNUC__)
    return "GCC " __VERSION__;
#elif defined(_MSC_VER)
    return "MSVC " POCO_TEXT(_MSC_VER);
#else
    return "an unknown compiler";
#endif
}

const char* cuda_compiler() {
    return POCO_CUDA_COMPILER;
}

}  // namespace poco
