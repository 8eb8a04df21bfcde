// A strict, bounds-checked reader of safetensors: eight bytes of length, a JSON header, tensors.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/memory.h"
#include "cpu/bfloat16.h"

namespace poco {

class Json;

class SafeTensors {
public:
    enum class Type { float32, bfloat16, float16, float64, uint8, other };

    struct Entry {
        Type type = Type::other;
        std::vector<int64_t> shape;
        int64_t count = 0;  // of elements
        const uint8_t* data = nullptr;
        size_t bytes = 0;
    };

    // Takes the bytes of a file over. Throws Error, `name` in its message, unless every byte of the data belongs to
    // just one tensor, sizes fit shapes, the header is what the format says, and tensors have the checksums that its
    // metadata (`crc32`, a JSON object by tensor) gives, if it does.
    SafeTensors(Buffer<uint8_t> bytes, const std::string& name);

    // The tensors whose names begin with one of the prefixes, without it, while this is there. Throws Error if two
    // would have one name.
    SafeTensors behind(const std::vector<std::string>& prefixes) const;

    // The tensor of this name; throws Error if there is none.
    const Entry& at(const std::string& name) const;

    // Whether the uint8 tensor of this name has a value other than 0; `otherwise` if there is none of that name and
    // type.
    bool flag(const std::string& name, bool otherwise) const;

    // The values of a tensor as float32; throws Error if there is none, it is not of `shape` (-1: any size) or of a
    // floating-point type, or a value is not finite.
    Floats floats(const std::string& name, const std::vector<int64_t>& shape) const;

    // The bytes of a uint8 vector as text.
    std::string text(const std::string& name) const;

private:
    SafeTensors() = default;

    void check_sums(const Json& described) const;

    Buffer<uint8_t> bytes_;
    std::map<std::string, Entry> entries_;
    std::string name_;
};

// The bytes of a file. Throws Error if it cannot be read or is larger than `most` bytes.
Buffer<uint8_t> read_file(const std::string& path, uint64_t most);

}  // namespace poco
