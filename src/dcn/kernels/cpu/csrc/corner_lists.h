// The corners of the samples of a tile, listed by the stripe of the input they lie in.
//
// Stripes, a power of two, are dealt out in runs of 8 pixels: each has about as many corners as any other. A stripe keeps
// the order of the taps, pixels and corners: an element of the gradient sums up as it does without stripes.
#pragma once

#include <algorithm>
#include <cstdint>

#include "deform_conv_kernels.h"
#include "workspace.h"

namespace dcn {

// Memory of the lists of one tile and offset group.
struct CornerRoom {
    Room<int32_t> list;   // [corners * taps * room], entries: tap << 10 | pixel << 3 | corner
    Room<int32_t> start;  // [stripes + 1] of each stripe in `list`
};

template <class T>
void sort_corners(const SamplingPlan<T>& plan, int64_t stripes, int32_t* list, int32_t* start) {
    const int64_t corners = int64_t{1} << plan.axes, plane = plan.taps * plan.room;
    const auto each = [&](auto&& body) {
        for (int64_t t = 0; t < plan.taps; ++t) {
            for (int64_t p = 0; p < plan.pixels; ++p) {
                for (int64_t j = 0; j < corners; ++j) {
                    const int32_t pixel = plan.index[j * plane + t * plan.room + p];
                    if (pixel >= 0) body(pixel >> 3 & (stripes - 1), static_cast<int32_t>(t << 10 | p << 3 | j));
                }
            }
        }
    };
    std::fill_n(start, stripes + 1, 0);
    each([&](int64_t s, int32_t) { ++start[s + 1]; });
    for (int64_t s = 0; s < stripes; ++s) start[s + 1] += start[s];
    each([&](int64_t s, int32_t corner) { list[start[s]++] = corner; });
    for (int64_t s = stripes; s > 0; --s) start[s] = start[s - 1];
    start[0] = 0;
}

}  // namespace dcn
