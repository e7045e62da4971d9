// Inner loops of multi-scale deformable attention, compiled per instruction set.
//
// A sample touches four pixels, its corners: upper left, upper right, lower left, lower right. What a loop needs about
// `count` samples lies in arrays with one entry per sample.
#pragma once

#include <cstdint>

#include "isa.h"
#include "scalar_types.h"

namespace dcn {

// The level of each sample.
template <class T>
struct AttnLevels {
    T *width, *height;
    int32_t *columns, *rows;  // the same as integers
    int64_t* start;           // bytes from the base of the rows to the level's first pixel
};

template <class T>
struct AttnSamples {
    T* location;        // [count][2]: x, y as shares of width and height
    T* attention;       // its factor
    int64_t* place[4];  // per corner: bytes from the base of the rows to its row of channels; `outside` where not on the map
    T* weight[4];       // per corner: attention * bilinear weight, 0 outside
    T *right, *down;    // fractions: how far the sample lies from the left and the upper corners
    T* dots;            // [count][4]: products of the corners' rows with the gradient
};

template <class T>
struct AttnTaps {
    // Fills place and weight; `slopes` also right and down.
    void (*locate)(const AttnSamples<T>& samples, const AttnLevels<T>& levels, int64_t count, int64_t pixel_bytes,
                   int64_t outside, bool slopes);
    // From dots: location becomes the gradient of the location, attention that of the attention weight.
    void (*combine)(const AttnSamples<T>& samples, const AttnLevels<T>& levels, int64_t count, int64_t outside);
};

// S: element of the rows in memory, T: type of the sums.
template <class S, class T>
struct AttnRows {
    // out[c] = sum over samples first..first+count-1 and corners of weight * row[c]
    void (*gather)(T* out, const S* base, const AttnSamples<T>& samples, int64_t first, int64_t count,
                   int64_t channels);
};

template <class T>
struct AttnGradients {
    // dots = sum over c of row[c] * grad[c]
    void (*dots)(const T* base, const AttnSamples<T>& samples, int64_t first, int64_t count, const T* grad,
                 int64_t channels);
    // row[c] += weight * grad[c]
    void (*scatter)(T* base, const AttnSamples<T>& samples, int64_t first, int64_t count, const T* grad,
                    int64_t channels);
};

struct AttnTable {
    AttnRows<float, float> rows_f32;
    AttnRows<double, double> rows_f64;
    AttnRows<Half, float> rows_f16;
    AttnRows<BFloat, float> rows_bf16;
    AttnGradients<float> gradients_f32;
    AttnGradients<double> gradients_f64;
};

struct AttnTapsTable {
    AttnTaps<float> f32;
    AttnTaps<double> f64;
};

DCN_DECLARE_ISA(const AttnTable&, attn_table)
DCN_DECLARE_ISA(const AttnTapsTable&, attn_taps_table)

}  // namespace dcn
