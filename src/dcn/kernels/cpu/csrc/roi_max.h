// Innermost loop of RoI max pooling, compiled per instruction set (roi_max.isa.cpp).
#pragma once

#include <cstdint>
#include <type_traits>

#include "isa.h"

namespace dcn {

// Channels worked on at once: their part of a map is pixel after pixel, these innermost.
constexpr int64_t max_channels = 16;

// First row, the one after the last, first column and the one after the last of a bin.
struct RoiCells {
    int64_t top, bottom, left, right;
};

template <class T>
struct RoiMaxLoops {
    using Place = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;
    // The first largest value of a bin that has cells, for `max_channels` channels, and its pixel. NaN counts as
    // largest.
    void (*largest)(const T* data, int64_t width, const RoiCells& cells, T* value, Place* location);
};

DCN_DECLARE_ISA(const RoiMaxLoops<float>&, roi_max_float)
DCN_DECLARE_ISA(const RoiMaxLoops<double>&, roi_max_double)

}  // namespace dcn
