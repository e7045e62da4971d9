// The kernel tables of the instruction set in use, by element type.
#pragma once

#include <type_traits>

#include "deform_conv_kernels.h"
#include "gemm.h"
#include "layout.h"
#include "tile_plan.h"

namespace dcn {

template <class T>
const DeformConvKernels<T>& conv_kernels() {
    if constexpr (std::is_same_v<T, double>) {
        return DCN_FOR_ISA(deform_conv_double)();
    } else {
        return DCN_FOR_ISA(deform_conv_float)();
    }
}

template <class T>
const Gemm<T>& gemm() {
    if constexpr (std::is_same_v<T, double>) {
        return DCN_FOR_ISA(gemm_double)();
    } else {
        return DCN_FOR_ISA(gemm_float)();
    }
}

template <class S>
const Layout<S, typename Compute<S>::type>& layout() {
    if constexpr (std::is_same_v<S, double>) {
        return DCN_FOR_ISA(layout_double)();
    } else if constexpr (std::is_same_v<S, float>) {
        return DCN_FOR_ISA(layout_float)();
    } else if constexpr (std::is_same_v<S, Half>) {
        return DCN_FOR_ISA(layout_half)();
    } else {
        return DCN_FOR_ISA(layout_bfloat)();
    }
}

}  // namespace dcn
