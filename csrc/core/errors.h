// Errors of the core: one line that says what is wrong, where, and what to do.
#pragma once

#include <locale>
#include <sstream>
#include <stdexcept>
#include <string>

namespace poco {

// The input cannot be used as it stands. Bindings turn it into their language's own error.
class Error : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

// A GPU cannot be used, or failed.
class GpuError : public Error {
public:
    using Error::Error;
};

// Frames are missing, and the stream is one that refuses gaps.
class GapError : public Error {
public:
    using Error::Error;
};

// Throws an Error whose message is all parts one after another.
template <typename Kind = Error, typename... Parts>
[[noreturn]] void fail(const Parts&... parts) {
    std::ostringstream message;
    message.imbue(std::locale::classic());  // numbers look alike whatever the program's language
    (message << ... << parts);
    throw Kind(message.str());
}

}  // namespace poco
