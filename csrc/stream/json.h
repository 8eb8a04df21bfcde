// A strict reader of JSON (RFC 8259) for the texts inside model files.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace poco {

class Json {
public:
    enum class Kind { null, boolean, number, string, array, object };

    // The value of a whole text. Throws Error, `where` in its message, for anything that is not JSON (UTF-8), a name
    // that occurs twice in an object, nesting deeper than 32, or more than four million values.
    static Json parse(std::string_view text, const std::string& where);

    Kind kind() const { return kind_; }
    bool is_null() const { return kind_ == Kind::null; }

    // What the value is; each throws Error if it is of another kind. `integer` also if it is no whole number below
    // 2^53.
    bool boolean() const;
    double number() const;
    int64_t integer() const;
    // They point into this value, so they cannot be asked of a temporary one.
    const std::string& string() const&;
    const std::vector<Json>& array() const&;
    const std::map<std::string, Json>& object() const&;

    // A member of an object; throws Error if there is none.
    const Json& at(const std::string& name) const&;
    // The same, nullptr if there is none.
    const Json* find(const std::string& name) const&;

    const std::string& string() const&& = delete;
    const std::vector<Json>& array() const&& = delete;
    const std::map<std::string, Json>& object() const&& = delete;
    const Json& at(const std::string& name) const&& = delete;
    const Json* find(const std::string& name) const&& = delete;

private:
    friend class JsonReader;

    [[noreturn]] void wrong(const char* wanted) const;

    Kind kind_ = Kind::null;
    bool boolean_ = false;
    double number_ = 0;
    std::string string_;
    std::vector<Json> array_;
    std::map<std::string, Json> object_;
};

}  // namespace poco
