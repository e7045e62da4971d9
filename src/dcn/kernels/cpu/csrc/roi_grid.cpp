#include "roi_grid.h"

#include <algorithm>
#include <cmath>

namespace dcn {
namespace {

constexpr double most_samples = 16777216;  // float holds whole numbers up to here

template <class T>
T clamp(T value, T low, T high) {
    return std::min(std::max(value, low), high);
}

template <class T>
void corner(RoiForm form, T low, T high, T scale, RoiSpan<T>& span) {
    switch (form) {
        case RoiForm::align:
            span.start = low * scale;
            span.size = std::max(high * scale - span.start, T(1));
            break;
        case RoiForm::half_pixel:
            span.start = low * scale - T(0.5);
            span.size = high * scale - T(0.5) - span.start;
            break;
        case RoiForm::cells_after:
            span.start = round_half_away(low * scale);
            span.size = std::max(round_half_away(high * scale) - span.start, T(1));
            break;
        default: {
            const T shift = form == RoiForm::parts ? T(0.5) : T(0);
            span.start = round_half_away(low) * scale - shift;
            span.size = std::max((round_half_away(high) + 1) * scale - shift - span.start, T(0.1));
        }
    }
}

// Part of each bin: floor(p / bins * parts) in float, as the published code has it.
std::vector<int64_t> part_index(int64_t bins, int64_t parts) {
    std::vector<int64_t> result(bins);
    for (int64_t p = 0; p < bins; ++p) {
        const float share = static_cast<float>(p) / static_cast<float>(bins) * static_cast<float>(parts);
        result[p] = clamp<int64_t>(static_cast<int64_t>(std::floor(share)), 0, parts - 1);
    }
    return result;
}

}  // namespace

template <class T>
RoiGrid<T>::RoiGrid(const DcnRoiCall& call)
    : image(call.rois), spans(call.rois * 2), call_(call), form_(static_cast<RoiForm>(call.form)) {
    margin = form_ == RoiForm::parts ? T(0.5) : form_ <= RoiForm::half_pixel ? T(1) : T(0);
    flat = form_ > RoiForm::half_pixel;
    counted = form_ == RoiForm::parts;
    if (call.offset) {
        part_y_ = part_index(call.bins_y, call.parts_y);
        part_x_ = part_index(call.bins_x, call.parts_x);
    }
    const T scale = static_cast<T>(call.spatial_scale);
    for (int64_t r = 0; r < call.rois; ++r) {
        const T* box = static_cast<const T*>(call.boxes) + r * 5;
        RoiSpan<T>*rows = &spans[2 * r], *columns = rows + 1;
        corner(form_, box[2], box[4], scale, *rows);
        corner(form_, box[1], box[3], scale, *columns);
        const bool there = box[0] >= 0 && box[0] < static_cast<T>(call.images);
        missing = missing || !there;
        bool valid = there && std::isfinite(rows->start) && std::isfinite(rows->size) &&
                     std::isfinite(columns->start) && std::isfinite(columns->size);
        for (int i = 1; i < 5; ++i) valid = valid && std::isfinite(box[i]);
        image[r] = valid ? static_cast<int64_t>(box[0]) : 0;
        if (!valid) {
            *rows = *columns = RoiSpan<T>{};
            continue;
        }
        prepare(r, 0);
        prepare(r, 1);
    }
}

template <class T>
void RoiGrid<T>::prepare(int64_t roi, int axis) {
    RoiSpan<T>& span = spans[2 * roi + axis];
    const int64_t bins = axis == 0 ? call_.bins_y : call_.bins_x, extent = axis == 0 ? call_.height : call_.width;
    span.bin = span.size / static_cast<T>(bins);
    if (form_ == RoiForm::cells_first || form_ == RoiForm::cells_after) {
        span.most = 1;
        for (int64_t i = 0; i < bins; ++i) most[axis] = std::max(most[axis], samples(roi, axis, 0, i, i).count);
        return;
    }
    const T given = static_cast<T>(call_.samples);
    if (call_.samples > 0) {
        span.many = given;
        span.most = call_.samples;
    } else {
        span.many = clamp(std::ceil(span.bin), T(0), static_cast<T>(most_samples));
        span.most = std::min(static_cast<int64_t>(span.many), 2 * extent + 6);
    }
    span.step = span.many > 0 ? span.bin / span.many : T(0);
    most[axis] = std::max(most[axis], span.most);
}

template <class T>
RoiSamples<T> RoiGrid<T>::samples(int64_t roi, int axis, int64_t k, int64_t p, int64_t q) const {
    const RoiSpan<T>& span = spans[2 * roi + axis];
    const T index = static_cast<T>(axis == 0 ? p : q);
    const int64_t extent = axis == 0 ? call_.height : call_.width;
    if (form_ == RoiForm::cells_first || form_ == RoiForm::cells_after) {
        if (span.most == 0) return {0, 1, 0, 0};
        const bool first = form_ == RoiForm::cells_first;
        const T last = static_cast<T>(first ? extent : extent - 1), start = span.start;
        const T low = first ? std::floor(index * span.bin + start) : std::floor(index * span.bin) + start;
        const T high = first ? std::ceil((index + 1) * span.bin + start) : std::ceil((index + 1) * span.bin) + start;
        const T begin = clamp(low, T(0), last), count = std::max(clamp(high, T(0), last) - begin, T(0));
        return {begin, 1, count, static_cast<int64_t>(count)};
    }
    T origin = span.start + index * span.bin;
    if (call_.offset) {
        const T move = static_cast<const T*>(call_.offset)[offset_index(roi, axis, k, p, q)];
        origin += move * static_cast<T>(call_.gamma) * span.size;
    }
    if (form_ == RoiForm::parts) return {origin, span.step, span.many, span.most};
    // Samples far before the map count as 0 unread.
    const T spare = std::max(span.many - static_cast<T>(span.most), T(0));
    T first = std::floor((-1 - origin) / span.step - T(0.5));
    first = std::isnan(first) ? T(0) : clamp(first, T(0), spare);
    return {origin + (first + T(0.5)) * span.step, span.step, span.many, span.most};
}

template class RoiGrid<float>;
template class RoiGrid<double>;

}  // namespace dcn
