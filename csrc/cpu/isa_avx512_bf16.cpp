// Built with the compiler's options for avx512_bf16; called only where the processor has it.
#include "cpu/dispatch.h"
#include "cpu/passes.h"

namespace poco {

const Passes<Bfloat16> bfloat16_passes_avx512_bf16 = built_passes<Bfloat16>;

}  // namespace poco
