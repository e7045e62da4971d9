// What the bins of the averaging RoI poolings read: the samples of a bin, collapsed into lines of the map with weights.
//
// Where samples lie is the matter of roi_grid.h. Rows and columns of a bin's samples are independent, so its bilinear
// samples collapse into weights of rows times weights of columns. With 4 x 4 samples
// of a bin of 2 x 2 pixels that leaves about 12 pixels to read instead of 64 corners.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "roi_grid.h"

namespace dcn {

// What one bin reads along one axis: lines of the map, their weights, and how these change as the bin moves.
template <class T>
struct Lines {
    int64_t size = 0, samples = 0;  // samples: how many count
    T many = 0;                     // what a mean divides by unless it is those
    int64_t* index = nullptr;
    T *weight = nullptr, *slope = nullptr;
};

// The lines of the bins of one RoI along one axis. Offsets move every bin of every class on its own: its lines are made
// when they are asked for. Kept for the whole RoI, those of 7 x 7 bins of 7 classes would leave the first-level cache.
template <class T>
class AxisLines {
public:
    AxisLines(const DcnRoiCall& call, const RoiGrid<T>& grid, int axis)
        : call_(call),
          grid_(grid),
          axis_(axis),
          last_((axis == 0 ? call.height : call.width) - 1),
          most_(std::min(last_ + 1, 2 * grid.most[axis])),
          low_(-grid.margin),
          high_(static_cast<T>(last_) + grid.margin),
          slots_(last_ + 1, -1),
          lines_(call.offset ? 1 : axis == 0 ? call.bins_y : call.bins_x),
          made_(lines_.size(), -1),
          index_(lines_.size() * most_),
          weights_(lines_.size() * most_ * 2) {}

    void load(int64_t roi) { roi_ = roi; }

    // Valid until the next call.
    const Lines<T>& at(int64_t k, int64_t p, int64_t q) {
        const int64_t i = call_.offset ? 0 : axis_ == 0 ? p : q;
        if (call_.offset || made_[i] != roi_) {
            make(i, k, p, q);
            made_[i] = roi_;
        }
        return lines_[i];
    }

private:
    void make(int64_t i, int64_t k, int64_t p, int64_t q) {
        const RoiSamples<T> samples = grid_.samples(roi_, axis_, k, p, q);
        lines_[i] = {0, 0, samples.many, &index_[i * most_], &weights_[2 * i * most_], &weights_[(2 * i + 1) * most_]};
        if (close(samples)) {
            collapse_close(samples, lines_[i]);
        } else {
            collapse(samples, lines_[i]);
        }
    }

    // body(line, weight, slope) for the one or two lines of every sample that counts.
    template <class F>
    void each_line(const RoiSamples<T>& samples, Lines<T>& lines, F&& body) const {
        for (int64_t i = 0; i < samples.count; ++i) {
            const T location = samples.origin + static_cast<T>(i) * samples.step;
            if (!(location >= low_ && location <= high_)) continue;
            ++lines.samples;
            // A sample held at the border does not move with the bin.
            if (location <= 0 || location >= static_cast<T>(last_)) {
                body(location <= 0 ? 0 : last_, T(1), T(0));
                continue;
            }
            const int64_t low = static_cast<int64_t>(location);
            const T fraction = location - static_cast<T>(low);
            const T slope = grid_.flat && fraction == 0 ? 0 : 1;
            body(low, 1 - fraction, -slope);
            if (slope != 0) body(low + 1, fraction, slope);
        }
    }

    // The same sums in the same order for samples at most a line apart and off the border: their lines have no gap, so
    // nothing is searched for, and nothing depends on where a sample lies.
    void collapse_close(const RoiSamples<T>& samples, Lines<T>& lines) const {
        const int64_t first = static_cast<int64_t>(samples.origin);
        const int64_t end = static_cast<int64_t>(last_location(samples)) + 2;
        lines.samples = samples.count;
        lines.size = end - first;
        for (int64_t i = 0; i < lines.size; ++i) {
            lines.index[i] = first + i;
            lines.weight[i] = lines.slope[i] = 0;
        }
        T fraction = 0;
        for (int64_t i = 0; i < samples.count; ++i) {
            const T location = samples.origin + static_cast<T>(i) * samples.step;
            const int64_t low = static_cast<int64_t>(location), slot = low - first;
            fraction = location - static_cast<T>(low);
            const T slope = grid_.flat && fraction == 0 ? 0 : 1;
            lines.weight[slot] += 1 - fraction;
            lines.slope[slot] -= slope;
            lines.weight[slot + 1] += fraction;
            lines.slope[slot + 1] += slope;
        }
        // What lies beyond a last sample at a whole coordinate is not read.
        if (grid_.flat && fraction == 0) --lines.size;
    }

    bool close(const RoiSamples<T>& samples) const {
        return samples.count > 0 && samples.step >= 0 && samples.step <= 1 && samples.origin > 0 &&
               last_location(samples) < static_cast<T>(last_);
    }

    static T last_location(const RoiSamples<T>& samples) {
        return samples.origin + static_cast<T>(samples.count - 1) * samples.step;
    }

    void collapse(const RoiSamples<T>& samples, Lines<T>& lines) {
        each_line(samples, lines, [&](int64_t line, T weight, T slope) { add(lines, line, weight, slope); });
        for (int64_t i = 0; i < lines.size; ++i) slots_[lines.index[i]] = -1;
    }

    void add(Lines<T>& lines, int64_t line, T weight, T slope) {
        int64_t& slot = slots_[line];
        if (slot < 0) {
            slot = lines.size++;
            lines.index[slot] = line;
            lines.weight[slot] = weight;
            lines.slope[slot] = slope;
        } else {
            lines.weight[slot] += weight;
            lines.slope[slot] += slope;
        }
    }

    const DcnRoiCall& call_;
    const RoiGrid<T>& grid_;
    int axis_;
    int64_t roi_ = 0, last_, most_;
    T low_, high_;
    std::vector<int64_t> slots_;  // where each line of the map went; -1 between bins
    std::vector<Lines<T>> lines_;
    std::vector<int64_t> made_;  // the RoI that lines are of
    std::vector<int64_t> index_;
    std::vector<T> weights_;
};

// One worker's view of one RoI at a time.
template <class T>
class Roi {
public:
    Roi(const DcnRoiCall& call, const RoiGrid<T>& grid)
        : call_(call),
          grid_(grid),
          rows_(call, grid, 0),
          columns_(call, grid, 1),
          grouped_(call.group_y * call.group_x > 1) {
        pixel_y_ = grouped_ ? call.width : call.width * call.channels;
        pixel_x_ = grouped_ ? 1 : call.channels;
        for (int64_t p = 0; p < call.bins_y; ++p)
            for (int64_t q = 0; q < call.bins_x; ++q)
                cells_.push_back(p * call.group_y / call.bins_y * call.group_x + q * call.group_x / call.bins_x);
    }

    void load(int64_t roi) {
        roi_ = roi;
        rows_.load(roi);
        columns_.load(roi);
    }

    // Of what bins read, `bin` takes the pixels [first, end) only; all of them where these are the whole map.
    void limit(int64_t first, int64_t end) {
        first_ = first;
        end_ = end - first < call_.height * call_.width ? end : std::numeric_limits<int64_t>::max();
    }

    // Of a bin of any column, where there are no offsets: whether row `p` of the bins reads pixels of the limit.
    bool reaches(int64_t p) {
        const Lines<T>& at = rows_.at(0, p, 0);
        for (int64_t i = 0; i < at.size; ++i) {
            if (at.index[i] * call_.width < end_ && (at.index[i] + 1) * call_.width > first_) return true;
        }
        return false;
    }

    // Prepares the taps of a bin; false when it reads nothing.
    bool bin(int64_t k, int64_t p, int64_t q) {
        find(k, p, q);
        taps(scale * modulation);
        return !offsets.empty();
    }

    // Where a bin reads a single plane, the three that follow take the place of a list of its taps: R-FCN's 8 x 100 RoIs
    // of 7 classes with offsets of their own took 2.4 times as long with it forward, and 1.5 times backward.

    // What the mean of a bin is, and how it changes as the bin moves; without `scale` and `modulation`.
    struct Reading {
        T value = 0, down = 0, right = 0;
    };
    Reading read(const T* plane, int64_t k, int64_t p, int64_t q, bool slopes) {
        find(k, p, q);
        Reading result;
        for (int64_t i = 0; i < rows->size; ++i) {
            const T* line = plane + rows->index[i] * pixel_y_;
            T along = 0, across = 0;
            for (int64_t j = 0; j < columns->size; ++j) {
                const T pixel = line[columns->index[j]];
                along += columns->weight[j] * pixel;
                if (slopes) across += columns->slope[j] * pixel;
            }
            result.value += rows->weight[i] * along;
            result.right += rows->weight[i] * across;
            result.down += rows->slope[i] * along;
        }
        if (columns->size == 0) result = {};
        return result;
    }

    // Adds the gradient of a bin's mean to the plane's.
    void spread(T* plane, int64_t k, int64_t p, int64_t q, T grad) {
        find(k, p, q);
        const T factor = scale * modulation * grad;
        for (int64_t i = 0; i < rows->size; ++i) {
            T* line = plane + rows->index[i] * pixel_y_;
            const T weight = rows->weight[i] * factor;
            for (int64_t j = 0; j < columns->size; ++j) line[columns->index[j]] += weight * columns->weight[j];
        }
    }

    // First data element of the image, at channel `d` of the output (with groups: the channel that bin (p, q) reads).
    int64_t base(int64_t d, int64_t p, int64_t q) const {
        const int64_t plane = call_.height * call_.width, groups = call_.group_y * call_.group_x;
        const int64_t start = grid_.image[roi_] * call_.channels * groups * plane;
        if (!grouped_) return start + d;
        return start + (d * groups + cells_[p * call_.bins_x + q]) * plane;
    }

    const Lines<T>* rows = nullptr;
    const Lines<T>* columns = nullptr;
    T scale = 0, modulation = 1;
    std::vector<int64_t> offsets;
    std::vector<T> weights;

private:
    void find(int64_t k, int64_t p, int64_t q) {
        const int64_t location = (roi_ * call_.bins_y + p) * call_.bins_x + q;
        rows = &rows_.at(k, p, q);
        columns = &columns_.at(k, p, q);
        const int64_t samples = rows->samples * columns->samples;
        if (grid_.counted) {
            scale = samples ? 1 / static_cast<T>(samples) : T(0);
        } else {
            scale = 1 / std::max(rows->many * columns->many, T(1));
        }
        modulation = call_.mask ? static_cast<const T*>(call_.mask)[location] : T(1);
    }

    void taps(T factor) {
        const int64_t height = rows->size, width = columns->size;
        offsets.resize(height * width);
        weights.resize(height * width);
        if (end_ < std::numeric_limits<int64_t>::max()) return limited_taps(factor);
        for (int64_t i = 0; i < height; ++i) {
            const T weight = rows->weight[i] * factor;
            for (int64_t j = 0; j < width; ++j) {
                offsets[i * width + j] = rows->index[i] * pixel_y_ + columns->index[j] * pixel_x_;
                weights[i * width + j] = weight * columns->weight[j];
            }
        }
    }

    void limited_taps(T factor) {
        const int64_t height = rows->size, width = columns->size;
        int64_t count = 0;
        for (int64_t i = 0; i < height; ++i) {
            const T weight = rows->weight[i] * factor;
            const int64_t start = rows->index[i] * call_.width;
            if (start >= end_ || start + call_.width <= first_) continue;
            const bool whole = start >= first_ && start + call_.width <= end_;
            for (int64_t j = 0; j < width; ++j) {
                const int64_t pixel = start + columns->index[j];
                if (!whole && (pixel < first_ || pixel >= end_)) continue;
                offsets[count] = rows->index[i] * pixel_y_ + columns->index[j] * pixel_x_;
                weights[count++] = weight * columns->weight[j];
            }
        }
        offsets.resize(count);
        weights.resize(count);
    }

    const DcnRoiCall& call_;
    const RoiGrid<T>& grid_;
    AxisLines<T> rows_, columns_;
    bool grouped_;
    std::vector<int64_t> cells_;  // [P, Q] channel group that a bin reads
    int64_t roi_ = 0, pixel_y_ = 0, pixel_x_ = 0;
    int64_t first_ = 0, end_ = std::numeric_limits<int64_t>::max();
};

}  // namespace dcn
