// Innermost loops of the averaging RoI poolings, compiled per instruction set (roi_mean.isa.cpp).
#pragma once

#include <cstdint>

#include "isa.h"

namespace dcn {

// A tap is one pixel that a bin reads: its distance from the start of the image's data, and its weight.
template <class T>
struct RoiMeanLoops {
    // out[c] = sum over taps of weight * data[offset + c]
    void (*gather)(T* out, const T* data, const int64_t* offsets, const T* weights, int64_t taps, int64_t channels);
    // data[offset + c] += weight * grad[c] for every tap
    void (*scatter)(T* data, const int64_t* offsets, const T* weights, int64_t taps, const T* grad, int64_t channels);
    // out[tap] = sum over c of data[offset + c] * grad[c]
    void (*dots)(T* out, const T* data, const int64_t* offsets, int64_t taps, const T* grad, int64_t channels);
};

struct RoiMeanTable {
    RoiMeanLoops<float> f32;
    RoiMeanLoops<double> f64;
};

DCN_DECLARE_ISA(const RoiMeanTable&, roi_mean_table)

}  // namespace dcn
