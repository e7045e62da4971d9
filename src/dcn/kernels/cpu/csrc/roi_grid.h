// Where the samples of every bin of every RoI lie: kernels/roi_grid.py, operation by operation, in the same type, so
// that whether a sample at the limit of the map counts is decided in the same way.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

// A call of an averaging pooling. Mirrors _CALL in kernels/cpu/roi_mean.py; every field has 8 bytes. Pointers are
// to float or double as `is_double` says.
struct DcnRoiCall {
    int64_t images, channels, height, width;  // channels: of the output, D
    int64_t rois, classes, bins_y, bins_x;    // R, K, P, Q
    int64_t group_y, group_x;                 // above 1: data are NCHW with D * group_y * group_x channels
    int64_t form, samples;                    // RoiForm; samples per bin and axis, 0 for adaptive
    int64_t parts_y, parts_x;                 // of the offset
    int64_t is_double, threads;
    double spatial_scale, gamma;
    const void* data;                         // NHWC without groups, NCHW with
    const void* boxes;                        // [R, 5]: image, x1, y1, x2, y2
    const void* offset;                       // [R, 2*K, parts_y, parts_x], x before y, or null
    const void* mask;                         // [R, P, Q] or null
};

namespace dcn {

// The order of FORMS in kernels/roi_grid.py.
enum class RoiForm : int64_t { align, half_pixel, cells_first, cells_after, parts };

// C's rounding, halves away from zero, as kernels/roi_grid.py computes it.
template <class T>
T round_half_away(T value) {
    const T whole = std::trunc(value);
    const T sign = value > 0 ? T(1) : value < 0 ? T(-1) : T(0);
    return whole + (std::abs(value - whole) >= T(0.5) ? sign : T(0));
}

// One RoI along one axis.
template <class T>
struct RoiSpan {
    T start = 0, size = 0;  // map pixels
    T bin = 0;              // size of a bin
    T many = 0, step = 0;   // samples per bin, with those outside the map; their distance
    int64_t most = 0;       // samples that are looked at
};

// The samples of one bin along one axis: origin + i * step for i < count; a mean divides by `many`.
template <class T>
struct RoiSamples {
    T origin, step, many;
    int64_t count;
};

template <class T>
class RoiGrid {
public:
    explicit RoiGrid(const DcnRoiCall& call);

    RoiSamples<T> samples(int64_t roi, int axis, int64_t k, int64_t p, int64_t q) const;

    // Map pixels that a bin moves per unit of its offset along an axis (0: rows, 1: columns).
    T unit(int64_t roi, int axis) const { return spans[2 * roi + axis].size * static_cast<T>(call_.gamma); }
    // Index into the offset, and its gradient, of a bin's move along an axis.
    int64_t offset_index(int64_t roi, int axis, int64_t k, int64_t p, int64_t q) const {
        const int64_t plane = (roi * call_.classes + k) * 2 + (axis == 0 ? 1 : 0);
        return (plane * call_.parts_y + part_y_[p]) * call_.parts_x + part_x_[q];
    }

    std::vector<int64_t> image;     // [R], always a valid index
    std::vector<RoiSpan<T>> spans;  // [R, 2] rows, columns
    int64_t most[2] = {0, 0};       // largest count of any bin
    T margin;                       // how far outside the centres of the first and last pixel a sample counts
    bool flat;                      // slope 0 at whole coordinates
    bool counted;                   // a mean divides by the samples that count
    bool missing = false;           // a RoI names an image that does not exist (NaN is none)

private:
    void prepare(int64_t roi, int axis);

    const DcnRoiCall& call_;
    RoiForm form_;
    std::vector<int64_t> part_y_, part_x_;
};

extern template class RoiGrid<float>;
extern template class RoiGrid<double>;

}  // namespace dcn
