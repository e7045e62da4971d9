#include "gemm.h"

namespace dcn {

const GemmPairs& pair_products() {
#if DCN_X86_AMX
    if (isa() == Isa::amx) return amx::gemm_pairs();
#endif
    return DCN_FOR_ISA(gemm_pairs)();
}

}  // namespace dcn
