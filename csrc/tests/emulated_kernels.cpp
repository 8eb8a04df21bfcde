// The kernels in bfloat16 for AVX512-BF16 or AMX, on emulated instructions; POCO_EMULATED_KERNELS is their name.
#include "emulated_instructions.h"
// After what it needs of the compiler as it is.
#include "cpu/passes.h"

namespace poco_test {

extern const poco::Passes<poco::Bfloat16> POCO_EMULATED_KERNELS;
const poco::Passes<poco::Bfloat16> POCO_EMULATED_KERNELS = poco::built_passes<poco::Bfloat16>;

}  // namespace poco_test
