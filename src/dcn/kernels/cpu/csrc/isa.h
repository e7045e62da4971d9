// Instruction sets. A file NAME.isa.cpp is compiled once per instruction set with the macro DCN_ISA set to its name; it
// puts everything into namespace dcn::DCN_ISA and offers one function that returns a table of function pointers. The
// baseline code picks the table with DCN_FOR_ISA:
//
//     const MyKernels& kernels() { return DCN_FOR_ISA(my_kernels)(); }  // declared with DCN_DECLARE_ISA
//
// Such files must not instantiate std:: templates with external linkage (containers, algorithms): the linker may keep
// the copy that was compiled for AVX-512 and run it on a machine without.
#pragma once

namespace dcn {

// avx512bf16: avx512 and dot products of bfloat16. amx: the same, and products of tiles of bfloat16 (gemm_amx.cpp).
enum class Isa { generic, avx2, avx512, avx512bf16, amx };

// The instruction set in use: the best one of this machine unless dcn_set_isa chose another.
Isa isa() noexcept;

}  // namespace dcn

#if DCN_X86 && DCN_X86_BF16
#define DCN_DECLARE_ISA(result, function)                 \
    namespace generic { result function(); }              \
    namespace avx2 { result function(); }                 \
    namespace avx512 { result function(); }               \
    namespace avx512bf16 { result function(); }
#define DCN_FOR_ISA(function)                                            \
    (::dcn::isa() >= ::dcn::Isa::avx512bf16 ? ::dcn::avx512bf16::function \
     : ::dcn::isa() == ::dcn::Isa::avx512   ? ::dcn::avx512::function     \
     : ::dcn::isa() == ::dcn::Isa::avx2     ? ::dcn::avx2::function       \
                                            : ::dcn::generic::function)
#elif DCN_X86
#define DCN_DECLARE_ISA(result, function)                 \
    namespace generic { result function(); }              \
    namespace avx2 { result function(); }                 \
    namespace avx512 { result function(); }
#define DCN_FOR_ISA(function)                                          \
    (::dcn::isa() == ::dcn::Isa::avx512 ? ::dcn::avx512::function      \
     : ::dcn::isa() == ::dcn::Isa::avx2 ? ::dcn::avx2::function        \
                                        : ::dcn::generic::function)
#else
#define DCN_DECLARE_ISA(result, function) \
    namespace generic { result function(); }
#define DCN_FOR_ISA(function) (::dcn::generic::function)
#endif
