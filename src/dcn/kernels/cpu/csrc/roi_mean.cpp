// The averaging RoI poolings (RoIAlign, position-sensitive, deformable), forward and backward.
//
// Where samples lie is the matter of roi_grid.h. Rows and columns of a bin's samples are independent, so its bilinear
// samples collapse into weights of rows times weights of columns. With 4 x 4 samples
// of a bin of 2 x 2 pixels that leaves about 12 pixels to read instead of 64 corners.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <vector>

#include "integers.h"
#include "parallel.h"
#include "roi_grid.h"
#include "roi_mean.h"
#include "status.h"
#include "tables.h"

namespace dcn {
namespace {

const RoiMeanTable& table() { return DCN_FOR_ISA(roi_mean_table)(); }

template <class T>
const RoiMeanLoops<T>& loops() {
    if constexpr (std::is_same_v<T, float>) {
        return table().f32;
    } else {
        return table().f64;
    }
}

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
          index_(lines_.size() * most_),
          weights_(lines_.size() * most_ * 2) {}

    void load(int64_t roi) {
        roi_ = roi;
        if (call_.offset) return;
        for (int64_t i = 0; i < static_cast<int64_t>(lines_.size()); ++i) make(i, 0, i, i);
    }

    // Valid until the next call.
    const Lines<T>& at(int64_t k, int64_t p, int64_t q) {
        if (!call_.offset) return lines_[axis_ == 0 ? p : q];
        make(0, k, p, q);
        return lines_[0];
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
        for (int64_t i = 0; i < height; ++i) {
            const T weight = rows->weight[i] * factor;
            for (int64_t j = 0; j < width; ++j) {
                offsets[i * width + j] = rows->index[i] * pixel_y_ + columns->index[j] * pixel_x_;
                weights[i * width + j] = weight * columns->weight[j];
            }
        }
    }

    const DcnRoiCall& call_;
    const RoiGrid<T>& grid_;
    AxisLines<T> rows_, columns_;
    bool grouped_;
    std::vector<int64_t> cells_;  // [P, Q] channel group that a bin reads
    int64_t roi_ = 0, pixel_y_ = 0, pixel_x_ = 0;
};

// Not a copy per worker of one: lines point into their owner.
template <class T>
std::vector<std::unique_ptr<Roi<T>>> make_workers(const DcnRoiCall& call, const RoiGrid<T>& grid) {
    std::vector<std::unique_ptr<Roi<T>>> workers;
    for (int64_t i = 0; i < call.threads; ++i) workers.push_back(std::make_unique<Roi<T>>(call, grid));
    return workers;
}

template <class T>
T weighted(const T* plane, const Roi<T>& roi) {
    T sum = 0;
    for (size_t tap = 0; tap < roi.offsets.size(); ++tap) sum += roi.weights[tap] * plane[roi.offsets[tap]];
    return sum;
}

template <class F>
void each_bin(const DcnRoiCall& call, F&& body) {
    for (int64_t k = 0; k < call.classes; ++k)
        for (int64_t p = 0; p < call.bins_y; ++p)
            for (int64_t q = 0; q < call.bins_x; ++q) body(k, p, q);
}

// Channels that all bins of a RoI are read for before the next ones follow: 49 bins of them stay in the L1 cache until
// they are turned round into the output. 300 RoIs of 256 channels took 4.2 ms so, 4.9 with all channels at once and 6.3
// with 64.
constexpr int64_t run_channels = 128;

// The taps of all bins of one class of a RoI, one bin after the other.
template <class T>
struct BinTaps {
    std::vector<int64_t> offsets, starts;  // bin i has the taps starts[i] to starts[i + 1]
    std::vector<T> weights, pooled;        // pooled: [bins, run_channels]

    void collect(const DcnRoiCall& call, Roi<T>& roi, int64_t k) {
        offsets.clear();
        weights.clear();
        starts.assign(1, 0);
        for (int64_t p = 0; p < call.bins_y; ++p) {
            for (int64_t q = 0; q < call.bins_x; ++q) {
                roi.bin(k, p, q);
                offsets.insert(offsets.end(), roi.offsets.begin(), roi.offsets.end());
                weights.insert(weights.end(), roi.weights.begin(), roi.weights.end());
                starts.push_back(static_cast<int64_t>(offsets.size()));
            }
        }
        pooled.resize((starts.size() - 1) * run_channels);
    }

    // out[channel * bins + bin] of `channels` channels from `data` on.
    void pool(const T* data, int64_t channels, T* out) {
        const int64_t bins = static_cast<int64_t>(starts.size()) - 1;
        for (int64_t i = 0; i < bins; ++i) {
            const int64_t start = starts[i];
            loops<T>().gather(&pooled[i * run_channels], data, offsets.data() + start, weights.data() + start,
                              starts[i + 1] - start, channels);
        }
        layout<T>().scatter(pooled.data(), run_channels, channels, bins, out, bins, 1, nullptr, false);
    }
};

// False when a RoI names an image that does not exist; nothing is computed then.
template <class T>
bool forward(const DcnRoiCall& call, T* output) {
    const RoiGrid<T> grid(call);
    if (grid.missing) return false;
    const int64_t bins = call.bins_y * call.bins_x, per_class = call.channels / call.classes;
    const T* data = static_cast<const T*>(call.data);
    const auto workers = make_workers<T>(call, grid);
    std::vector<BinTaps<T>> taps(call.threads);
    dcn_parallel_for(call.rois, static_cast<int>(call.threads), [&](int64_t r, int worker) {
        Roi<T>& roi = *workers[worker];
        T* out = output + r * call.channels * bins;
        roi.load(r);
        if (call.group_y * call.group_x > 1) {
            each_bin(call, [&](int64_t k, int64_t p, int64_t q) {
                if (per_class == 1) {
                    const T value = roi.read(data + roi.base(k, p, q), k, p, q, false).value;
                    const bool empty = roi.rows->size == 0 || roi.columns->size == 0;
                    out[k * bins + p * call.bins_x + q] = empty ? T(0) : value * (roi.scale * roi.modulation);
                    return;
                }
                roi.bin(k, p, q);
                for (int64_t d = k * per_class; d < (k + 1) * per_class; ++d) {
                    out[d * bins + p * call.bins_x + q] = weighted(data + roi.base(d, p, q), roi);
                }
            });
            return;
        }
        for (int64_t k = 0; k < call.classes; ++k) {
            taps[worker].collect(call, roi, k);
            const int64_t end = (k + 1) * per_class;
            for (int64_t d = k * per_class; d < end; d += run_channels) {
                taps[worker].pool(data + roi.base(d, 0, 0), std::min(run_channels, end - d), out + d * bins);
            }
        }
    });
    return true;
}

// Channels of one task of backward_input. Without groups they are multiples of 64, so that which channel meets which
// code, and with it the last digit, does not depend on the number of threads. With groups every channel meets the same
// code, and few tasks are better: each makes the lines of all its RoIs. A step of R-FCN with deformable pooling, 8 x 100
// RoIs, one thread: 52 + 42 ms of it with a task for each channel, 12 + 13 with one for each image.
int64_t channel_chunk(const DcnRoiCall& call) {
    const bool grouped = call.group_y * call.group_x > 1;
    const int64_t parts = std::max<int64_t>(1, call.threads * 2 / std::max<int64_t>(1, call.images));
    if (grouped) return std::max<int64_t>(1, ceil_div(call.channels, parts));
    return std::max<int64_t>(64, round_up(call.channels / parts, 64));
}

// Each task owns some channels of one image and takes the RoIs in their order: no two threads ever add to one element,
// and the order of the sum does not depend on their number.
template <class T>
void backward_input(const DcnRoiCall& call, const T* grad_output, T* grad_data) {
    const RoiGrid<T> grid(call);
    const int64_t bins = call.bins_y * call.bins_x, per_class = call.channels / call.classes;
    const bool grouped = call.group_y * call.group_x > 1;
    const int64_t chunk = channel_chunk(call);
    const int64_t chunks = ceil_div(call.channels, chunk);
    const auto& loop = loops<T>();
    const auto workers = make_workers<T>(call, grid);
    std::vector<std::vector<T>> turned(call.threads, std::vector<T>(grouped ? 0 : bins * chunk));
    dcn_parallel_for(call.images * chunks, static_cast<int>(call.threads), [&](int64_t task, int worker) {
        Roi<T>& roi = *workers[worker];
        const int64_t image = task / chunks, begin = task % chunks * chunk;
        const int64_t end = std::min(begin + chunk, call.channels);
        for (int64_t r = 0; r < call.rois; ++r) {
            if (grid.image[r] != image) continue;
            roi.load(r);
            const T* grad = grad_output + r * call.channels * bins;
            T* by_bin = turned[worker].data();
            if (!grouped) layout<T>().gather(grad + begin * bins, bins, 1, end - begin, bins, by_bin, chunk);
            each_bin(call, [&](int64_t k, int64_t p, int64_t q) {
                const int64_t first = std::max(begin, k * per_class), last = std::min(end, (k + 1) * per_class);
                const int64_t location = p * call.bins_x + q;
                if (first >= last) return;
                if (grouped && per_class == 1) {
                    roi.spread(grad_data + roi.base(k, p, q), k, p, q, grad[k * bins + location]);
                    return;
                }
                if (!roi.bin(k, p, q)) return;
                const int64_t taps = static_cast<int64_t>(roi.offsets.size());
                if (!grouped) {
                    loop.scatter(grad_data + roi.base(first, p, q), roi.offsets.data(), roi.weights.data(), taps,
                                 by_bin + location * chunk + first - begin, last - first);
                    return;
                }
                for (int64_t d = first; d < last; ++d) {
                    T* plane = grad_data + roi.base(d, p, q);
                    for (int64_t tap = 0; tap < taps; ++tap)
                        plane[roi.offsets[tap]] += roi.weights[tap] * grad[d * bins + location];
                }
            });
        }
    });
}

// gains[tap] = sum over the bin's channels of gradient * value.
template <class T>
void gains(const DcnRoiCall& call, const Roi<T>& roi, const T* data, const T* grad, const T* by_bin, int64_t k,
           int64_t p, int64_t q, std::vector<T>& result) {
    const int64_t bins = call.bins_y * call.bins_x, per_class = call.channels / call.classes;
    const int64_t taps = static_cast<int64_t>(roi.offsets.size()), first = k * per_class, location = p * call.bins_x + q;
    result.assign(taps, 0);
    if (by_bin) {
        loops<T>().dots(result.data(), data + roi.base(first, p, q), roi.offsets.data(), taps,
                        by_bin + location * call.channels + first, per_class);
        return;
    }
    for (int64_t d = first; d < first + per_class; ++d) {
        const T* plane = data + roi.base(d, p, q);
        for (int64_t tap = 0; tap < taps; ++tap) result[tap] += plane[roi.offsets[tap]] * grad[d * bins + location];
    }
}

// Gradients of the offset and of the mask [R, P, Q], both zeroed by the caller; either may be null.
template <class T>
void backward_locations(const DcnRoiCall& call, const T* grad_output, T* grad_offset, T* grad_mask) {
    const RoiGrid<T> grid(call);
    const int64_t bins = call.bins_y * call.bins_x, per_class = call.channels / call.classes;
    const T* data = static_cast<const T*>(call.data);
    const bool grouped = call.group_y * call.group_x > 1;
    const auto workers = make_workers<T>(call, grid);
    std::vector<std::vector<T>> turned(call.threads, std::vector<T>(grouped ? 0 : bins * call.channels));
    std::vector<std::vector<T>> results(call.threads);
    dcn_parallel_for(call.rois, static_cast<int>(call.threads), [&](int64_t r, int worker) {
        Roi<T>& roi = *workers[worker];
        const T* grad = grad_output + r * call.channels * bins;
        T* by_bin = grouped ? nullptr : turned[worker].data();
        if (by_bin) layout<T>().gather(grad, bins, 1, call.channels, bins, by_bin, call.channels);
        roi.load(r);
        each_bin(call, [&](int64_t k, int64_t p, int64_t q) {
            const int64_t location = p * call.bins_x + q;
            T value = 0, right = 0, down = 0;
            if (grouped && per_class == 1) {
                const auto reading = roi.read(data + roi.base(k, p, q), k, p, q, true);
                const T own = grad[k * bins + location];
                value = reading.value * own, right = reading.right * own, down = reading.down * own;
            } else {
                if (roi.bin(k, p, q)) gains(call, roi, data, grad, by_bin, k, p, q, results[worker]);
                const T* gain = results[worker].data();
                for (int64_t i = 0; i < roi.rows->size; ++i) {
                    for (int64_t j = 0; j < roi.columns->size; ++j, ++gain) {
                        value += *gain * roi.rows->weight[i] * roi.columns->weight[j];
                        right += *gain * roi.rows->weight[i] * roi.columns->slope[j];
                        down += *gain * roi.rows->slope[i] * roi.columns->weight[j];
                    }
                }
            }
            const T factor = roi.scale * roi.modulation;
            if (grad_offset) grad_offset[grid.offset_index(r, 0, k, p, q)] += down * factor * grid.unit(r, 0);
            if (grad_offset) grad_offset[grid.offset_index(r, 1, k, p, q)] += right * factor * grid.unit(r, 1);
            if (grad_mask) grad_mask[r * bins + location] += value * roi.scale;
        });
    });
}

}  // namespace
}  // namespace dcn

DCN_EXPORT int dcn_roi_mean_forward(const DcnRoiCall* call, void* output) {
    return dcn_guard_images([&] {
        return call->is_double ? dcn::forward(*call, static_cast<double*>(output))
                               : dcn::forward(*call, static_cast<float*>(output));
    });
}

// grad_data has the layout of `data` and is zero on entry.
DCN_EXPORT int dcn_roi_mean_backward_input(const DcnRoiCall* call, const void* grad_output, void* grad_data) {
    return dcn_guard([&] {
        if (call->is_double) {
            dcn::backward_input(*call, static_cast<const double*>(grad_output), static_cast<double*>(grad_data));
        } else {
            dcn::backward_input(*call, static_cast<const float*>(grad_output), static_cast<float*>(grad_data));
        }
    });
}

DCN_EXPORT int dcn_roi_mean_backward_locations(const DcnRoiCall* call, const void* grad_output, void* grad_offset,
                                               void* grad_mask) {
    return dcn_guard([&] {
        if (call->is_double) {
            dcn::backward_locations(*call, static_cast<const double*>(grad_output), static_cast<double*>(grad_offset),
                                    static_cast<double*>(grad_mask));
        } else {
            dcn::backward_locations(*call, static_cast<const float*>(grad_output), static_cast<float*>(grad_offset),
                                    static_cast<float*>(grad_mask));
        }
    });
}
