// What this processor can do, found at run time; the binary itself runs on any processor of its family.
#pragma once

#include <string>
#include <vector>

namespace poco {

// Instruction sets for which kernels are built, from oldest to newest; each has all that is before it. The last two
// differ from avx512 in bfloat16 alone.
enum class Isa { baseline, avx2, avx512, avx512_bf16, amx };

// Names of the instruction sets that the processor and the operating system offer ("sse2", "avx2", ...).
const std::vector<std::string>& cpu_features();

// Whether kernels built for `isa` are part of this library and can run here.
bool can_run(Isa isa);

const char* name(Isa isa);

// The instruction set in use: the newest that runs here, or the one that the environment variable POCO_CPU names
// (by its name above; read once). Throws Error if that one is unknown or cannot run here.
Isa isa();

}  // namespace poco
