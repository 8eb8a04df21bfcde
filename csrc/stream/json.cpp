#include "stream/json.h"

#include <cmath>
#include <locale>
#include <sstream>

#include "core/errors.h"

namespace poco {

constexpr int kDeepest = 32;
constexpr size_t kMostValues = size_t{4} << 20;  // a name for each of a million units, and much room

class JsonReader {
public:
    JsonReader(std::string_view text, const std::string& where) : text_(text), where_(where) {}

    Json whole() {
        Json value = read(0);
        space();
        if (at_ != text_.size()) bad("something follows the end");
        return value;
    }

private:
    [[noreturn]] void bad(const char* what) const { fail(where_, " is not JSON: ", what, " at byte ", at_); }

    void space() {
        while (at_ < text_.size() &&
               (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n' || text_[at_] == '\r'))
            ++at_;
    }

    char next() {
        if (at_ >= text_.size()) bad("it ends too early");
        return text_[at_];
    }

    bool take(char expected) {
        if (at_ < text_.size() && text_[at_] == expected) {
            ++at_;
            return true;
        }
        return false;
    }

    void word(std::string_view expected) {
        if (text_.substr(at_, expected.size()) != expected) bad("an unknown word");
        at_ += expected.size();
    }

    Json read(int depth) {
        if (depth > kDeepest) bad("it is nested too deeply");
        if (++values_ > kMostValues) bad("it has too many values");
        space();
        Json value;
        switch (next()) {
            case '{':
                object(value, depth);
                break;
            case '[':
                array(value, depth);
                break;
            case '"':
                value.kind_ = Json::Kind::string;
                value.string_ = string();
                break;
            case 't':
            case 'f':
                value.kind_ = Json::Kind::boolean;
                value.boolean_ = next() == 't';
                word(value.boolean_ ? "true" : "false");
                break;
            case 'n':
                word("null");
                break;
            default:
                number(value);
        }
        return value;
    }

    void object(Json& value, int depth) {
        value.kind_ = Json::Kind::object;
        ++at_;
        space();
        if (take('}')) return;
        do {
            space();
            if (next() != '"') bad("a name was expected");
            std::string name = string();
            space();
            if (!take(':')) bad("a colon was expected");
            if (!value.object_.emplace(std::move(name), read(depth + 1)).second) bad("a name occurs twice");
            space();
        } while (take(','));
        if (!take('}')) bad("a comma or a brace was expected");
    }

    void array(Json& value, int depth) {
        value.kind_ = Json::Kind::array;
        ++at_;
        space();
        if (take(']')) return;
        do {
            value.array_.push_back(read(depth + 1));
            space();
        } while (take(','));
        if (!take(']')) bad("a comma or a bracket was expected");
    }

    void number(Json& value) {
        const size_t first = at_;
        take('-');
        if (!take('0')) digits();
        if (take('.')) digits();
        if (take('e') || take('E')) {
            if (!take('+')) take('-');
            digits();
        }
        value.kind_ = Json::Kind::number;
        // Not by the program's locale, where a comma may be what a point is here.
        std::istringstream text{std::string(text_.substr(first, at_ - first))};
        text.imbue(std::locale::classic());
        if (!(text >> value.number_)) bad("a number is too large");
    }

    void digits() {
        const size_t first = at_;
        while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') ++at_;
        if (at_ == first) bad("a digit was expected");
    }

    uint32_t hex() {
        uint32_t code = 0;
        for (int i = 0; i < 4; ++i, ++at_) {
            const char c = next();
            const int digit = c >= '0' && c <= '9'   ? c - '0'
                              : c >= 'a' && c <= 'f' ? c - 'a' + 10
                              : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                                     : -1;
            if (digit < 0) bad("a hexadecimal digit was expected");
            code = code * 16 + static_cast<uint32_t>(digit);
        }
        return code;
    }

    std::string string() {
        std::string found;
        ++at_;
        while (true) {
            const char c = next();
            ++at_;
            if (c == '"') return found;
            if (static_cast<unsigned char>(c) < 0x20) bad("a control character in a string");
            if (static_cast<unsigned char>(c) >= 0x80) {
                character(static_cast<unsigned char>(c), found);
                continue;
            }
            if (c != '\\') {
                found += c;
                continue;
            }
            const char escaped = next();
            ++at_;
            switch (escaped) {
                case '"':
                case '\\':
                case '/':
                    found += escaped;
                    break;
                case 'b':
                    found += '\b';
                    break;
                case 'f':
                    found += '\f';
                    break;
                case 'n':
                    found += '\n';
                    break;
                case 'r':
                    found += '\r';
                    break;
                case 't':
                    found += '\t';
                    break;
                case 'u':
                    unicode(found);
                    break;
                default:
                    bad("an unknown escape");
            }
        }
    }

    // A character whose first byte is not ASCII: UTF-8 has one form of each (RFC 3629).
    void character(unsigned char first, std::string& to) {
        const int more = first < 0xC2 ? 0 : first < 0xE0 ? 1 : first < 0xF0 ? 2 : first < 0xF5 ? 3 : 0;
        if (more == 0) bad("a string is not UTF-8");
        to += static_cast<char>(first);
        for (int i = 0; i < more; ++i, ++at_) {
            const auto byte = static_cast<unsigned char>(next());
            const int least = i > 0 ? 0x80 : first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
            const int most = i > 0 ? 0xBF : first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
            if (byte < least || byte > most) bad("a string is not UTF-8");
            to += static_cast<char>(byte);
        }
    }

    void unicode(std::string& to) {
        uint32_t code = hex();
        if (code >= 0xD800 && code < 0xDC00) {
            if (!take('\\') || !take('u')) bad("half a surrogate pair");
            const uint32_t low = hex();
            if (low < 0xDC00 || low > 0xDFFF) bad("half a surrogate pair");
            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
        } else if (code >= 0xDC00 && code <= 0xDFFF) {
            bad("half a surrogate pair");
        }
        const auto put = [&to](uint32_t byte) { to += static_cast<char>(byte); };
        if (code < 0x80) {
            put(code);
        } else if (code < 0x800) {
            put(0xC0 | code >> 6);
            put(0x80 | (code & 0x3F));
        } else if (code < 0x10000) {
            put(0xE0 | code >> 12);
            put(0x80 | (code >> 6 & 0x3F));
            put(0x80 | (code & 0x3F));
        } else {
            put(0xF0 | code >> 18);
            put(0x80 | (code >> 12 & 0x3F));
            put(0x80 | (code >> 6 & 0x3F));
            put(0x80 | (code & 0x3F));
        }
    }

    std::string_view text_;
    const std::string& where_;
    size_t at_ = 0, values_ = 0;
};

Json Json::parse(std::string_view text, const std::string& where) {
    return JsonReader(text, where).whole();
}

void Json::wrong(const char* wanted) const {
    static const char* const names[] = {"null", "a boolean", "a number", "a string", "an array", "an object"};
    fail("the model's description has ", names[static_cast<int>(kind_)], " where ", wanted, " belongs");
}

bool Json::boolean() const {
    if (kind_ != Kind::boolean) wrong("a boolean");
    return boolean_;
}

double Json::number() const {
    if (kind_ != Kind::number) wrong("a number");
    return number_;
}

int64_t Json::integer() const {
    const double value = number();
    if (!(std::fabs(value) < 9007199254740992.0) || value != std::floor(value)) wrong("a whole number");
    return static_cast<int64_t>(value);
}

const std::string& Json::string() const& {
    if (kind_ != Kind::string) wrong("a string");
    return string_;
}

const std::vector<Json>& Json::array() const& {
    if (kind_ != Kind::array) wrong("an array");
    return array_;
}

const std::map<std::string, Json>& Json::object() const& {
    if (kind_ != Kind::object) wrong("an object");
    return object_;
}

const Json* Json::find(const std::string& name) const& {
    const auto found = object().find(name);
    return found == object_.end() ? nullptr : &found->second;
}

const Json& Json::at(const std::string& name) const& {
    const Json* const found = find(name);
    if (found == nullptr) fail("the model's description lacks '", name, "'");
    return *found;
}

}  // namespace poco
