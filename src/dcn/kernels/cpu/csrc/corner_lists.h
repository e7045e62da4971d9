// The corners of the samples of a tile, listed by the stripe of the input they lie in.
//
// Stripes, a power of two, are dealt out in runs of 16 pixels: each has about as many corners as any other. A stripe keeps
// the order of the taps, pixels and corners: an element of the gradient sums up as it does without stripes.
#pragma once

#include <algorithm>
#include <cstdint>

#include "deform_conv_kernels.h"
#include "workspace.h"

namespace dcn {

// An entry: tap << 10 | pixel << 3 | corner. With two axes, 4 and 5 are corners 0 and 1, 2 and 3 together, which lie in one
// run.
constexpr int corner_pair = 4;

// Memory of the lists of one tile and offset group.
struct CornerRoom {
    Room<int32_t> list;   // [corners * taps * room] entries
    Room<int32_t> start;  // [stripes + 1] of each stripe in `list`
};

// body(stripe, entry) for all corners, in their order.
template <class T, class F>
void each_corner(const SamplingPlan<T>& plan, int64_t stripes, F&& body) {
    const int64_t corners = int64_t{1} << plan.axes, plane = plan.taps * plan.room;
    const auto run = [](int32_t pixel) { return pixel >> 4; };
    for (int64_t t = 0; t < plan.taps; ++t) {
        for (int64_t p = 0; p < plan.pixels; ++p) {
            const int32_t* index = plan.index + t * plan.room + p;
            const auto entry = static_cast<int32_t>(t << 10 | p << 3);
            for (int64_t j = 0; j < corners; ++j) {
                const int32_t pixel = index[j * plane];
                if (pixel < 0) continue;
                if (plan.axes == 2 && j % 2 == 0 && index[(j + 1) * plane] >= 0 && run(index[(j + 1) * plane]) == run(pixel)) {
                    body(run(pixel) & (stripes - 1), entry | static_cast<int32_t>(corner_pair + j / 2));
                    ++j;
                } else {
                    body(run(pixel) & (stripes - 1), entry | static_cast<int32_t>(j));
                }
            }
        }
    }
}

template <class T>
void sort_corners(const SamplingPlan<T>& plan, int64_t stripes, int32_t* list, int32_t* start) {
    std::fill_n(start, stripes + 1, 0);
    each_corner(plan, stripes, [&](int64_t s, int32_t) { ++start[s + 1]; });
    for (int64_t s = 0; s < stripes; ++s) start[s + 1] += start[s];
    each_corner(plan, stripes, [&](int64_t s, int32_t corner) { list[start[s]++] = corner; });
    for (int64_t s = stripes; s > 0; --s) start[s] = start[s - 1];
    start[0] = 0;
}

}  // namespace dcn
