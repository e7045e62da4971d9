// The innermost loop of non-maximum suppression, compiled per instruction set (nms.isa.cpp).
#pragma once

#include <cstdint>

#include "isa.h"

namespace dcn {

// Boxes kept so far, one array per coordinate.
template <class T>
struct NmsBoxes {
    const T *x1, *y1, *x2, *y2, *area;
    int64_t count;
};

template <class T>
struct NmsBox {
    T x1, y1, x2, y2, area;
};

template <class T>
using NmsAny = bool (*)(const NmsBoxes<T>& kept, const NmsBox<T>& box, T threshold, T extra, bool equal);

struct NmsTable {
    NmsAny<float> f32;
    NmsAny<double> f64;
};

DCN_DECLARE_ISA(const NmsTable&, nms_table)

}  // namespace dcn
