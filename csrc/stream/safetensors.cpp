#include "stream/safetensors.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>

#include "core/errors.h"
#include "stream/checksum.h"
#include "stream/json.h"

// It could be done, and nobody could test it.
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#error \
    "poco reads and writes numbers lowest byte first, as this processor does not: it runs on little-endian ones alone"
#endif

namespace poco {
namespace {

constexpr uint64_t kLongestHeader = 100'000'000;

struct TypeName {
    const char* name;
    SafeTensors::Type type;
    int64_t bytes;
};

constexpr TypeName kTypes[] = {
    {"F32", SafeTensors::Type::float32, 4}, {"BF16", SafeTensors::Type::bfloat16, 2},
    {"F16", SafeTensors::Type::float16, 2}, {"F64", SafeTensors::Type::float64, 8},
    {"U8", SafeTensors::Type::uint8, 1},    {"I8", SafeTensors::Type::other, 1},
    {"I16", SafeTensors::Type::other, 2},   {"U16", SafeTensors::Type::other, 2},
    {"I32", SafeTensors::Type::other, 4},   {"U32", SafeTensors::Type::other, 4},
    {"I64", SafeTensors::Type::other, 8},   {"U64", SafeTensors::Type::other, 8},
    {"BOOL", SafeTensors::Type::other, 1},
};

float from_half(uint16_t bits) {
    const int exponent = bits >> 10 & 31;
    const float fraction = static_cast<float>(bits & 1023);
    const float magnitude = exponent == 31  ? (fraction == 0 ? INFINITY : NAN)
                            : exponent == 0 ? std::ldexp(fraction, -24)
                                            : std::ldexp(fraction + 1024, exponent - 25);
    return bits & 0x8000 ? -magnitude : magnitude;
}

template <typename T>
T element(const uint8_t* data, int64_t index) {
    T value;
    std::memcpy(&value, data + index * static_cast<int64_t>(sizeof(T)), sizeof(T));
    return value;
}

float as_float(const SafeTensors::Entry& entry, int64_t index) {
    switch (entry.type) {
        case SafeTensors::Type::float32:
            return element<float>(entry.data, index);
        case SafeTensors::Type::bfloat16:
            return to_float(Bfloat16{element<uint16_t>(entry.data, index)});
        case SafeTensors::Type::float16:
            return from_half(element<uint16_t>(entry.data, index));
        default:
            return static_cast<float>(element<double>(entry.data, index));
    }
}

}  // namespace

SafeTensors::SafeTensors(Buffer<uint8_t> bytes, const std::string& name) : bytes_(std::move(bytes)), name_(name) {
    if (bytes_.size() < 8) fail(name, " is no safetensors file: it has ", bytes_.size(), " bytes");
    uint64_t length = 0;
    for (int i = 7; i >= 0; --i) length = length << 8 | bytes_[static_cast<size_t>(i)];
    if (length > kLongestHeader || length > bytes_.size() - 8) {
        fail(name, " is truncated or no safetensors file: its header should have ", length, " bytes");
    }
    const uint8_t* const data = bytes_.data() + 8 + length;
    const uint64_t size = bytes_.size() - 8 - length;
    const std::string_view header(reinterpret_cast<const char*>(bytes_.data() + 8), length);
    const Json described = Json::parse(header, "the header of " + name);

    std::vector<std::pair<uint64_t, uint64_t>> places;
    for (const auto& [tensor, description] : described.object()) {
        if (tensor == "__metadata__") continue;
        Entry entry;
        const std::string& type = description.at("dtype").string();
        const auto known =
            std::find_if(std::begin(kTypes), std::end(kTypes), [&](const TypeName& t) { return type == t.name; });
        if (known == std::end(kTypes)) fail(name, ": tensor '", tensor, "' is of an unknown type ", type);
        entry.type = known->type;
        uint64_t count = 1;
        for (const Json& side : description.at("shape").array()) {
            const int64_t length_of_side = side.integer();
            if (length_of_side < 0) fail(name, ": tensor '", tensor, "' has a negative size");
            entry.shape.push_back(length_of_side);
            const uint64_t factor = static_cast<uint64_t>(length_of_side);
            if (factor != 0 && count > size / factor) fail(name, ": tensor '", tensor, "' is larger than the file");
            count *= factor;
        }
        const std::vector<Json>& offsets = description.at("data_offsets").array();
        if (offsets.size() != 2) fail(name, ": tensor '", tensor, "' needs two offsets");
        const int64_t begin = offsets[0].integer(), end = offsets[1].integer();
        if (begin < 0 || end < begin || static_cast<uint64_t>(end) > size) {
            fail(name, ": tensor '", tensor, "' lies outside the file");
        }
        if (count * static_cast<uint64_t>(known->bytes) != static_cast<uint64_t>(end - begin)) {
            fail(name, ": tensor '", tensor, "' has not as many bytes as its shape needs");
        }
        entry.count = static_cast<int64_t>(count);
        entry.data = data + begin;
        entry.bytes = static_cast<size_t>(end - begin);
        places.emplace_back(begin, end);
        entries_.emplace(tensor, std::move(entry));
    }
    std::sort(places.begin(), places.end());
    uint64_t used = 0;
    for (const auto& [begin, end] : places) {
        if (begin != used) fail(name, ": there is a hole or an overlap between its tensors at byte ", used);
        used = end;
    }
    if (used != size) fail(name, ": ", size - used, " bytes at its end belong to no tensor");
    check_sums(described);
}

// Files of other programs have no checksums.
void SafeTensors::check_sums(const Json& described) const {
    const Json* const metadata = described.find("__metadata__");
    const Json* const text = metadata == nullptr ? nullptr : metadata->find("crc32");
    if (text == nullptr) return;
    const Json sums = Json::parse(text->string(), "the checksums of " + name_);
    for (const auto& [tensor, entry] : entries_) {
        const Json* const sum = sums.find(tensor);
        if (sum == nullptr || sum->integer() != crc32(entry.data, entry.bytes)) {
            fail(name_, " is damaged: tensor '", tensor, "' is not what was written");
        }
    }
}

SafeTensors SafeTensors::behind(const std::vector<std::string>& prefixes) const {
    SafeTensors found;
    found.name_ = name_;
    for (const auto& [name, entry] : entries_) {
        for (const std::string& prefix : prefixes) {
            if (name.compare(0, prefix.size(), prefix) != 0) continue;
            const auto [place, fresh] = found.entries_.emplace(name.substr(prefix.size()), entry);
            if (!fresh) fail(name_, ": the tensor '", place->first, "' is there twice");
        }
    }
    return found;
}

const SafeTensors::Entry& SafeTensors::at(const std::string& name) const {
    const auto found = entries_.find(name);
    if (found == entries_.end()) fail(name_, " lacks the tensor '", name, "'");
    return found->second;
}

Floats SafeTensors::floats(const std::string& name, const std::vector<int64_t>& shape) const {
    const Entry& entry = at(name);
    bool fits = entry.shape.size() == shape.size();
    for (size_t i = 0; fits && i < shape.size(); ++i) fits = shape[i] < 0 || shape[i] == entry.shape[i];
    if (!fits) {
        std::string found, wanted;
        for (const int64_t side : entry.shape) found += (found.empty() ? "" : ", ") + std::to_string(side);
        for (const int64_t side : shape)
            wanted += (wanted.empty() ? "" : ", ") + (side < 0 ? "any" : std::to_string(side));
        fail(name_, ": '", name, "' is [", found, "] and should be [", wanted, "]");
    }
    if (entry.type == Type::uint8 || entry.type == Type::other) fail(name_, ": '", name, "' is not of floating point");
    Floats values(static_cast<size_t>(entry.count));
    for (int64_t i = 0; i < entry.count; ++i) {
        const float value = as_float(entry, i);
        if (!std::isfinite(value)) {
            fail(name_, ": '", name, "' holds NaN or infinite values: train again, or restore it from a copy");
        }
        values[static_cast<size_t>(i)] = value;
    }
    return values;
}

bool SafeTensors::flag(const std::string& name, bool otherwise) const {
    const auto found = entries_.find(name);
    if (found == entries_.end() || found->second.type != Type::uint8) return otherwise;
    const Entry& entry = found->second;
    return std::any_of(entry.data, entry.data + entry.bytes, [](uint8_t value) { return value != 0; });
}

std::string SafeTensors::text(const std::string& name) const {
    const Entry& entry = at(name);
    if (entry.type != Type::uint8 || entry.shape.size() != 1) fail(name_, ": '", name, "' is no text");
    return std::string(reinterpret_cast<const char*>(entry.data), static_cast<size_t>(entry.count));
}

Buffer<uint8_t> read_file(const std::string& path, uint64_t most) {
    const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rb"), std::fclose);
    if (file == nullptr) fail("cannot read ", path, ": ", std::strerror(errno));
    Buffer<uint8_t> bytes;
    uint8_t part[1 << 16];
    size_t got;
    while ((got = std::fread(part, 1, sizeof part, file.get())) > 0) {
        if (bytes.size() + got > most) fail(path, " has more than ", most, " bytes");
        bytes.insert(bytes.end(), part, part + got);
    }
    if (std::ferror(file.get())) fail("cannot read ", path, ": ", std::strerror(errno));
    return bytes;
}

}  // namespace poco
