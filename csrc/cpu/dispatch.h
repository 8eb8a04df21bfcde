// Which instruction set's kernels of the two passes run here.
#pragma once

#include "core/cpu_features.h"
#include "cpu/kernels.h"

namespace poco {

// The kernels for isa() (see core/cpu_features.h; POCO_CPU forces one). Throws Error if this build has no kernels for
// this kind of processor, or if POCO_CPU names a set that cannot run here.
const CpuKernels& cpu_kernels();

// The kernels for one instruction set; nullptr if they are not part of this library or cannot run here.
const CpuKernels* cpu_kernels(Isa isa);

// One file each. Those for newer processors may be called only where can_run() says so.
extern const CpuKernels cpu_kernels_baseline;
extern const CpuKernels cpu_kernels_avx2;
extern const CpuKernels cpu_kernels_avx512;
extern const Passes<Bfloat16> bfloat16_passes_avx512_bf16;  // in float32 these two are avx512
extern const Passes<Bfloat16> bfloat16_passes_amx;

}  // namespace poco
