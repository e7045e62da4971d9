// Inner loops of multi-scale deformable attention, compiled per instruction set.
//
// A sample touches four pixels, its corners: upper left, upper right, lower left, lower right. What a loop needs about
// `count` samples lies in arrays with one entry per sample; there is room for whole vectors of them (attn_padded).
#pragma once

#include <cstdint>
#include <type_traits>

#include "integers.h"
#include "isa.h"
#include "scalar_types.h"

namespace dcn {

// As wide as T, so that a vector of one has as many lanes as a vector of the other.
template <class T>
using AttnIndex = std::conditional_t<std::is_same_v<T, float>, int32_t, int64_t>;

constexpr int64_t attn_padded(int64_t count) { return round_up(count, 16); }

// The level of each sample.
template <class T>
struct AttnLevels {
    T *width, *height;
    AttnIndex<T>*columns, *rows;  // the same as integers
    AttnIndex<T>* start;          // number of the level's first pixel
};

template <class T>
struct AttnSamples {
    AttnIndex<T>* index[4];  // per corner: number of its pixel, -1 where it is not on the map
    int64_t* row[4];         // per corner: bytes from the base of the rows to its row of channels
    T* weight[4];            // per corner: attention * bilinear weight, 0 where it is not on the map
    T *right, *down;         // fractions: how far the sample lies from the left and the upper corners
    T* dots;                 // [count][4]: products of the corners' rows with the gradient
};

template <class T>
struct AttnTaps {
    // From location [count][2] (x, y) and attention [count] to index, row and weight; `slopes`: right and down too.
    // The row of corners that are not on the map lies `outside` bytes from the base.
    void (*locate)(const T* location, const T* attention, const AttnSamples<T>& samples, const AttnLevels<T>& levels,
                   int64_t count, int64_t pixel_bytes, int64_t outside, bool slopes);
    // From dots to the gradients of location [count][2] and attention [count].
    void (*combine)(const T* attention, const AttnSamples<T>& samples, const AttnLevels<T>& levels, int64_t count,
                    T* by_location, T* by_attention);
};

// S: element of the rows in memory, T: type of the sums.
template <class S, class T>
struct AttnRows {
    // out[c] = sum over samples first..first+count-1 and corners of weight * row[c]
    void (*gather)(T* out, const S* base, const AttnSamples<T>& samples, int64_t first, int64_t count,
                   int64_t channels);
    // dots = sum over c of row[c] * grad[c]
    void (*dots)(const S* base, const AttnSamples<T>& samples, int64_t first, int64_t count, const T* grad,
                 int64_t channels);
};

template <class T>
struct AttnGradients {
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
