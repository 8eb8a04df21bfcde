// What a person may want to read about a stream. Nothing is written unless a program asks for it.
#pragma once

#include <cstdint>

namespace poco {

constexpr uint32_t kLogSetup = 1, kLogFrames = 2;

// As in poco.h.
struct LogHook {
    void (*write)(uint32_t kind, const char* message, void* user) = nullptr;
    void* user = nullptr;
    uint32_t kinds = 0;
};

// Not while another call of the library is running.
void set_log_hook(const LogHook& hook);

// Whether anybody reads messages of a kind.
bool logs(uint32_t kind);

// Writes a message as printf does, cut at 255 bytes, without memory of its own: no floating-point number without a
// precision.
#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
void log_line(uint32_t kind, const char* format, ...);

}  // namespace poco
