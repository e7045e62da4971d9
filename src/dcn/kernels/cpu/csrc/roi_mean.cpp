// The averaging RoI poolings (RoIAlign, position-sensitive, deformable), forward and backward. What a bin reads is the
// matter of roi_bins.h.
#include <algorithm>
#include <cstdint>
#include <memory>
#include <type_traits>
#include <vector>

#include "integers.h"
#include "parallel.h"
#include "roi_bins.h"
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
