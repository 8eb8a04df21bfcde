// CRC-32 (ISO 3309, as zlib's crc32), which says whether bytes are those that were written.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace poco {

inline uint32_t crc32(const uint8_t* data, size_t size) {
    // Row k: what a byte does that k others follow, so eight bytes are taken at a time.
    static const auto tables = [] {
        std::array<std::array<uint32_t, 256>, 8> rows{};
        for (uint32_t byte = 0; byte < 256; ++byte) {
            uint32_t rest = byte;
            for (int bit = 0; bit < 8; ++bit) rest = rest >> 1 ^ (rest & 1 ? 0xedb88320u : 0);
            rows[0][byte] = rest;
        }
        for (size_t row = 1; row < 8; ++row) {
            for (size_t byte = 0; byte < 256; ++byte) {
                const uint32_t before = rows[row - 1][byte];
                rows[row][byte] = before >> 8 ^ rows[0][before & 255];
            }
        }
        return rows;
    }();
    uint32_t rest = 0xffffffffu;
    for (; size >= 8; size -= 8, data += 8) {
        uint32_t next = 0;
        for (size_t i = 0; i < 8; ++i) {
            const uint8_t byte = i < 4 ? static_cast<uint8_t>(data[i] ^ rest >> 8 * i) : data[i];
            next ^= tables[7 - i][byte];
        }
        rest = next;
    }
    for (; size > 0; --size, ++data) rest = rest >> 8 ^ tables[0][(rest ^ *data) & 255];
    return ~rest;
}

}  // namespace poco
