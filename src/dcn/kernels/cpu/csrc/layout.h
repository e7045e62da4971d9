// Moving tensors between the order of their memory and the order the kernels work in (channels innermost, float or
// double).
#pragma once

#include <cstdint>

#include "isa.h"
#include "scalar_types.h"

namespace dcn {

// S: element in memory, T: element in the workspace.
template <class S, class T>
struct Layout {
    // to[p * to_step + c] = from[c * channel_step + p * pixel_step] for c < channels, p < pixels.
    void (*gather)(const S* from, int64_t channel_step, int64_t pixel_step, int64_t channels, int64_t pixels, T* to,
                   int64_t to_step);
    // The same for elements of 2 bytes that stay as they are, as bits. Null for other elements.
    void (*gather_bits)(const S* from, int64_t channel_step, int64_t pixel_step, int64_t channels, int64_t pixels,
                        uint16_t* to, int64_t to_step);
    // The way back; `bias` (one element per channel) may be null; `accumulate` adds to what is there.
    void (*scatter)(const T* from, int64_t from_step, int64_t channels, int64_t pixels, S* to, int64_t channel_step,
                    int64_t pixel_step, const S* bias, bool accumulate);
    // Sums of several passes grow in the memory of the output, but in blocks of 16 channels, channels innermost:
    // to[(c / 16) * 16 * plane + (first + p) * width + c % 16] = from[p * from_step + c] (+ what is there), `width`
    // being 16, or what is left of `channels` in the last block. Adding to [channel][pixel] memory instead touched a
    // page per channel and took 16 % of a 512-channel convolution.
    void (*add_blocked)(const T* from, int64_t from_step, int64_t channels, int64_t pixels, S* to, int64_t plane,
                        int64_t first, bool accumulate);
    // The right operand of columns * weight^T. A panel of `panel` outputs is packed as [tap][channel][panel]:
    // to[(t * channels + c) * panel + o] = weight[o * output_step + c * taps + t] for o < outputs, else 0.
    void (*pack_outputs)(const S* weight, int64_t output_step, int64_t outputs, int64_t channels, int64_t taps,
                         int64_t panel, T* to);
    // The right operand of gradient * weight, in panels of `panel` columns; column t * channels + c, row o of the
    // outputs.
    void (*pack_columns)(const S* weight, int64_t output_step, int64_t outputs, int64_t channels, int64_t taps,
                         int64_t panel, T* to);
    // to[c * taps + t] = from[t * channels + c]; from and to may be the same run when S is T (`run` is room for one).
    void (*taps_last)(const T* from, int64_t channels, int64_t taps, T* run, S* to);
};

using LayoutFloat = Layout<float, float>;
using LayoutDouble = Layout<double, double>;
using LayoutHalf = Layout<Half, float>;
using LayoutBFloat = Layout<BFloat, float>;

DCN_DECLARE_ISA(const LayoutFloat&, layout_float)
DCN_DECLARE_ISA(const LayoutDouble&, layout_double)
DCN_DECLARE_ISA(const LayoutHalf&, layout_half)
DCN_DECLARE_ISA(const LayoutBFloat&, layout_bfloat)

}  // namespace dcn
