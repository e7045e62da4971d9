// The inner loops of depthwise deformable convolution, forward. They work on a part of a tile: up to `room` output
// pixels, all taps, a run of channels that lie innermost in memory.
#pragma once

#include <cstdint>

#include "deform_conv_kernels.h"
#include "isa.h"

namespace dcn {

// One sample: where its corners lie and what they weigh (see SamplingPlan). Those of a pixel lie next to each other,
// one tap after the other: read from the arrays of a plan they took 72 addresses, and 15 % longer.
template <class T, int Corners>
struct Tap {
    int32_t index[Corners];
    T weight[Corners];
};

template <class T>
int64_t tap_bytes(int64_t corners) {
    return corners * static_cast<int64_t>(sizeof(int32_t) + sizeof(T));
}

template <class T>
struct DepthwiseKernels {
    // Writes the samples of a plan, whose pixels are `rows` rows, as Tap[columns][rows][taps]. Corners outside of the
    // image get the index `nothing`, that of a pixel of zeros.
    void (*records)(const SamplingPlan<T>& plan, int64_t rows, int32_t nothing, void* to);
    // to[row * to_row + column * to_pixel + channel] = sum over taps of weight[tap * weight_tap + channel] * interpolated source.
    // Of the plan only the numbers of pixels, taps and axes are read. Pixels are worked off column by column: their
    // samples then lie around `rows` + 10 rows of the source and a dozen columns, which stay in the L1 cache.
    void (*sum)(const SamplingPlan<T>& plan, int64_t rows, const void* records, const T* source, int64_t pitch, int64_t channels,
                const T* weight, int64_t weight_tap, T* to, int64_t to_row, int64_t to_pixel);
};

DCN_DECLARE_ISA(const DepthwiseKernels<float>&, depthwise_float)
DCN_DECLARE_ISA(const DepthwiseKernels<double>&, depthwise_double)

}  // namespace dcn
