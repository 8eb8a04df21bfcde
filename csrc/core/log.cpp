#include "core/log.h"

#include <cstdarg>
#include <cstdio>

namespace poco {
namespace {

LogHook given;

}  // namespace

void set_log_hook(const LogHook& hook) {
    given = hook;
}

bool logs(uint32_t kind) {
    return given.write != nullptr && (given.kinds & kind) != 0;
}

void log_line(uint32_t kind, const char* format, ...) {
    if (!logs(kind)) return;
    char message[256];
    va_list parts;
    va_start(parts, format);
    std::vsnprintf(message, sizeof message, format, parts);
    va_end(parts);
    given.write(kind, message, given.user);
}

}  // namespace poco
