#include "core/cpu_features.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>

#include "core/errors.h"
#include "poco/poco.h"

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#if defined(POCO_X86_64) && defined(_MSC_VER)
#include <immintrin.h>
#include <intrin.h>
#elif defined(POCO_X86_64)
#include <cpuid.h>
#endif

namespace poco {
namespace {

#if defined(POCO_X86_64)

struct Registers {
    uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(uint32_t leaf, uint32_t subleaf) {
    Registers r;
#if defined(_MSC_VER)
    int values[4] = {0, 0, 0, 0};
    __cpuid(values, 0);
    if (static_cast<uint32_t>(values[0]) < leaf) return r;
    __cpuidex(values, static_cast<int>(leaf), static_cast<int>(subleaf));
    r.eax = static_cast<uint32_t>(values[0]);
    r.ebx = static_cast<uint32_t>(values[1]);
    r.ecx = static_cast<uint32_t>(values[2]);
    r.edx = static_cast<uint32_t>(values[3]);
#else
    __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);
#endif
    return r;
}

// Which register states the operating system saves: a set the processor has is of no use without it.
uint64_t saved_states(bool has_xsave) {
    if (!has_xsave) return 0;
#if defined(_MSC_VER)
    return _xgetbv(0);
#else
    uint32_t low = 0;
    uint32_t high = 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (static_cast<uint64_t>(high) << 32) | low;
#endif
}

}  // namespace

CpuFeatures::CpuFeatures() noexcept {
    const auto bit = [](uint32_t value, int n) { return ((value >> n) & 1u) != 0; };
    const Registers one = cpuid(1, 0);
    const Registers seven = cpuid(7, 0);
    const Registers seven_one = seven.eax >= 1 ? cpuid(7, 1) : Registers{};
    const uint64_t states = saved_states(bit(one.ecx, 27));
    const auto saved = [&](uint64_t mask) { return (states & mask) == mask; };
    const bool ymm = saved(0x6);
    const bool zmm = saved(0xe6);
    const bool tiles = saved(0x60000);

    add("sse2", bit(one.edx, 26));
    add("sse4_1", bit(one.ecx, 19));
    add("avx", ymm && bit(one.ecx, 28));
    add("f16c", ymm && bit(one.ecx, 29));
    add("fma", ymm && bit(one.ecx, 12));
    add("avx2", ymm && bit(seven.ebx, 5));
    add("avx_vnni", ymm && bit(seven_one.eax, 4));
    add("avx512f", zmm && bit(seven.ebx, 16));
    add("avx512dq", zmm && bit(seven.ebx, 17));
    add("avx512bw", zmm && bit(seven.ebx, 30));
    add("avx512vl", zmm && bit(seven.ebx, 31));
    add("avx512_vnni", zmm && bit(seven.ecx, 11));
    add("avx512_bf16", zmm && bit(seven_one.eax, 5));
    add("avx512_fp16", zmm && bit(seven.edx, 23));
    add("amx_tile", tiles && bit(seven.edx, 24));
    add("amx_int8", tiles && bit(seven.edx, 25));
    add("amx_bf16", tiles && bit(seven.edx, 22));
}

#else

}  // namespace

CpuFeatures::CpuFeatures() noexcept {
#if defined(__aarch64__) || defined(_M_ARM64)
    add("neon", true);
#endif
}

#endif

void CpuFeatures::add(const char* name, bool there) noexcept {
    const size_t letters = std::strlen(name);
    if (!there || count_ == kMost || letters + 1 >= kLongest) return;
    names_[count_++] = name;
    if (length_ > 0) joined_[length_++] = ' ';
    std::memcpy(joined_ + length_, name, letters + 1);
    length_ += letters;
}

namespace {

// Linux hands out the tile registers to processes that ask; threads started later have them too.
[[maybe_unused]] bool may_use_tiles() {
#if defined(__linux__) && defined(SYS_arch_prctl)
    constexpr long ask_for_permission = 0x1023, tile_data = 18;
    static const bool granted = syscall(SYS_arch_prctl, ask_for_permission, tile_data) == 0;
    return granted;
#else
    return false;
#endif
}

[[maybe_unused]] bool has(const char* feature) {
    for (const char* const there : cpu_features()) {
        if (std::strcmp(there, feature) == 0) return true;
    }
    return false;
}

Isa choose_isa() {
    const char* wanted = std::getenv("POCO_CPU");
    if (wanted != nullptr && *wanted != '\0') {
        std::string names;
        for (const Isa candidate : {Isa::baseline, Isa::avx2, Isa::avx512, Isa::avx512_bf16, Isa::amx}) {
            names += std::string(names.empty() ? "" : ", ") + name(candidate);
            if (std::string(wanted) != name(candidate)) continue;
            if (!can_run(candidate))
                fail("POCO_CPU=", wanted, " cannot run on this processor, or this build is without it: unset it");
            return candidate;
        }
        fail("POCO_CPU=", wanted, " is not known: use one of ", names, ", or unset it");
    }
    for (const Isa candidate : {Isa::amx, Isa::avx512_bf16, Isa::avx512, Isa::avx2}) {
        if (can_run(candidate)) return candidate;
    }
    return Isa::baseline;
}

}  // namespace

const CpuFeatures& cpu_features() {
    static const CpuFeatures found;
    return found;
}

const char* name(Isa isa) {
    switch (isa) {
        case Isa::amx:
            return "amx";
        case Isa::avx512_bf16:
            return "avx512_bf16";
        case Isa::avx512:
            return "avx512";
        case Isa::avx2:
            return "avx2";
        default:
            return "baseline";
    }
}

bool can_run(Isa isa) {
    if (isa == Isa::baseline) return true;
#if defined(POCO_X86_64)
    if (isa == Isa::avx2) return has("avx2") && has("fma");
    if (!(has("avx512f") && has("avx512bw") && has("avx512dq") && has("avx512vl"))) return false;
    if (isa == Isa::avx512) return true;
    // A compiler that is too old for these leaves them out.
#if defined(POCO_AVX512_BF16)
    if (isa == Isa::avx512_bf16) return has("avx512_bf16");
#endif
#if defined(POCO_AMX)
    if (isa == Isa::amx) return has("avx512_bf16") && has("amx_tile") && has("amx_bf16") && may_use_tiles();
#endif
    return false;
#else
    return false;
#endif
}

Isa isa() {
    static const Isa chosen = choose_isa();
    return chosen;
}

}  // namespace poco

extern "C" const char* poco_cpu_features(void) {
    return poco::cpu_features().joined();
}
