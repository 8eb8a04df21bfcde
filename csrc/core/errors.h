// Errors of the core: one line that says what is wrong, where, and what to do.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace poco {

// The input cannot be used as it stands. Bindings turn it into their language's own error.
class Error : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

// Throws an Error whose message is all parts one after another.
template <typename... Parts>
[[noreturn]] void fail(const Parts&... parts) {
    std::ostringstream message;
    (message << ... << parts);
    throw Error(message.str());
}

}  // namespace poco
