// What this processor can do, found at run time; the binary itself runs on any processor of its family.
#pragma once

#include <cstddef>

namespace poco {

// Instruction sets for which kernels are built, from oldest to newest; each has all that is before it. The last two
// differ from avx512 in bfloat16 alone.
enum class Isa { baseline, avx2, avx512, avx512_bf16, amx };

// Names of the instruction sets that the processor and the operating system offer ("sse2", "avx2", ...). It takes no
// memory, so finding them cannot fail, and is not destroyed when the program ends.
class CpuFeatures {
public:
    CpuFeatures() noexcept;

    const char* const* begin() const { return names_; }
    const char* const* end() const { return names_ + count_; }

    // All of them, separated by single spaces.
    const char* joined() const { return joined_; }

private:
    static constexpr size_t kMost = 24, kLongest = 16;  // names, characters of one with the space after it

    void add(const char* name, bool there) noexcept;

    const char* names_[kMost] = {};
    size_t count_ = 0, length_ = 0;
    char joined_[kMost * kLongest] = {};
};

// Found once. Thread-safe.
const CpuFeatures& cpu_features();

// Whether kernels built for `isa` are part of this library and can run here.
bool can_run(Isa isa);

const char* name(Isa isa);

// The instruction set in use: the newest that runs here, or the one that the environment variable POCO_CPU names
// (by its name above; read once). Throws Error if that one is unknown or cannot run here.
Isa isa();

}  // namespace poco
