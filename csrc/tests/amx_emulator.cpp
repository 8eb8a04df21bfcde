#include "amx_emulator.h"

#if defined(__linux__) && defined(__x86_64__)

#include <signal.h>
#include <ucontext.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace poco_test {
namespace {

constexpr int kRows = 16, kRowBytes = 64, kTiles = 8;

// The tile registers of a thread. Instructions need a layout first, as on the processor.
struct Tiles {
    bool in_use;
    uint8_t rows[kTiles];
    uint16_t row_bytes[kTiles];
    uint8_t data[kTiles][kRows][kRowBytes];
};

thread_local Tiles tiles;
std::atomic<long> products{0};

float bfloat16_at(const uint8_t* bytes) {
    uint16_t half;
    std::memcpy(&half, bytes, sizeof half);
    const uint32_t word = static_cast<uint32_t>(half) << 16;
    float value;
    std::memcpy(&value, &word, sizeof value);
    return std::fpclassify(value) == FP_SUBNORMAL ? 0.0f : value;  // as the processor takes them
}

// ldtilecfg: the layout in 64 bytes of memory. False where the processor would fault.
bool load_layout(const uint8_t* memory) {
    if (memory[0] != 1 || memory[1] != 0) return false;
    Tiles fresh{};
    fresh.in_use = true;
    for (int i = 0; i < kTiles; ++i) {
        std::memcpy(&fresh.row_bytes[i], memory + 16 + 2 * i, 2);
        fresh.rows[i] = memory[48 + i];
        if (fresh.row_bytes[i] > kRowBytes || fresh.rows[i] > kRows) return false;
    }
    tiles = fresh;
    return true;
}

void load_tile(int tile, const uint8_t* from, int64_t stride) {
    std::memset(tiles.data[tile], 0, sizeof tiles.data[tile]);
    for (int i = 0; i < tiles.rows[tile]; ++i) {
        std::memcpy(tiles.data[tile][i], from + i * stride, tiles.row_bytes[tile]);
    }
}

void store_tile(int tile, uint8_t* to, int64_t stride) {
    for (int i = 0; i < tiles.rows[tile]; ++i) {
        std::memcpy(to + i * stride, tiles.data[tile][i], tiles.row_bytes[tile]);
    }
}

// tdpbf16ps: c += a b, where a row of a and a column of b are pairs. The processor keeps the sums of even and odd
// elements apart until the end, rounding each step.
bool multiply_tiles(int c, int a, int b) {
    if (c == a || c == b || a == b) return false;
    if (tiles.rows[c] != tiles.rows[a] || tiles.row_bytes[a] != 4 * tiles.rows[b]) return false;
    if (tiles.row_bytes[c] != tiles.row_bytes[b]) return false;
    for (int m = 0; m < tiles.rows[c]; ++m) {
        for (int n = 0; n < tiles.row_bytes[c] / 4; ++n) {
            float even = 0.0f, odd = 0.0f, sum;
            for (int k = 0; k < tiles.row_bytes[a] / 4; ++k) {
                const uint8_t* const left = tiles.data[a][m] + 4 * k;
                const uint8_t* const right = tiles.data[b][k] + 4 * n;
                even = std::fma(bfloat16_at(left), bfloat16_at(right), even);
                odd = std::fma(bfloat16_at(left + 2), bfloat16_at(right + 2), odd);
            }
            std::memcpy(&sum, tiles.data[c][m] + 4 * n, sizeof sum);
            sum += even + odd;
            std::memcpy(tiles.data[c][m] + 4 * n, &sum, sizeof sum);
        }
    }
    products.fetch_add(1, std::memory_order_relaxed);
    return true;
}

uint64_t register_value(const ucontext_t& context, int number) {
    static constexpr int order[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                      REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};
    return static_cast<uint64_t>(context.uc_mcontext.gregs[order[number]]);
}

// An operand in memory: base, index and displacement, from the bytes behind the opcode.
struct Operand {
    int reg = 0;  // the register of the other operand
    uint64_t base = 0;
    int64_t index = 0;                                                // scaled: the stride of a tile
    bool sib = false;                                                 // tileloadd and tilestored need one
    int bytes = 0;                                                    // how many it took
    uint8_t* at() const { return reinterpret_cast<uint8_t*>(base); }  // without the index
};

Operand operand_of(const ucontext_t& context, const uint8_t* code, int high_base, int high_index) {
    Operand operand;
    const int mode = code[0] >> 6, low = code[0] & 7;
    operand.reg = (code[0] >> 3) & 7;
    operand.bytes = 1;
    bool no_base = false, from_next = false;
    int base = low;
    if (low == 4) {
        operand.sib = true;
        const uint8_t sib = code[operand.bytes++];
        base = sib & 7;
        const int index = ((sib >> 3) & 7) | high_index;
        if (index != 4) {
            operand.index = static_cast<int64_t>(register_value(context, index) << (sib >> 6));
        }
        no_base = mode == 0 && base == 5;
    } else {
        from_next = mode == 0 && low == 5;  // relative to the next instruction
    }
    int64_t displacement = 0;
    if (mode == 1) {
        displacement = static_cast<int8_t>(code[operand.bytes++]);
    } else if (mode == 2 || no_base || from_next) {
        int32_t word;
        std::memcpy(&word, code + operand.bytes, sizeof word);
        displacement = word;
        operand.bytes += 4;
    }
    operand.base = static_cast<uint64_t>(displacement);
    if (from_next) {
        operand.base += reinterpret_cast<uint64_t>(code + operand.bytes);
    } else if (!no_base) {
        operand.base += register_value(context, base | high_base);
    }
    return operand;
}

// Carries out the instruction at `code`; its length, or 0 if it is none of ours.
int step(const ucontext_t& context, const uint8_t* code) {
    // All are VEX.128.0F38.W0: C4, then R X B and the map, then W vvvv L pp, the opcode, ModRM.
    if (code[0] != 0xc4 || (code[1] & 0x1f) != 2 || (code[2] & 0x84) != 0) return 0;
    enum Prefix { none, p66, f3, f2 };
    const int prefix = code[2] & 3, opcode = code[3], mod_rm = code[4];
    const int high_base = (code[1] & 0x20) != 0 ? 0 : 8, high_index = (code[1] & 0x40) != 0 ? 0 : 8;
    const int third = ~(code[2] >> 3) & 7;
    const bool in_memory = mod_rm < 0xc0;
    constexpr int opcode_end = 4;
    if (opcode == 0x49 && prefix == none && mod_rm == 0xc0) {  // tilerelease
        tiles = Tiles{};
        return opcode_end + 1;
    }
    if (opcode == 0x49 && prefix == none && in_memory) {  // ldtilecfg
        const Operand operand = operand_of(context, code + opcode_end, high_base, high_index);
        return load_layout(operand.at() + operand.index) ? opcode_end + operand.bytes : 0;
    }
    if (!tiles.in_use) return 0;
    if (opcode == 0x49 && prefix == f2 && !in_memory && (mod_rm & 7) == 0) {  // tilezero
        std::memset(tiles.data[(mod_rm >> 3) & 7], 0, sizeof tiles.data[0]);
        return opcode_end + 1;
    }
    if (opcode == 0x4b && prefix != none && in_memory) {  // tileloadd, tileloaddt1, tilestored
        const Operand operand = operand_of(context, code + opcode_end, high_base, high_index);
        if (!operand.sib) return 0;
        if (prefix == f3) {
            store_tile(operand.reg, operand.at(), operand.index);
        } else {
            load_tile(operand.reg, operand.at(), operand.index);
        }
        return opcode_end + operand.bytes;
    }
    if (opcode == 0x5c && prefix == f3 && !in_memory) {  // tdpbf16ps
        return multiply_tiles((mod_rm >> 3) & 7, mod_rm & 7, third) ? opcode_end + 1 : 0;
    }
    return 0;
}

void trap(int, siginfo_t*, void* context) {
    ucontext_t& at = *static_cast<ucontext_t*>(context);
    const uint8_t* const code = reinterpret_cast<const uint8_t*>(at.uc_mcontext.gregs[REG_RIP]);
    const int length = step(at, code);
    if (length == 0) {  // comes back here at once, and ends the process
        char text[] = "not emulated: 00 00 00 00 00 00\n";
        for (int i = 0; i < 12; ++i)
            text[14 + i / 2 * 3 + i % 2] = "0123456789abcdef"[code[i / 2] >> (4 - i % 2 * 4) & 15];
        static_cast<void>(!write(STDERR_FILENO, text, sizeof text - 1));
        signal(SIGILL, SIG_DFL);
        return;
    }
    at.uc_mcontext.gregs[REG_RIP] += length;
}

}  // namespace

bool emulate_amx() {
    struct sigaction action = {};
    action.sa_sigaction = trap;
    action.sa_flags = SA_SIGINFO;
    return sigaction(SIGILL, &action, nullptr) == 0;
}

long emulated_products() {
    return products.load();
}

}  // namespace poco_test

#else

namespace poco_test {

bool emulate_amx() {
    return false;
}

long emulated_products() {
    return 0;
}

}  // namespace poco_test

#endif
