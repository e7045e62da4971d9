// DCNv3 and DCNv4 on the CPU: one call, and the loops that are compiled per instruction set.
//
// N images, H x W pixels, C = G * D channels (innermost), K taps, L = Ho * Wo output locations. A block is a run of
// locations times a run of groups of one image; its taps lie one after the other: (location, group, tap).
#pragma once

#include <cstdint>

#include "isa.h"
#include "scalar_types.h"

// Packed by kernels/cpu/dcnv3.py. Pairs are (y, x).
struct DcnV3Call {
    const void* input;        // [N, H, W, C]
    const void* offset;       // (x, y) of tap k: at location * offset_row + group * offset_group + 2 * k
    const void* mask;         // at location * mask_row + group * mask_group + k
    const void* grad_output;  // [N, Ho, Wo, C]
    void* output;             // the same
    void *grad_input, *grad_offset, *grad_mask;  // laid out as what they belong to; null: not wanted
    const int64_t* shifts;    // [K, 2] of the taps from the centre of the pattern
    int64_t batch, height, width, channels, groups, taps;
    int64_t out[2], stride[2], origin[2];
    int64_t offset_row, offset_group, mask_row, mask_group;  // elements
    int64_t dtype, offset_dtype, mask_dtype, softmax, threads;
    double offset_scale;
};

namespace dcn {

struct DcnV3Block {
    int64_t image, first, count;    // locations [first, first + count) of an image
    int64_t group, groups;          // groups [group, group + groups)
    int32_t row_first, row_end;     // rows of the map that count
    // Pixel (row, column) has the number row * pitch + column + origin; a tap outside the map is put at `outside`.
    int32_t pitch, origin, outside;
};

// Arrays of one entry per tap of a block, rounded up to whole vectors: what lies beyond the last is written too.
template <class T>
struct DcnV3Taps {
    T *shift_x, *shift_y;  // of the K taps from the centre of the pattern
    T* pairs;              // [taps, 2] gradients of the offsets, x before y
    T *x, *y;              // position
    T* mask;               // normalised where the call asks for it
    T *along_x, *along_y;  // way from the corner at or below the position to the next one, 0 to 1
    T* weight;             // [taps, 4] of the corners (low, low), (low, high x), (high y, low), (high, high), * mask
    T* dot;                // [taps, 4] sums over channels of gradient * value of the corners that count
    int32_t* pixel;        // number of the corner (low, low)
    int32_t* inside;       // bits 0 to 3: the corner counts; 0 for a tap outside the map
    const T* zeros;        // as many as a group has channels: read in place of a corner that does not count
    T* waste;              // [4, depth]: written in place of one
    int64_t depth;         // channels of a group
};

// Written without fused multiply-add: positions round as they do in the reference.
template <class T>
struct DcnV3Placing {
    // Fills shift_x and shift_y, once per call.
    void (*shifts)(const DcnV3Call&, const DcnV3Taps<T>&);
    // Fills x, y, mask.
    void (*read)(const DcnV3Call&, const DcnV3Block&, const DcnV3Taps<T>&);
    // From x and y: along_x, along_y, pixel, inside; with `weights` also weight.
    void (*corners)(const DcnV3Call&, const DcnV3Block&, const DcnV3Taps<T>&, bool weights);
    // From dot: gradients of offsets and masks, written to the call's tensors; pairs and weight are overwritten.
    void (*gradients)(const DcnV3Call&, const DcnV3Block&, const DcnV3Taps<T>&);
};

// S: type of the map in memory. `tap` is the first of the K taps of one location and group; `step` is the number of
// elements from pixel to pixel, `row` from row to row.
template <class S, class T>
struct DcnV3Loops {
    // output[c] = sum over taps and corners of weight * data[c]
    void (*sum)(const S* data, int64_t step, int64_t row, const DcnV3Taps<T>&, int64_t tap, int64_t taps,
                int64_t channels, S* output);
    // dot[tap][corner] = sum over c of grad[c] * data[c]; writes up to 3 taps beyond the last
    void (*dots)(const S* data, int64_t step, int64_t row, const DcnV3Taps<T>&, int64_t tap, int64_t taps,
                 int64_t channels, const S* grad);
    // data[c] += weight * grad[c] at every corner
    void (*scatter)(T* data, int64_t step, int64_t row, const DcnV3Taps<T>&, int64_t tap, int64_t taps,
                    int64_t channels, const S* grad);
};

// The same for all `taps` taps of all `locations` of a block of one group, on a copy of the group's map between pixels
// of zeros: all corners lie in it. `row` is the number of elements from row to row of the copy; `step` that from
// location to location of the tensor.
template <class S, class T>
struct DcnV3GroupLoops {
    void (*sum)(const T* map, int64_t row, const DcnV3Taps<T>&, int64_t locations, int64_t taps, S* output,
                int64_t step);
    void (*dots)(const T* map, int64_t row, const DcnV3Taps<T>&, int64_t locations, int64_t taps, const S* grad,
                 int64_t step);
    void (*scatter)(T* map, int64_t row, const DcnV3Taps<T>&, int64_t locations, int64_t taps, const S* grad,
                    int64_t step);
    // to[pixel * channels + c] = from[pixel * step + c]
    void (*take)(const S* from, int64_t step, int64_t pixels, int64_t channels, T* to);
    // to[pixel * step + c] = from[pixel * channels + c]
    void (*put)(const T* from, int64_t pixels, int64_t channels, S* to, int64_t step);
};

// An entry per type of the map in memory.
template <template <class, class> class Loops>
struct DcnV3Table {
    Loops<float, float> f32;
    Loops<double, double> f64;
    Loops<Half, float> f16;
    Loops<BFloat, float> bf16;
};

using DcnV3LoopTable = DcnV3Table<DcnV3Loops>;
using DcnV3GroupTable = DcnV3Table<DcnV3GroupLoops>;
DCN_DECLARE_ISA(const DcnV3LoopTable&, dcnv3_loops)
DCN_DECLARE_ISA(const DcnV3GroupTable&, dcnv3_group_loops)
DCN_DECLARE_ISA(const DcnV3Placing<float>&, dcnv3_placing_float)
DCN_DECLARE_ISA(const DcnV3Placing<double>&, dcnv3_placing_double)

}  // namespace dcn
