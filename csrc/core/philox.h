// Counter-based random numbers: Philox 4x32-10. The same seed, row and column give the same word everywhere,
// whoever asks, in whatever order.
//
// Word (row, column) under a 64-bit seed: the key is (low half of the seed, high half of the seed), the counter is
// (column / 4, low half of the row, high half of the row, 0), and the word is number `column % 4` of the four.
#pragma once

#include <array>
#include <cstdint>

namespace poco {

// One block of four words.
std::array<uint32_t, 4> philox_block(const std::array<uint32_t, 4>& counter, const std::array<uint32_t, 2>& key);

// Fills out[rows, columns] with the words of rows first_row, first_row + 1, ...
// Thread-safe. columns is at most 2^34. Throws Error if POCO_CPU names a set that cannot run here.
void philox_fill(uint64_t seed, uint64_t first_row, int64_t rows, int64_t columns, uint32_t* out);

// round(p * 2^32), ties to even. An element is kept where its word is at or above this. Throws Error unless 0 <= p < 1.
uint64_t dropout_threshold(double p);

// Fills keep[rows, columns] with 1 (keep) or 0 (drop); elements are dropped with probability p.
// Thread-safe. Throws Error unless 0 <= p < 1.
void dropout_fill(uint64_t seed, uint64_t first_row, int64_t rows, int64_t columns, double p, uint8_t* keep);

}  // namespace poco
