// The inner loops of deformable convolution. They work on a tile: up to `room` output pixels, all taps, a run of
// channels that lie innermost in memory.
#pragma once

#include <cstdint>

#include "isa.h"
#include "scalar_types.h"

namespace dcn {

// Where one offset group samples for the pixels of a tile. Arrays are [..., taps, room].
template <class T>
struct SamplingPlan {
    int32_t* index;  // [corners, taps, room] pixel of the corner in the source; negative: outside, counts as 0
    T* weight;       // [corners, taps, room] interpolation weight, times the mask when `fold_mask` was asked for
    T* fraction;     // [axes, taps, room] position between the corners (backward only)
    T* mask;         // [taps, room], or null without a mask
    int64_t taps, room, pixels;
    int axes;        // 1, 2 or 3 coordinates; 2^axes corners; bit 0 of a corner is the last axis
};

// Where the rows of an image lie in a window that is a ring: the first pixel of row r is
// start + r * step - (r >= turn ? ring : 0).
struct RowSlots {
    int32_t start, turn, ring;
};

template <class T>
struct PlanRequest {
    const T* offset;        // [taps, axes, room]
    const T* location[3];      // [pixels] per axis: output location * stride - padding
    const T* tap_shift[3];  // [taps] per axis: index of the tap * dilation
    int64_t size[3];        // of the input, per axis
    int64_t step[3];        // pixels between neighbours along an axis
    RowSlots slots;         // where the lines of axis 0 lie in the source
    bool v1;                // boundary rule of SPEC "v1": inside is [0, size), no attenuation beyond size - 1
    bool fold_mask;
};

// What one run of channels contributes to the backward pass; null pointers switch parts off.
template <class T>
struct BackwardRun {
    const T* source;    // channels-innermost input, or null when neither `columns` nor `dots` is wanted
    T* gradient;        // the same layout, gradient of the input: added to
    int64_t pitch;      // elements from pixel to pixel in both
    int64_t channels;
    const T* column_gradient;  // gradient of the columns: [pixel * column_row + tap * column_tap + channel]
    T* columns;                // the columns themselves, same layout, written
    int64_t column_row, column_tap;
    T* dots;            // [taps, room, corners] sum over channels of column gradient * corner value, added to
    const T* zeros;     // `channels` zeros
    T* waste;           // room for `channels` elements that nobody reads
};

// The same for a depthwise convolution, which needs no columns: their gradient is one product. Null pointers switch
// parts off.
template <class T>
struct DepthwiseRun {
    const T* source;    // as in BackwardRun, down to `waste`
    T* gradient;
    int64_t pitch, channels;
    T* dots;
    const T* zeros;
    T* waste;
    const T* above;     // gradient of the output: [pixel * above_row + channel]
    int64_t above_row;
    const T* weight;    // [tap * weight_tap + channel]
    T* sums;            // gradient of the weight, the same layout: added to, `part` pixels at a time
    int64_t weight_tap, part, part_step;  // sums of the next part: so many elements on, or 0
};

template <class T>
struct DeformConvKernels {
    int lanes;
    // to[i] = from[i * step], i < count; from has the given dtype.
    void (*read)(const void* from, int32_t dtype, int64_t step, int64_t count, T* to);
    // to[i * step] = from[i] (+ what is there).
    void (*write)(const T* from, int64_t count, void* to, int32_t dtype, int64_t step, bool accumulate);
    // Widens [*low, *high) to the input rows that samples at location + offset[i] touch; rows outside [0, size) do not
    // count.
    void (*row_range)(const T* offset, int64_t count, T location, int64_t size, bool v1, int64_t* low, int64_t* high);
    void (*plan)(const PlanRequest<T>& request, const SamplingPlan<T>& plan);
    // to[pixel * to_row + tap * to_tap + channel] = interpolated input.
    void (*sample)(const SamplingPlan<T>& plan, const T* source, int64_t pitch, int64_t channels, const T* zeros, T* to,
                   int64_t to_row, int64_t to_tap);
    // The same from bfloat16 and rounded to it, as bits; null where the processor cannot multiply those.
    void (*sample_pairs)(const SamplingPlan<T>& plan, const uint16_t* source, int64_t pitch, int64_t channels,
                         const uint16_t* zeros, uint16_t* to, int64_t to_row, int64_t to_tap);
    void (*backward)(const SamplingPlan<T>& plan, const BackwardRun<T>& run);
    // Adds to run.gradient at some corners only (corner_lists.h).
    void (*scatter)(const SamplingPlan<T>& plan, const int32_t* corners, int64_t count, const BackwardRun<T>& run);
    // Turns dots into gradients: values[axis, taps, room] of the offsets and values[axes, taps, room] of the mask.
    void (*finish)(const SamplingPlan<T>& plan, const T* dots, T* values);
    // `backward` and `scatter` of a depthwise convolution.
    void (*depthwise)(const SamplingPlan<T>& plan, const DepthwiseRun<T>& run);
    void (*depthwise_scatter)(const SamplingPlan<T>& plan, const int32_t* corners, int64_t count,
                              const DepthwiseRun<T>& run);
};

DCN_DECLARE_ISA(const DeformConvKernels<float>&, deform_conv_float)
DCN_DECLARE_ISA(const DeformConvKernels<double>&, deform_conv_double)

}  // namespace dcn
