// Built for the oldest processor of its family: SSE2 on x86-64, NEON on aarch64.
#include "cpu/dispatch.h"
#include "cpu/passes.h"

namespace poco {

const CpuKernels cpu_kernels_baseline{"baseline", built_passes<float>, built_passes<Bfloat16>, built_ground};

}  // namespace poco
