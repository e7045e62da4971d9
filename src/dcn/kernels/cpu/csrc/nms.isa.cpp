#include "nms.h"

namespace dcn {
namespace DCN_ISA {
namespace {

// Compared in blocks: one vector loop without a branch, then a look whether anything was found.
constexpr int64_t kBlock = 64;

template <class T>
inline T overlap(const NmsBoxes<T>& kept, int64_t i, const NmsBox<T>& box, T extra) {
    const T left = kept.x1[i] > box.x1 ? kept.x1[i] : box.x1, right = kept.x2[i] < box.x2 ? kept.x2[i] : box.x2;
    const T top = kept.y1[i] > box.y1 ? kept.y1[i] : box.y1, bottom = kept.y2[i] < box.y2 ? kept.y2[i] : box.y2;
    T width = right - left + extra, height = bottom - top + extra;
    width = width > 0 ? width : 0;
    height = height > 0 ? height : 0;
    const T shared = width * height;
    // 0/0, infinity and NaN compare false: such boxes suppress nothing.
    return shared / (kept.area[i] + box.area - shared);
}

template <class T, bool Equal>
int suppressed_in(const NmsBoxes<T>& kept, int64_t begin, int64_t end, const NmsBox<T>& box, T threshold, T extra) {
    int found = 0;
    for (int64_t i = begin; i < end; ++i) {
        const T value = overlap(kept, i, box, extra);
        found |= Equal ? value >= threshold : value > threshold;
    }
    return found;
}

template <class T>
bool any(const NmsBoxes<T>& kept, const NmsBox<T>& box, T threshold, T extra, bool equal) {
    for (int64_t begin = 0; begin < kept.count; begin += kBlock) {
        const int64_t end = begin + kBlock < kept.count ? begin + kBlock : kept.count;
        const int found = equal ? suppressed_in<T, true>(kept, begin, end, box, threshold, extra)
                                : suppressed_in<T, false>(kept, begin, end, box, threshold, extra);
        if (found) return true;
    }
    return false;
}

}  // namespace

const NmsTable& nms_table() {
    static const NmsTable table = {any<float>, any<double>};
    return table;
}

}  // namespace DCN_ISA
}  // namespace dcn
