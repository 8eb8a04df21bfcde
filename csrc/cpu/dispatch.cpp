#include "cpu/dispatch.h"

#include "core/errors.h"
#include "core/version.h"

namespace poco {

const CpuKernels* cpu_kernels(Isa isa) {
    if (!can_run(isa)) return nullptr;
#if defined(POCO_CPU_KERNELS)
    switch (isa) {
#if defined(POCO_AMX)
        case Isa::amx: {
            static const CpuKernels amx{"amx", cpu_kernels_avx512.float32, bfloat16_passes_amx,
                                        cpu_kernels_avx512.ground};
            return &amx;
        }
#endif
#if defined(POCO_AVX512_BF16)
        case Isa::avx512_bf16: {
            static const CpuKernels avx512_bf16{"avx512_bf16", cpu_kernels_avx512.float32, bfloat16_passes_avx512_bf16,
                                                cpu_kernels_avx512.ground};
            return &avx512_bf16;
        }
#endif
#if defined(POCO_X86_64)
        case Isa::avx512:
            return &cpu_kernels_avx512;
        case Isa::avx2:
            return &cpu_kernels_avx2;
#endif
        default:
            return &cpu_kernels_baseline;
    }
#else
    return nullptr;
#endif
}

const CpuKernels& cpu_kernels() {
    const CpuKernels* kernels = cpu_kernels(isa());
    if (kernels == nullptr)
        fail("the kernels of the two passes need a build by GCC or clang; this one is by ", compiler());
    return *kernels;
}

}  // namespace poco
