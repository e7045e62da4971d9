// Greedy non-maximum suppression of boxes that the caller has sorted by score.
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "nms.h"
#include "status.h"

namespace dcn {
namespace {

template <class T>
struct Kept {
    std::vector<T> x1, y1, x2, y2, area;

    NmsBoxes<T> view() const {
        return {x1.data(), y1.data(), x2.data(), y2.data(), area.data(), static_cast<int64_t>(x1.size())};
    }

    void add(const NmsBox<T>& box) {
        x1.push_back(box.x1);
        y1.push_back(box.y1);
        x2.push_back(box.x2);
        y2.push_back(box.y2);
        area.push_back(box.area);
    }
};

template <class T>
NmsAny<T> suppressed() {
    const NmsTable& table = DCN_FOR_ISA(nms_table)();
    if constexpr (sizeof(T) == sizeof(float)) {
        return table.f32;
    } else {
        return table.f64;
    }
}

// A box is compared with the survivors of its own label only, best first: most boxes that fall do so early.
template <class T>
int64_t nms(const T* boxes, const int64_t* labels, int64_t count, T threshold, bool plus_one, bool equal, int64_t most,
            int64_t* kept_index) {
    const NmsAny<T> any = suppressed<T>();
    const T extra = plus_one ? 1 : 0;
    std::unordered_map<int64_t, Kept<T>> by_label;
    int64_t found = 0;
    for (int64_t i = 0; i < count && (most < 0 || found < most); ++i) {
        const T* b = boxes + 4 * i;
        const NmsBox<T> box = {b[0], b[1], b[2], b[3], (b[2] - b[0] + extra) * (b[3] - b[1] + extra)};
        Kept<T>& kept = by_label[labels ? labels[i] : 0];
        if (any(kept.view(), box, threshold, extra, equal)) continue;
        kept.add(box);
        kept_index[found++] = i;
    }
    return found;
}

}  // namespace
}  // namespace dcn

// boxes [count, 4] and labels [count] (or null) in descending order of score; kept has room for `count` indices.
DCN_EXPORT int dcn_nms(const void* boxes, const int64_t* labels, int64_t count, int is_double, double threshold,
                       int plus_one, int equal, int64_t most, int64_t* kept, int64_t* found) {
    return dcn_guard([&] {
        if (is_double) {
            *found = dcn::nms(static_cast<const double*>(boxes), labels, count, threshold, plus_one != 0, equal != 0, most,
                              kept);
        } else {
            *found = dcn::nms(static_cast<const float*>(boxes), labels, count, static_cast<float>(threshold), plus_one != 0,
                              equal != 0, most, kept);
        }
    });
}
