// Built with the compiler's options for avx512; called only where the processor has it.
#include "core/philox_kernel.h"

namespace poco {

void philox_fill_avx512(uint64_t seed, uint64_t first_row, int64_t rows, int64_t columns, uint32_t* out) {
    philox_fill_loop(seed, first_row, rows, columns, out);
}

void philox_keep_avx512(uint64_t seed, uint64_t first_row, int64_t rows, int64_t columns, uint32_t threshold,
                        uint8_t* keep) {
    philox_keep_loop(seed, first_row, rows, columns, threshold, keep);
}

}  // namespace poco
