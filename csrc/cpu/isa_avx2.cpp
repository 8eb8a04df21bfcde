// Built with the compiler's options for avx2; called only where the processor has it.
#include "cpu/dispatch.h"
#include "cpu/passes.h"

namespace poco {

const CpuKernels cpu_kernels_avx2{"avx2", built_passes<float>, built_passes<Bfloat16>, built_ground};

}  // namespace poco
