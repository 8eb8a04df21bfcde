/*
 * poco.h: the public C interface of poco.
 *
 * Plain C99, no torch and no Python behind it. Every function states its thread-safety. Nothing here throws,
 * and nothing that is in this header changes its meaning while POCO_API_VERSION stays the same: functions are
 * added, never altered. Compare poco_api_version() of the library with POCO_API_VERSION of the header before
 * anything else; they must be equal.
 */
#ifndef POCO_POCO_H
#define POCO_POCO_H

#include <stdint.h>

#if defined(_WIN32) && defined(POCO_SHARED)
#if defined(POCO_BUILDING)
#define POCO_API __declspec(dllexport)
#else
#define POCO_API __declspec(dllimport)
#endif
#elif defined(__GNUC__)
#define POCO_API __attribute__((visibility("default")))
#else
#define POCO_API
#endif

/* Version of this interface (not of the library). */
#define POCO_API_VERSION 1

#ifdef __cplusplus
extern "C" {
#endif

/* POCO_API_VERSION of the header that the library was built with. Thread-safe. */
POCO_API uint32_t poco_api_version(void);

/* Version of the library, for example "0.1.0". The string is static: never free it. Thread-safe. */
POCO_API const char* poco_version(void);

/* Version of the library as one number that grows: major * 10000 + minor * 100 + patch. Thread-safe. */
POCO_API uint32_t poco_version_number(void);

/*
 * Names of the instruction sets that this processor and its operating system offer, separated by single spaces,
 * for example "sse2 avx2 fma"; empty where none is known. Found once, at the first call. The string is static:
 * never free it. Thread-safe.
 */
POCO_API const char* poco_cpu_features(void);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* POCO_POCO_H */
