// The loops of philox.cpp, included by one source file per instruction set. Everything is in an unnamed namespace, so
// that no function built for a newer processor can replace one built for an older.
#pragma once

#include <cstdint>

namespace poco {

// Fills out[rows, columns] with words, or keep[rows, columns] with word >= threshold.
using PhiloxFill = void (*)(uint64_t seed, uint64_t first_row, int64_t rows, int64_t columns, uint32_t* out);
using PhiloxKeep = void (*)(uint64_t seed, uint64_t first_row, int64_t rows, int64_t columns, uint32_t threshold,
                            uint8_t* keep);

void philox_fill_avx2(uint64_t seed, uint64_t first_row, int64_t rows, int64_t columns, uint32_t* out);
void philox_fill_avx512(uint64_t seed, uint64_t first_row, int64_t rows, int64_t columns, uint32_t* out);
void philox_keep_avx2(uint64_t seed, uint64_t first_row, int64_t rows, int64_t columns, uint32_t threshold,
                      uint8_t* keep);
void philox_keep_avx512(uint64_t seed, uint64_t first_row, int64_t rows, int64_t columns, uint32_t threshold,
                        uint8_t* keep);

namespace {

constexpr uint32_t kMultiplier0 = 0xD2511F53u;
constexpr uint32_t kMultiplier1 = 0xCD9E8D57u;
constexpr uint32_t kKeyStep0 = 0x9E3779B9u;
constexpr uint32_t kKeyStep1 = 0xBB67AE85u;
constexpr int kRounds = 10;
constexpr int kBlocks = 64;  // counters worked on together
constexpr int kWords = 4 * kBlocks;

struct Counter {
    uint32_t c0, c1, c2, c3;
};

inline Counter philox_rounds(Counter c, uint32_t key0, uint32_t key1) {
    for (int round = 0; round < kRounds; ++round) {
        const uint64_t product0 = static_cast<uint64_t>(kMultiplier0) * c.c0;
        const uint64_t product1 = static_cast<uint64_t>(kMultiplier1) * c.c2;
        c = {static_cast<uint32_t>(product1 >> 32) ^ c.c1 ^ key0, static_cast<uint32_t>(product1),
             static_cast<uint32_t>(product0 >> 32) ^ c.c3 ^ key1, static_cast<uint32_t>(product0)};
        key0 += kKeyStep0;
        key1 += kKeyStep1;
    }
    return c;
}

// Words 4 * first_block, ... of one row: all kWords of them.
inline void philox_words(uint64_t seed, uint64_t row, uint32_t first_block, uint32_t* out) {
    const uint32_t key0 = static_cast<uint32_t>(seed);
    const uint32_t key1 = static_cast<uint32_t>(seed >> 32);
    const uint32_t row_low = static_cast<uint32_t>(row);
    const uint32_t row_high = static_cast<uint32_t>(row >> 32);
    for (int block = 0; block < kBlocks; ++block) {
        const Counter c =
            philox_rounds({first_block + static_cast<uint32_t>(block), row_low, row_high, 0u}, key0, key1);
        out[4 * block + 0] = c.c0;
        out[4 * block + 1] = c.c1;
        out[4 * block + 2] = c.c2;
        out[4 * block + 3] = c.c3;
    }
}

inline void philox_fill_loop(uint64_t seed, uint64_t first_row, int64_t rows, int64_t columns, uint32_t* out) {
    uint32_t rest[kWords];
    for (int64_t r = 0; r < rows; ++r) {
        const uint64_t row = first_row + static_cast<uint64_t>(r);
        uint32_t* line = out + r * columns;
        int64_t column = 0;
        for (; column + kWords <= columns; column += kWords) {
            philox_words(seed, row, static_cast<uint32_t>(column / 4), line + column);
        }
        if (column < columns) {
            philox_words(seed, row, static_cast<uint32_t>(column / 4), rest);
            for (int64_t i = 0; i < columns - column; ++i) line[column + i] = rest[i];
        }
    }
}

inline void philox_keep_loop(uint64_t seed, uint64_t first_row, int64_t rows, int64_t columns, uint32_t threshold,
                             uint8_t* keep) {
    uint32_t words[kWords];
    for (int64_t r = 0; r < rows; ++r) {
        const uint64_t row = first_row + static_cast<uint64_t>(r);
        uint8_t* line = keep + r * columns;
        for (int64_t column = 0; column < columns; column += kWords) {
            philox_words(seed, row, static_cast<uint32_t>(column / 4), words);
            if (column + kWords <= columns) {
                for (int i = 0; i < kWords; ++i) line[column + i] = words[i] >= threshold;
            } else {
                for (int64_t i = 0; i < columns - column; ++i) line[column + i] = words[i] >= threshold;
            }
        }
    }
}

}  // namespace
}  // namespace poco
